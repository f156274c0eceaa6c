"""The flat frame: every value of every run, from folders as they lie on disk."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import pytest

from padim_bench import PadimBenchError, load_results
from padim_bench.data.drawn import Drawn
from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.metrics.summary import headline
from padim_bench.records.files import write_record
from padim_bench.records.frame import values
from padim_bench.records.runs import Extra
from padim_bench.report.spec import load_toml
from tests.drawn_records import ENVIRONMENT, METRICS, WEIGHTS, run_config, run_record

if TYPE_CHECKING:
    import pandas as pd

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
    assert frame.state_bytes.isna().all()


def test_what_is_undefined_or_was_not_measured_has_a_line_without_a_value() -> None:
    record = run_record(run_config())
    record = replace(record, metrics={m: None if m == "pro" else 0.9 for m in METRICS if m != "pixel_ap"})
    frame = values([record]).set_index("metric")
    assert set(frame.index) == set(METRICS)
    assert {m for m in METRICS if math.isnan(frame.value[m])} == {"pro", "pixel_ap"}


def test_deviating_definitions_of_pro_are_metrics_of_their_own() -> None:
    record = run_record(run_config(extras=("pro_variants",)))
    frame = values([record])
    assert list(frame[frame.metric == "pro"].value) == [record.value("pro")]
    others = frame[frame.metric.str.startswith("pro: ")]
    expected = {f"pro: {name}": value for name, value in (record.extra.pro_variants or {}).items()}
    assert dict(zip(others.metric, others.value, strict=True)) == expected
    assert len(expected) == len(PRO_VARIANTS)


def test_values_from_histograms_are_known_by_their_bounds() -> None:
    bounds = {"pixel_auroc": 1e-4, "pro": None}
    frame = values([run_record(run_config(), extra=Extra(error_bounds=bounds))]).set_index("metric")
    assert frame.error_bound["pixel_auroc"] == 1e-4
    assert math.isnan(frame.error_bound["pro"])
    assert frame.error_bound["image_auroc"] == 0


def test_a_run_with_resampled_metrics_has_their_intervals() -> None:
    drawn = [i / 199 for i in range(200)]
    record = run_record(run_config(), extra=Extra(resampled={"pro": tuple(drawn)}))
    frame = values([record, run_record(run_config(seed=1))]).set_index(["seed", "metric"])
    assert (frame.low[0, "pro"], frame.high[0, "pro"]) == pytest.approx((0.025, 0.975))
    assert frame.low[0, "pixel_auroc"] != frame.low[0, "pixel_auroc"]  # NaN
    assert frame.low.notna().sum() == frame.high.notna().sum() == 1


def test_runs_of_some_of_the_training_images_are_told_apart_from_those_of_all() -> None:
    draws = (None, Drawn(8, 3), Drawn(None, 2, replaced=True))
    frame = values([run_record(run_config(trained=drawn)) for drawn in draws])
    lines = frame[frame.metric == "pro"][["trained", "n_trained", "draw"]]
    assert lines.values.tolist() == [["all", 209, 0], ["drawn", 8, 3], ["bootstrap", 209, 2]]


@pytest.mark.parametrize("change", [{"layers": ("layer1", "layer3")}, {"backbone_dtype": "bfloat16"}])
def test_models_that_bear_one_name_are_told_apart(change: dict[str, str | tuple[str, ...]]) -> None:
    frame = values([run_record(run_config()), run_record(run_config(**change))])
    (name,) = change
    assert set(frame.model) == {"R18-Rd100"}
    assert frame[name].nunique() == 2


# The committed pages.


@pytest.fixture(scope="module")
def committed() -> pd.DataFrame:
    """The committed results, with ids as pages have them and values in percent, as all of these pages' are."""
    frame = load_results(COMMITTED)
    return frame.assign(record=frame.record.str[:12], value=100 * frame.value)


def lines_of(page: str) -> list[dict[str, str]]:
    with (COMMITTED / "tables" / f"{page}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("table", [f"table{n}" for n in range(1, 7)])
def test_every_cell_of_a_table_is_the_mean_of_its_records_in_the_frame(committed: pd.DataFrame, table: str) -> None:
    cells = [line for line in lines_of(table) if line["ours"]]
    assert cells or table == "table4"  # of ShanghaiTech, which is not at hand
    replicate = "protocol" if table == "table6" else "seed"  # the versions of Rd-MVTec AD, whatever their seeds
    found = committed.set_index(["metric", "record"])
    for cell in cells:
        mine = found.loc[[(cell["metric"], record) for record in cell["records"].split()]]
        assert f"{mine.value.mean():.2f}" == cell["ours"]
        if cell["row"] in {"texture", "object"}:
            assert set(mine.kind) == {cell["row"]}
        replicates = mine.groupby(replicate).value.mean()
        assert str(len(replicates)) == cell["replicates"]
        assert cell["sd"] == ("" if len(replicates) == 1 else f"{replicates.std(ddof=1):.4f}")


def test_every_value_of_the_seeds_report_is_in_the_frame(committed: pd.DataFrame) -> None:
    found = committed.set_index(["record", "metric"])
    lines = lines_of("seeds")
    assert len(lines) > 500
    for line in lines:
        one = found.loc[line["record"], line["metric"]]
        assert (one.value, one.category, one.seed) == (float(line["value"]), line["category"], int(line["seed"]))


def test_every_number_of_the_gaps_report_is_in_the_frame(committed: pd.DataFrame) -> None:
    mine = committed[committed.seed == load_toml("gaps")["seed"]]
    found = {place: {f"{v:.4f}" for v in group} for place, group in mine.groupby(["category", "metric"]).value}
    own = {"published": "ours: ", "disagreement": None}  # of the latter each is a mean of published values and ours
    prefixes = [(line, own.get(line["section"], "")) for line in lines_of("gaps")]
    lines = [line for line, prefix in prefixes if prefix is not None and line["row"].startswith(prefix)]
    steps: dict[tuple[str, str], dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for line in lines:
        if line["category"] != "mean":
            metric = f"pro: {line['row']}" if line["section"] == "PRO variants" else line["metric"]
            assert line["value"] in found[line["category"], metric], line
            steps[line["section"], line["metric"]][line["row"]][line["category"]] = float(line["value"])
    means = [line for line in lines if line["category"] == "mean"]
    assert means
    for line in means:
        step = steps[line["section"], line["metric"]]
        shared = set.intersection(*map(set, step.values()))
        assert float(line["value"]) == pytest.approx(fmean(step[line["row"]][c] for c in shared), abs=1e-4)


def test_every_number_of_the_strategies_table_is_in_the_frame(committed: pd.DataFrame) -> None:
    lines = lines_of("strategies")
    mine = committed[committed.record.isin(lines[0]["records"].split())]
    reference = mine[(mine.strategy == "cholesky") & (mine.storage == "float64")]
    exact = reference.set_index(["category", "metric"]).value
    assert len(lines) == len(mine.groupby(["strategy", "storage"]))
    for line in (line for line in lines if line["state_mb"]):
        row = mine[(mine.strategy == line["strategy"]) & (mine.storage == line["dtype"])]
        assert set(row.status) == {"ok"}
        assert float(line["state_mb"]) == row.state_bytes.max() / 1e6
        assert line["residual"] in {"", str(row.residual.max())}
        shown = row[row.metric.isin(headline())].set_index(["category", "metric"]).value
        assert float(line["difference"]) == pytest.approx((shown - exact[shown.index]).abs().max())
        for metric in headline():
            assert float(line[metric]) == pytest.approx(shown.xs(metric, level="metric").mean())


def test_the_columns_say_which_runs_a_printed_mean_is_over(committed: pd.DataFrame) -> None:
    frame = committed
    chosen = frame[
        (frame.model == "R18-Rd100") & (frame.protocol == "paper") & (frame.strategy == "cholesky")
        & (frame.storage == "float32") & (frame.category == "grid") & (frame.metric == "pro") & (frame.seed < 10)
        & (frame.extras == "") & (frame.trained == "all")
    ]  # fmt: skip
    assert len(chosen) == 10
    printed = next(
        line for line in (COMMITTED / "tables" / "table3.md").read_text().partition("## PRO")[2].splitlines()
        if line.startswith("| grid |")
    ).split(" | ")[2]  # fmt: skip
    assert printed == f"{chosen.value.mean():.2f} ± {chosen.value.std(ddof=1):.2f}"


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
