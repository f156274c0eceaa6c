"""What a difference between a record and its run made again amounts to, by hand and against what a tolerance means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padim_bench.records.differences import ROUNDING, Verdict, counted, differences
from padim_bench.records.runs import RunRecord
from tests.drawn_records import METRICS, run_config, run_record, with_resampled

IDENTICAL, ROUNDED, WITHIN, DIFFERENT = Verdict


def record(**changes: Any) -> RunRecord:
    return with_resampled(run_record(run_config(**changes)))


def moved(then: RunRecord, **points: float | None) -> RunRecord:
    """The record with metrics moved by points of a percent, or undefined."""
    metrics = dict(then.metrics or {})
    for name, by in points.items():
        value = metrics[name]
        assert value is not None
        metrics[name] = None if by is None else value + by / 100
    return replace(then, metrics=metrics)


def with_scores(then: RunRecord, factor: float) -> RunRecord:
    return replace(then, scores=tuple(replace(one, score=one.score * factor) for one in then.scores))


def verdicts(then: RunRecord, now: RunRecord, tolerance: float | None = None) -> dict[str, Verdict]:
    return {one.name: one.verdict for one in differences(then, now, tolerance).metrics}


def test_the_same_numbers_are_identical_and_so_are_two_that_are_undefined() -> None:
    then = moved(record(), pixel_ap=None)
    found = differences(then, then)
    assert [one.name for one in found.metrics] == list(METRICS)
    assert {one.verdict for one in found.metrics} == {IDENTICAL}
    assert (found.verdict, found.scores.largest, found.same_channels, found.others) == (IDENTICAL, 0, True, [])


def test_a_record_is_what_its_worst_metric_is() -> None:
    then = record()
    last_bit = moved(then, pixel_ap=1e-12)
    assert last_bit != then
    assert differences(then, last_bit).verdict is ROUNDED
    now = moved(last_bit, pro=0.5)
    assert verdicts(then, now) == dict.fromkeys(METRICS, IDENTICAL) | {"pixel_ap": ROUNDED, "pro": WITHIN}
    assert differences(then, now).verdict is WITHIN
    # A metric that is not resampled has no interval to be within.
    assert differences(then, moved(now, pixel_f1_max=0.5)).verdict is DIFFERENT
    assert differences(then, moved(then, pro=20)).verdict is DIFFERENT
    # Nor is one that contradicts its own resamples.
    assert differences(moved(then, pro=20), then).verdict is DIFFERENT
    assert counted([differences(then, now), differences(then, then)]) == {
        **dict.fromkeys(Verdict, 0),
        IDENTICAL: 1,
        WITHIN: 1,
    }


def test_half_precision_has_more_rounding_whether_of_the_state_or_of_the_backbone() -> None:
    for changes, allowed in (
        ({}, ROUNDING["float32"].metric),
        ({"storage": "float16"}, ROUNDING["float16"].metric),
        ({"storage": "float16", "backbone_dtype": "bfloat16"}, ROUNDING["bfloat16"].metric),
    ):
        then = record(**changes)
        assert verdicts(then, moved(then, pixel_ap=0.9 * allowed))["pixel_ap"] is ROUNDED
        assert verdicts(then, moved(then, pixel_ap=1.1 * allowed))["pixel_ap"] is DIFFERENT


def test_a_metric_of_images_that_change_places_is_rounding_where_their_scores_are() -> None:
    then = record()
    now = moved(then, image_ap=0.08, pixel_ap=0.08)
    assert verdicts(then, with_scores(now, 1 + 5e-6)) == dict.fromkeys(METRICS, IDENTICAL) | {
        "image_ap": ROUNDED,
        "pixel_ap": DIFFERENT,
    }
    assert verdicts(then, with_scores(now, 1 + 5e-5))["image_ap"] is DIFFERENT
    assert verdicts(then, with_scores(now, 1 + 5e-6), 0.01)["image_ap"] is DIFFERENT  # a tolerance is all there is


def test_histograms_may_be_off_by_their_error_bounds_on_both_sides() -> None:
    then = record()
    rough = replace(then, extra=replace(then.extra, error_bounds={"pixel_ap": 0.001}))
    assert verdicts(rough, moved(rough, pixel_ap=0.15))["pixel_ap"] is ROUNDED
    assert verdicts(rough, moved(then, pixel_ap=0.15))["pixel_ap"] is DIFFERENT


def test_what_is_undefined_on_one_side_or_gave_no_numbers_is_different() -> None:
    then = record()
    assert verdicts(then, moved(then, pro=None))["pro"] is DIFFERENT
    void = run_record(then.config, invalid="LU is wrong")
    assert differences(then, void).verdict is DIFFERENT
    assert differences(then, void).scores.largest is None


def test_what_is_no_number_is_told_beside() -> None:
    then = record()
    versions = then.environment.versions | {"torch": "2.15.0"}
    now = replace(
        then,
        environment=replace(then.environment, versions=versions),
        embedding=replace(then.embedding, channels_sha256="d" * 64),
        applied="widened",
    )
    found = differences(then, now)
    assert not found.same_channels
    assert found.others == ["state applied unknown then, widened now", "torch 2.14.0 then, 2.15.0 now"]


@given(by=st.floats(-3, 3), name=st.sampled_from(METRICS), tolerances=st.lists(st.floats(0, 4), min_size=2, max_size=2))
def test_a_tolerance_is_the_largest_difference_that_is_rounding(by: float, name: str, tolerances: list[float]) -> None:
    then = record()
    now = moved(then, **{name: by})
    (found,) = (one for one in differences(then, now, tolerances[0]).metrics if one.name == name)
    assert found.difference == pytest.approx(by, abs=1e-9)
    if now != then and abs(abs(by) - tolerances[0]) > 1e-9:
        assert (found.verdict is ROUNDED) == (abs(by) < tolerances[0])
    less, more = (differences(then, now, one).verdict for one in sorted(tolerances))
    assert more <= less
