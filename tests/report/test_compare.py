"""Paired differences from records made here: which runs are meant, what is paired, and what is refused."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from padim_bench import PadimBenchError
from padim_bench.data.drawn import Drawn
from padim_bench.metrics.resampling import N_RESAMPLES
from padim_bench.protocols import get_protocol
from padim_bench.records.runs import RunRecord
from padim_bench.report.compare import Comparison, compare
from tests.drawn_records import run_config, run_record


def record(
    value: float, category: str = "bottle", seed: int = 0, *, noise: float = 0.0, **changes: object
) -> RunRecord:
    """A run with that PRO; resampled, what the images of its category add to every run, and noise of its own."""
    made = run_record(run_config(category, seed, **changes))
    images, own = random.Random(category), random.Random(f"{seed} {changes}")
    drawn = tuple(value + images.gauss(0, 0.02) + own.gauss(0, noise) for _ in range(N_RESAMPLES))
    extra = replace(made.extra, resampled={"pro": drawn})
    return replace(made, metrics=(made.metrics or {}) | {"pro": value}, extra=extra)


def drawn(one: RunRecord) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array((one.extra.resampled or {})["pro"])


def test_what_an_image_adds_to_both_cancels() -> None:
    ours, theirs = record(0.9, strategy="whitening", noise=1e-4), record(0.9)
    found = compare([ours, theirs], "whitening", "cholesky", "pro").differences
    assert list(found) == ["bottle", "mean"]
    assert found["bottle"].value == pytest.approx(0)
    assert 0.02 < found["bottle"].high - found["bottle"].low < 0.06  # points; of one alone 8
    assert not found["bottle"].told


def test_the_mean_is_over_seeds_and_then_over_categories_by_hand() -> None:
    ours = [record(v, c, s, strategy="dual") for c, s, v in (("grid", 0, 0.8), ("grid", 1, 0.9), ("bottle", 0, 0.7))]
    ours.append(record(0.9, "bottle", 1, strategy="dual"))
    theirs = [record(0.5, category, seed) for category in ("bottle", "grid") for seed in (0, 1)]
    found = compare(ours + theirs, "dual", "cholesky", "pro")
    assert found.categories == ("grid", "bottle")  # as tables have them
    assert (found.differences["mean"].first, found.differences["mean"].second) == pytest.approx((82.5, 50))
    every = np.mean([[drawn(r) for r in ours], [drawn(r) for r in theirs]], axis=1)
    low, high = np.quantile(100 * (every[0] - every[1]), [0.025, 0.975])
    assert (found.differences["mean"].low, found.differences["mean"].high) == pytest.approx((low, high))
    assert found.differences["mean"].told


def test_seeds_that_one_side_lacks_are_left_out() -> None:
    ours, theirs = [record(0.9, seed=s, strategy="dual") for s in (0, 1, 2)], [record(0.8, seed=s) for s in (1, 2, 3)]
    found = compare(ours + theirs, "dual", "cholesky", "pro")
    assert found.shared_seeds
    assert [[r.config.model.seed for r in side.records] for side in (found.first, found.second)] == [[1, 2], [1, 2]]


def test_of_what_a_name_may_mean_the_pair_that_differs_in_least_is_taken() -> None:
    anomalib = get_protocol("anomalib")
    records = [
        record(0.9), record(0.8, n_features=200), record(0.7, protocol=anomalib),
        record(0.6, n_features=200, protocol=anomalib, storage="float16"),
    ]  # fmt: skip

    def values(first: str, second: str) -> tuple[float, float]:
        mean = compare(records, first, second, "pro").differences["mean"]
        return round(mean.first), round(mean.second)

    assert values("R18-Rd100", "R18-Rd200") == (90, 80)
    assert values("paper", "anomalib") == (90, 70)
    assert values("R18-Rd100/anomalib", "R18-Rd200/float16") == (70, 60)
    assert values(records[2].id[:12], records[0].id) == (70, 90)


def test_runs_of_some_of_the_training_images_are_meant_where_they_are_named() -> None:
    records = [record(0.9), record(0.8, trained=Drawn(8, 0)), record(0.7, n_features=200, trained=Drawn(8, 0))]
    found = compare(records, "R18-Rd100/n8-d0", "R18-Rd100", "pro")
    assert found.differences["mean"].value == pytest.approx(-10)
    assert "n8-d0" in found.first.title
    assert found.first.title.endswith("seed 0")
    assert "no valid run is all of R18-Rd200" in refused(records, "R18-Rd100", "R18-Rd200")


def test_a_model_goes_by_its_title_in_the_tables_too() -> None:
    efficientnet = {"backbone": "tf_efficientnet_b4", "n_features": None}
    other = record(0.8, **efficientnet)
    weights = replace(other.weights, arch="tf_efficientnet_b4")
    found = compare([record(0.9), replace(other, weights=weights)], "R18-Rd100", "EfficientNet-B4", "pro")
    assert found.differences["mean"].value == pytest.approx(10)
    assert not found.shared_seeds


def refused(records: list[RunRecord], first: str, second: str, metric: str = "pro") -> str:
    with pytest.raises(PadimBenchError) as refusal:
        compare(records, first, second, metric)
    return str(refusal.value)


def test_runs_over_differing_splits_are_not_paired() -> None:
    ours, other = record(0.9), record(0.8, strategy="dual")
    theirs = replace(other, dataset=replace(other.dataset, split_digest="e" * 64))
    told = refused([ours, theirs], "cholesky", "dual")
    assert all(named in told for named in (ours.id[:12], theirs.id[:12], "bottle", "bbbb", "eeee", "splits"))


def test_what_cannot_be_compared_is_named() -> None:
    ours, bare = record(0.9), run_record(run_config(strategy="dual"))
    assert "is called 'R19-Rd100': choose from R18-Rd100" in refused([ours], "R19-Rd100", "cholesky")
    assert "the same run" in refused([ours], "R18-Rd100", "cholesky")
    elsewhere = refused([ours, record(0.8, "grid", strategy="dual")], "cholesky", "dual")
    assert "no category in common (bottle; grid)" in elsewhere
    lacking = f"record {bare.id[:12]} (bottle, R18-Rd100) has no resampled values of PRO"
    assert lacking in refused([ours, bare], "dual", "cholesky")
    assert "'image_ap' is not resampled" in refused([ours], "dual", "cholesky", "image_ap")


def test_what_is_shown_has_no_negative_zero() -> None:
    comparison: Comparison = compare([record(0.9), record(0.9, strategy="dual")], "dual", "cholesky", "pro")
    assert comparison.differences["mean"].shown() == "0.000 [0.000, 0.000]"
