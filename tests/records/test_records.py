"""Records on disk: whole and sound, or refused in a line; what is not ours is left alone."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from padim_bench import PadimBenchError
from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.records.files import (
    as_read,
    check_mergeable,
    read_record,
    read_records,
    record_path,
    to_json,
    write_record,
)
from padim_bench.records.measurements import HELD, read_measurements
from padim_bench.records.runs import Extra, RunRecord
from padim_bench.records.sealed import sealed
from padim_bench.report.gaps import gaps_page
from padim_bench.report.render import table_page
from padim_bench.report.seeds import seeds_page
from padim_bench.report.spec import load_spec, load_toml
from padim_bench.report.strategies import strategies_page
from padim_bench.report.tables import build_table
from tests.drawn_records import run_config, run_record
from tests.spoil import edited, flipped, outcomes, ruined, spoilt

PUBLISHED = Path(__file__).parents[2] / "results"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of two categories: two seeds, one of them with PRO variants, and one invalid run."""
    for category in ("bottle", "screw"):
        for seed in (0, 1):
            extras = ("pro_variants",) if seed == 0 else ()
            write_record(tmp_path, run_record(run_config(category, seed, extras=extras)))
    write_record(tmp_path, run_record(run_config("screw", 2), invalid="did not return within 60 s"))
    for dtype in ("float64", "float32"):
        write_record(tmp_path, run_record(run_config("bottle", 3, storage=dtype)))
    return tmp_path


def pages(results: Path) -> dict[str, str]:
    """All pages that are made of runs alone, from the records of a folder."""
    records = [record for _, record in read_records(results).values()]
    check_mergeable(records)
    spec = load_spec("table3")
    title = next(m.title for m in spec.models if m.model.backbone == "resnet18")
    of_table = [r for seed in (0, 1, 2) for r in records if r.config.model.seed == seed]
    table = build_table(spec, {title: of_table}, {})
    seeds, gaps = load_toml("seeds"), load_toml("gaps")
    drawn = next(m["title"] for m in seeds["models"] if m["title"] != seeds["reference"])
    variants = {key: (v.name, v.what) for key, v in PRO_VARIANTS.items()}
    of_gaps = {gaps["models"][0]["title"]: [r for r in records if r.config.model.seed == 0]}
    found = {f"table{k}": v for k, v in table_page(table).texts.items()}
    found |= {f"seeds{k}": v for k, v in seeds_page(seeds, {drawn: records}).texts.items()}
    walk = [("paper", "paper")]
    found |= {f"gaps{k}": v for k, v in gaps_page(gaps, {"walk": walk}, walk, variants, of_gaps, {}).texts.items()}
    strategies = [r for r in records if r.config.model.seed == 3]
    found |= {f"strategies{k}": v for k, v in strategies_page(load_toml("strategies"), strategies).texts.items()}
    return found


def some_files(results: Path) -> list[Path]:
    return sorted((results / "records").iterdir())


def test_a_record_comes_back_as_it_was_written_and_anyone_can_check_its_digest(tmp_path: Path) -> None:
    import hashlib

    record = run_record(run_config())
    path = write_record(tmp_path, record)
    assert read_record(path) == as_read(record)
    lines = path.read_bytes().splitlines(keepends=True)
    assert json.loads(path.read_text())["sha256"] == hashlib.sha256(b"".join(lines[:1] + lines[2:])).hexdigest()


@pytest.mark.parametrize("bounds", [{"pro": -0.1}, {"pro": "0.1"}, [0.1]])
def test_error_bounds_are_numbers_from_0(tmp_path: Path, bounds: object) -> None:
    record = run_record(run_config(), extra=Extra(error_bounds={"pixel_auroc": 1e-4, "pro": None}))
    path = write_record(tmp_path, record)
    assert read_record(path).extra == record.extra
    path.write_text(sealed(to_json(record.to_dict() | {"extra": {"error_bounds": bounds}}) + "\n"))
    with pytest.raises(PadimBenchError, match="error_bounds"):
        read_record(path)


def test_a_record_is_read_by_its_path_with_types(tmp_path: Path) -> None:
    record = run_record(run_config())
    path = write_record(tmp_path, record)
    read = RunRecord.from_disk(str(path))
    assert read == record
    assert (read.config.model.n_features, read.dataset.n_train, read.value("pro")) == (100, 209, record.value("pro"))
    with pytest.raises(PadimBenchError, match="nowhere"):
        RunRecord.from_disk(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("state_bytes", 0),
        ("clamped", 0),
        ("residual", 0.0),
        ("strategy_used", "dual"),
        ("extra", {"image_f1_threshold": 1.0}),
    ],
)
def test_an_invalid_run_has_no_numbers_not_even_0(tmp_path: Path, member: str, value: Any) -> None:
    path = write_record(tmp_path, run_record(run_config(), invalid="did not return within 60 s"))
    path.write_text(sealed(to_json(read_record(path).to_dict() | {member: value}) + "\n"))
    with pytest.raises(PadimBenchError, match=f"{member}: an invalid run has none"):
        read_record(path)


def test_line_ends_alone_may_differ(tmp_path: Path) -> None:
    record = run_record(run_config())
    path = write_record(tmp_path, record)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read_record(path) == as_read(record)


def test_no_flipped_bit_of_a_record_changes_a_page_or_gives_a_traceback(folder: Path) -> None:
    draw, expected, cases = random.Random(1), pages(folder), {}
    for i in range(150):
        path = draw.choice(some_files(folder))
        cases[f"{path.name}, flip {i}"] = spoilt(path, flipped(path.read_bytes(), draw), lambda: pages(folder))
    counts = outcomes(cases, expected, str(folder / "records"))
    assert counts["refused"] == 150  # the sealed text is all of the file but its seal's quotes


def test_what_is_no_record_any_more_is_refused(folder: Path) -> None:
    path = some_files(folder)[0]
    cases = {
        f"{i}: {content[:30]!r}": spoilt(path, content, lambda: pages(folder))
        for i, content in enumerate(ruined(path.read_bytes()))
    }
    assert outcomes(cases, None, str(path))["refused"] == len(cases)


def test_an_edited_record_is_refused(folder: Path) -> None:
    draw, expected, cases = random.Random(2), pages(folder), {}
    for i in range(60):
        path = draw.choice(some_files(folder))
        text = path.read_text()
        record = edited(json.loads(text), draw)
        content = (to_json(record) + "\n").encode()
        cases[f"{path.name}, edit {i}"] = spoilt(path, content, lambda: pages(folder))
    assert outcomes(cases, expected, str(folder / "records"))["refused"] == 60


def test_an_edited_record_with_a_new_digest_gives_no_traceback(folder: Path) -> None:
    draw, expected, cases = random.Random(3), pages(folder), {}
    for i in range(400):
        path = draw.choice(some_files(folder))
        record = edited(read_record(path).to_dict(), draw)
        content = sealed(to_json(record) + "\n").encode()
        cases[f"{path.name}, edit {i}"] = spoilt(path, content, lambda: pages(folder))
    ids = [path.stem.rpartition("-")[2] for path in some_files(folder)]
    counts = outcomes(cases, expected, str(folder / "records"), *ids, changes=True)
    assert counts["refused"] > 200


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("metrics", "pro"), 1.5, "metrics.pro: "),
        (("metrics", "image_auroc"), -0.1, "metrics.image_auroc: "),
        (("metrics", "pixel_auroc"), "0.9", "metrics.pixel_auroc: "),
        (("config", "model", "seed"), 7, "id: "),
        (("config", "model", "n_features"), True, "config.model.n_features: "),
        (("config", "model", "reduction"), "magic", "config.model.reduction: "),
        (("config", "colour"), "red", "config.colour: "),
        (("config",), [], "config: "),
        (("config", "model"), None, "config.model: "),
        (("metrics", "mine"), "0.9", "metrics: mine: not a number"),
        (("config", "model", "protocol", "epsilon"), 0.0, "config.model.protocol: epsilon"),
        (("config", "model", "protocol", "images", "resize"), 300, "id: "),
        (("dataset", "split_digest"), "d" * 64, "id: "),
        (("dataset", "category"), "screw", "dataset.category: "),
        (("dataset", "n_test"), 6, "scores: 5 of 6"),
        (("dataset", "n_anomalous"), 2, "dataset.n_anomalous: "),
        (("weights", "label"), "others", "weights.label: "),
        (("status",), "invalid", "reason: "),
        (("status",), "fine", "status: "),
        (("environment", "versions"), {}, "environment.versions: "),
        (("scores",), [], "scores: 0 of 5"),
        (("timings_s",), {}, "timings_s.fit: "),
        (("memory",), {"peak_rss_scope": "run"}, "memory.peak_rss_bytes: "),
    ],
)
def test_what_is_wrong_in_a_record_is_named_with_the_mend(
    tmp_path: Path, place: tuple[str, ...], value: Any, said: str
) -> None:
    path = write_record(tmp_path, run_record(run_config()))
    record = read_record(path).to_dict()
    *outer, last = place
    inner = record
    for name in outer:
        inner = inner[name]
    inner[last] = value
    path.write_text(sealed(to_json(record) + "\n"))
    with pytest.raises(PadimBenchError) as caught:
        read_records(tmp_path)
    assert str(path) in str(caught.value)
    assert f"({said}" in str(caught.value)
    assert "delete it, and the run is redone" in str(caught.value)


def test_a_record_under_the_name_of_another_run_is_refused_and_so_is_a_second_of_one_run(tmp_path: Path) -> None:
    path = write_record(tmp_path, run_record(run_config()))
    other = path.with_name(path.name.replace(path.stem[-12:], "0" * 12))
    other.write_bytes(path.read_bytes())
    with pytest.raises(PadimBenchError, match=r"000000000000\.json is not a readable record \(id: "):
        read_records(tmp_path)
    other.rename(path.with_name(f"copy-{path.name}"))
    with pytest.raises(PadimBenchError, match="are records of one run: delete one"):
        read_records(tmp_path)


def test_a_record_without_a_digest_and_one_of_another_schema_say_so(tmp_path: Path) -> None:
    path = write_record(tmp_path, run_record(run_config()))
    record = read_record(path).to_dict()
    path.write_text(to_json(record) + "\n")
    with pytest.raises(PadimBenchError, match=r"no sha256 of the rest\): delete it, and the run is redone"):
        read_record(path)
    path.write_text(to_json(record | {"schema": 1}) + "\n")
    with pytest.raises(PadimBenchError, match="has record schema 1, this version reads 3: use another --results"):
        read_record(path)


def test_what_is_not_ours_among_the_records_is_left_alone(tmp_path: Path) -> None:
    path = write_record(tmp_path, run_record(run_config()))
    (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        ")
    (path.parent / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (path.parent / f".{path.name}.0123456789ab-1-0123456789ab.tmp").write_bytes(b"{")
    (path.parent / "folder.json").mkdir()
    assert [p for p, _ in read_records(tmp_path).values()] == [path]


def test_records_that_are_a_file_are_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("")
    with pytest.raises(PadimBenchError, match=r"cannot list .*records"):
        read_records(tmp_path)


def test_a_record_that_may_not_be_read_is_told_in_a_line(tmp_path: Path) -> None:
    path = write_record(tmp_path, run_record(run_config()))
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read anything")
    with pytest.raises(PadimBenchError, match="let this user read it"):
        read_records(tmp_path)


@pytest.mark.parametrize(
    ("category", "seed"),
    [("x" * 200, 0), ("Ω" * 150, 0), ("part", 10**250), ('a/b\\c:d*e?"<>|\n\x7f', 0), (".hidden", 0), ("\udcff", 0)],
)
def test_any_category_and_seed_has_a_file_that_every_system_can_name(tmp_path: Path, category: str, seed: int) -> None:
    record = run_record(run_config(category, seed))
    path = record_path(tmp_path, record)
    assert path.parent == tmp_path / "records"
    assert len(path.name.encode()) <= 140
    assert not set(path.name) & set('<>:"/\\|?*\n\x7f\udcff')
    assert path.name.endswith(f"-{record.id[:12]}.json")
    if "\udcff" not in category:
        assert read_record(write_record(tmp_path, record)) == as_read(record)
        assert len(read_records(tmp_path)) == 1


def test_names_that_were_short_enough_stay(tmp_path: Path) -> None:
    record = run_record(run_config())
    assert record_path(tmp_path, record).name == f"bottle-resnet18-rd100-s0-cholesky-float32-{record.id[:12]}.json"


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published results beside the tests")
def test_the_published_results_are_whole() -> None:
    assert len(read_records(PUBLISHED)) > 600
    for place in HELD:
        assert read_measurements(PUBLISHED, place)
