"""The flat frame: every value of every run, from folders as they lie on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from padim_bench import PadimBenchError, load_results
from padim_bench.records.files import write_record
from tests.drawn_records import ENVIRONMENT, METRICS, WEIGHTS, run_config, run_record

COMMITTED = Path(__file__).parents[2] / "results"


def test_a_line_is_a_run_and_a_metric(tmp_path: Path) -> None:
    records = [run_record(run_config(category, seed)) for category in ("bottle", "grid") for seed in (0, 1)]
    for record in records:
        write_record(tmp_path, record)
    frame = load_results(tmp_path)
    assert len(frame) == len(records) * len(METRICS)
    for record in records:
        mine = frame[frame.record == record.id]
        assert dict(zip(mine.metric, mine.value, strict=True)) == record.metrics
        assert set(mine.model) == {"R18-Rd100"}
        assert set(mine.machine) == {"a CPU, 1 thread"}
        assert (mine.seed == record.config.model.seed).all()
    assert set(frame.dataset) == {"mvtec-ad"}
    assert set(frame.storage) == {"float32"}


def test_a_run_of_two_folders_is_there_once_and_the_first_counts(tmp_path: Path) -> None:
    another = replace(ENVIRONMENT, cpu="another")
    ours, theirs = run_record(run_config()), run_record(run_config(), environment=another)
    for name, record in (("a", ours), ("b", theirs)):
        write_record(tmp_path / name, record)
    frame = load_results(tmp_path / "a", tmp_path / "b")
    assert len(frame) == len(METRICS)
    assert set(frame.machine) == {"a CPU, 1 thread"}
    assert set(load_results(tmp_path / "b", tmp_path / "a").machine) == {"another, 1 thread"}


def test_an_invalid_run_is_there_without_values(tmp_path: Path) -> None:
    write_record(tmp_path, run_record(run_config(), invalid="did not return within 60 s"))
    frame = load_results(tmp_path)
    assert set(frame.status) == {"invalid"}
    assert frame.value.isna().all()
    assert set(frame.metric) == set(METRICS)


def test_the_committed_results_give_the_mean_that_table_iii_prints() -> None:
    frame = load_results(COMMITTED)
    chosen = frame[
        (frame.model == "R18-Rd100") & (frame.protocol == "paper") & (frame.strategy == "cholesky")
        & (frame.storage == "float32") & (frame.category == "grid") & (frame.metric == "pro") & (frame.seed < 10)
    ]  # fmt: skip
    assert len(chosen) == 10
    printed = next(
        line for line in (COMMITTED / "tables" / "table3.md").read_text().partition("## PRO")[2].splitlines()
        if line.startswith("| grid |")
    ).split(" | ")[2]  # fmt: skip
    assert printed == f"{100 * chosen.value.mean():.2f} ± {100 * chosen.value.std(ddof=1):.2f}"


def test_what_pages_refuse_to_merge_is_refused_here_too(tmp_path: Path) -> None:
    others = replace(WEIGHTS, tensors_sha256="d" * 64)
    ours, theirs = run_record(run_config()), run_record(run_config("bottle", 1), weights=others)
    for name, record in (("a", ours), ("b", theirs)):
        write_record(tmp_path / name, record)
    with pytest.raises(PadimBenchError, match="differing weights of resnet18"):
        load_results(tmp_path / "a", tmp_path / "b")


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PadimBenchError, match="nowhere"):
        load_results(tmp_path / "nowhere")
    with pytest.raises(PadimBenchError, match="no records"):
        load_results(tmp_path)
