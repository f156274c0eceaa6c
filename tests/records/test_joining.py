"""Which records may join the published ones: each problem in a folder made here, and none in the committed results."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from padim_bench import PadimBenchError
from padim_bench.cli import main
from padim_bench.data.mvtec_ad import PUBLISHED_SPLITS
from padim_bench.metrics.summary import compute_metrics
from padim_bench.records.files import read_records, record_path, to_json, write_record
from padim_bench.records.joining import check_folder, measurement_problems
from padim_bench.records.runs import RunRecord
from padim_bench.records.sealed import sealed, write_sealed
from tests.drawn_records import ENVIRONMENT, cost, run_config, run_record

COMMITTED = Path(__file__).parents[2] / "results"
CLEAN = replace(ENVIRONMENT, commit="c" * 40, dirty=False)


def record(category: str = "bottle", seed: int = 0) -> RunRecord:
    """One that may join: of the published split, with the metrics of its own scores."""
    made = run_record(run_config(category, seed), environment=CLEAN)
    scores = np.array([one.score for one in made.scores], np.float32)
    found = compute_metrics(np.array([one.label for one in made.scores]), scores)
    metrics = (made.metrics or {}) | {name: value for name, value in found.items() if name.startswith("image_")}
    return identified(replace(made, metrics=metrics), split_digest=PUBLISHED_SPLITS.get(category, "b" * 64))


def identified(made: RunRecord, **dataset: object) -> RunRecord:
    """The record with its dataset changed, and the id that it then has."""
    made = replace(made, dataset=replace(made.dataset, **dataset))
    return replace(made, id=made.config.run_id(made.dataset.split_digest, made.weights.identity))


def problems(tmp_path: Path, *records: RunRecord, published: Path | None = None) -> list[str]:
    for one in records:
        write_record(tmp_path / "theirs", one)
    return [line for one in check_folder(tmp_path / "theirs", published) for line in one.problems]


def test_the_committed_results_may_join_themselves() -> None:
    assert [one for one in check_folder(COMMITTED) if not one.sound] == []


def test_a_clean_record_may_join_and_so_may_an_invalid_one(tmp_path: Path) -> None:
    invalid = run_record(run_config(seed=1), invalid="did not return within 10 s", environment=CLEAN)
    assert problems(tmp_path, record(), identified(invalid, split_digest=PUBLISHED_SPLITS["bottle"])) == []


def test_the_published_splits_are_those_of_the_published_records() -> None:
    found = {(r.dataset.category, r.dataset.split_digest) for _, r in read_records(COMMITTED).values()}
    assert found == set(PUBLISHED_SPLITS.items())


def test_of_a_category_that_nobody_published_only_the_numbers_of_images_are_looked_at(tmp_path: Path) -> None:
    write_record(tmp_path, record("carpet"))
    (one,) = check_folder(tmp_path)
    assert one.sound
    assert "of carpet only the numbers of images are known, not the digest" in one.notes[0]


def resealed(path: Path, change: Callable[[str], str]) -> None:
    """The file with its text changed and a seal that fits, as somebody who knows how would leave it."""
    text = "{\n" + path.read_text(encoding="utf-8").split("\n", 2)[2]
    assert change(text) != text
    path.write_text(sealed(change(text)), encoding="utf-8")


def of(**environment: object) -> Callable[[RunRecord], RunRecord]:
    return lambda r: replace(r, environment=replace(CLEAN, **environment))


def named(note: str) -> Callable[[RunRecord], RunRecord]:
    return lambda r: replace(r, weights=replace(r.weights, note=note))


# Told of each: what is wrong, and what to do.
SPOILED: list[tuple[Callable[[RunRecord], RunRecord], str, str]] = [
    (of(commit=None), "no commit", "run from a clone"),
    (of(dirty=True), "made with changes to commit ccc", "commit them, and run again"),
    (of(versions=CLEAN.versions | {"padim-bench": "99.0.0"}), "padim-bench 99.0.0 is not known here", "run again"),
    (lambda r: identified(r, official_split=False), "published numbers of images", "run again"),
    (lambda r: identified(r, split_digest="e" * 64), "its split of mvtec-ad bottle is of digest eeeeeeeeeeee", "same"),
    (lambda r: replace(r, residual=3e-5), "residual 3e-05 is over 2e-05, the limit in float32", "padim-bench doctor"),
    (lambda r: replace(r, residual=None), "residual None", "padim-bench doctor"),
    (lambda r: replace(r, backbone_error=0.06), "backbone_error 0.06 is over 0.05", "run again with"),
    (lambda r: replace(r, folding_error=1e-3), "folding_error 0.001 is over 0.0001", "run again"),
    (named("from /home/her/weights"), "weights.note holds a path of a machine", "run again under a name"),
    (named("from:/home/her/weights"), "weights.note holds a path of a machine", "run again under a name"),
    (named("from C:\\weights"), "weights.note holds a path of a machine", "run again under a name"),
    (named("ask a@b.org"), "weights.note holds an address", "run again under a name"),
    (named("her@laptop"), "weights.note holds an address", "run again under a name"),
    (named("on node7.cluster.local"), "weights.note holds an address", "run again under a name"),
    (named("on 192.168.0.7"), "weights.note holds an address", "run again under a name"),
    (of(openmp={"/home/her": "1"}), "environment.openmp's name holds a path of a machine", "run again under a name"),
    (lambda r: replace(r, metrics=(r.metrics or {}) | {"image_auroc": 0.99}), "is not that of its scores", "run again"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "told", "mend"), SPOILED, ids=[told for _, told, _ in SPOILED])
def test_what_keeps_a_record_out_is_said_with_what_to_do(
    tmp_path: Path, spoil: Callable[[RunRecord], RunRecord], told: str, mend: str
) -> None:
    (line,) = problems(tmp_path, spoil(record()))
    assert told in line
    assert mend in line.partition(told)[2]


def test_differently_spoiled_files_are_a_line_each_with_their_name_what_is_wrong_and_what_to_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: dict[Path, str] = {}

    def spoiled(seed: int, change: Callable[[str], str] | None = None) -> Path:
        path = write_record(tmp_path, record(seed=seed))
        if change is not None:
            resealed(path, change)
        return path

    path = spoiled(0)
    path.write_text(path.read_text()[:2000])
    told[path] = "it was damaged or edited): delete it, and the run is redone"
    path = spoiled(1)
    path.write_text("{\n nothing")
    told[path] = "no strict JSON"
    told[spoiled(2, lambda t: t.replace('"schema": 3', '"schema": 2'))] = (
        "it has record schema 2, not 3: make it again with this version"
    )
    told[spoiled(3, lambda t: t.replace('"n_features": 100,\n   "reduction"', '"n_features": 99,\n   "reduction"'))] = (
        "id: it is not that of this configuration, split and weights): delete it"
    )
    told[spoiled(4, lambda t: re.sub(r'"pro": 0[^,]*', '"pro": 1.5', t))] = "metrics.pro: input should be less than"
    told[spoiled(5, lambda t: t.replace('"status": "ok"', '"status": "invalid"'))] = "reason: an invalid run has one"
    told[spoiled(6, lambda t: re.sub(r'"reason": null', '"reason": "broken"', t).replace('"ok"', '"invalid"'))] = (
        "metrics: an invalid run has none): delete it"
    )
    path = spoiled(7)
    told[path.rename(path.with_name(f"mine{path.name[-18:]}"))] = (
        f"its name is not that of its run: rename it to {path.name}"
    )
    path = spoiled(8)
    told[path.rename(path.with_name(f"{path.name[:-17]}{'0' * 12}.json"))] = "which its name does not end with"
    spoiled(9)
    path = tmp_path / "records" / f"a-second-{record(seed=9).id[:12]}.json"
    write_sealed(path, to_json(replace(record(seed=9), finished="2027-01-01T00:00:00+00:00").to_dict()))
    told[path] = "is of the same run: delete one of them"
    assert main(["check", str(tmp_path), "--quiet"]) == 2
    reply = capfd.readouterr()
    lines = dict(line.split(": ", 1) for line in reply.out.splitlines())
    named = {path.relative_to(tmp_path).as_posix(): words for path, words in told.items()}
    assert lines.keys() == named.keys()
    for name, words in named.items():
        assert words in lines[name], name
        assert str(tmp_path) not in lines[name]
    assert "10 of 11 files may not join" in reply.err
    assert main(["check", str(tmp_path), "--json"]) == 2
    assert {f["name"] for f in json.loads(capfd.readouterr().out)["files"] if not f["ok"]} >= named.keys()


def test_a_run_that_is_published_is_not_sent_again_and_the_published_record_itself_may_stay(tmp_path: Path) -> None:
    write_record(tmp_path / "published", record())
    assert problems(tmp_path, record(), published=tmp_path / "published") == []
    again = replace(record(), timings_s={"fit": 0.5})
    (line,) = problems(tmp_path, again, published=tmp_path / "published")
    assert "the published records have this run, with other content: leave it out" in line


def test_a_measurement_over_its_gate_is_told(tmp_path: Path) -> None:
    made = cost(run_config("carpet"))
    made = replace(made, environment=CLEAN, accuracy=replace(made.accuracy, largest_error=1.0))
    (line,) = measurement_problems(made)
    assert "accuracy.largest_error 1.0 is over 2e-05, the limit in float32: measure again" in line


def test_another_split_or_other_weights_than_the_published_ones_are_told(tmp_path: Path) -> None:
    write_record(tmp_path / "published", record("carpet"))
    theirs = record("carpet", seed=1)
    theirs = replace(theirs, weights=replace(theirs.weights, tensors_sha256="d" * 64))
    theirs = identified(theirs, split_digest="e" * 64)
    split, weights = problems(tmp_path, theirs, published=tmp_path / "published")
    assert "its split of mvtec-ad carpet is of digest eeeeeeeeeeee, not bbbbbbbbbbbb, the published records'" in split
    assert "its weights of resnet18 is of digest dddddddddddd" in weights
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
    assert [line.rpartition(": ")[2] for line in lines] == ["ok", "the only file may join"]
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
