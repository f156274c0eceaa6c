"""Which records may join the published ones: each problem in a folder made here, and none in the committed results."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from padim_bench import PadimBenchError
from padim_bench.cli import main
from padim_bench.records.files import record_path, write_record
from padim_bench.records.joining import check_folder
from padim_bench.records.runs import RunRecord
from tests.drawn_records import ENVIRONMENT, run_config, run_record

COMMITTED = Path(__file__).parents[2] / "results"
CLEAN = replace(ENVIRONMENT, commit="c" * 40, dirty=False)


def record(category: str = "bottle", seed: int = 0) -> RunRecord:
    made = run_record(run_config(category, seed), environment=CLEAN)
    return replace(made, dataset=replace(made.dataset, official_split=True))


def problems(tmp_path: Path, *records: RunRecord, published: Path | None = None) -> list[str]:
    for one in records:
        write_record(tmp_path / "theirs", one)
    return [line for one in check_folder(tmp_path / "theirs", published) for line in one.problems]


def test_the_committed_results_may_join_themselves() -> None:
    assert [one for one in check_folder(COMMITTED) if not one.sound] == []


def test_a_clean_record_may_join_and_so_may_an_invalid_one(tmp_path: Path) -> None:
    invalid = run_record(run_config(seed=1), invalid="did not return within 10 s", environment=CLEAN)
    assert problems(tmp_path, record(), invalid) == []


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda r: replace(r, environment=replace(CLEAN, commit=None)), "no commit"),
        (lambda r: replace(r, environment=replace(CLEAN, dirty=True)), "with changes to commit ccc"),
        (
            lambda r: replace(r, environment=replace(CLEAN, versions=CLEAN.versions | {"padim-bench": "99.0.0"})),
            "padim-bench 99.0.0 is not known here",
        ),
        (lambda r: replace(r, dataset=replace(r.dataset, official_split=False)), "published numbers of images"),
        (lambda r: replace(r, residual=3e-5), "residual 3e-05 is over 2e-05, the limit in float32"),
        (lambda r: replace(r, residual=None), "residual None"),
        (lambda r: replace(r, backbone_error=0.06), "backbone_error 0.06"),
        (lambda r: replace(r, folding_error=1e-3), "folding_error 0.001"),
        (lambda r: replace(r, weights=replace(r.weights, note="from /home/her/weights")), "weights.note holds a path"),
        (lambda r: replace(r, weights=replace(r.weights, note="from C:\\weights")), "weights.note holds a path"),
        (lambda r: replace(r, weights=replace(r.weights, note="ask a@b.org")), "weights.note holds an address"),
    ],
)
def test_what_keeps_a_record_out_is_said(tmp_path: Path, spoil: Callable[[RunRecord], RunRecord], told: str) -> None:
    (line,) = problems(tmp_path, spoil(record()))
    assert told in line


def test_another_split_or_other_weights_than_the_published_ones_are_told(tmp_path: Path) -> None:
    write_record(tmp_path / "published", record())
    theirs = replace(record(seed=1), dataset=replace(record().dataset, split_digest="e" * 64))
    theirs = replace(theirs, weights=replace(theirs.weights, tensors_sha256="d" * 64))
    theirs = replace(theirs, id=theirs.config.run_id("e" * 64, theirs.weights.identity))
    split, weights = problems(tmp_path, theirs, published=tmp_path / "published")
    assert "the split of mvtec-ad bottle has digest eeeeeeeeeeee, not bbbbbbbbbbbb, the published records'" in split
    assert "the weights of resnet18.tv_in1k has digest dddddddddddd" in weights
    assert problems(tmp_path, theirs) == []  # alone it contradicts nothing


def test_a_file_that_was_edited_or_renamed_is_one_line_and_costs_no_other(tmp_path: Path) -> None:
    path = write_record(tmp_path / "theirs", record())
    other = write_record(tmp_path / "theirs", record("grid"))
    path.write_text(path.read_text().replace("bottle/test/x/000", "bottle/test/x/999"))
    other.rename(other.with_name(f"mine{other.name[-18:]}"))
    edited, renamed = check_folder(tmp_path / "theirs")
    assert "damaged or edited" in edited.problems[0]
    assert str(tmp_path) not in edited.problems[0]
    assert record_path(Path(), record("grid")).name in renamed.problems[0]


def test_a_folder_without_anything_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(PadimBenchError, match=r"padim-bench"):
            check_folder(folder)


def test_the_command_says_a_line_a_file_and_exits_with_2_where_one_may_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_record(tmp_path, record())
    assert main(["check", str(tmp_path)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["ok", "all 1 files may join"]
    write_record(tmp_path, replace(record(seed=1), residual=1.0))
    assert main(["check", str(tmp_path), "--json"]) == 2
    reply = capfd.readouterr()
    assert [one["ok"] for one in json.loads(reply.out)["files"]] == [True, False]
    assert "1 of 2 files may not join" in reply.err


def test_what_was_drawn_joins_no_photographs(tmp_path: Path) -> None:
    made = replace(record(), config=run_config(dataset="demo"))
    made = replace(made, dataset=replace(made.dataset, name="demo", official_split=None))
    made = replace(made, id=made.config.run_id(made.dataset.split_digest, made.weights.identity))
    (line,) = problems(tmp_path, made)
    assert "of demo: demo data" in line
