"""One configuration measured: every stage and its sums, and when a measurement is void; never how long it takes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from padim_bench.costs.work import Work
from padim_bench.costs.worker import GATES, Spool, measure, verdict
from padim_bench.data.samples import Category
from padim_bench.padim import gaussian
from padim_bench.padim.strategies import STORAGE_DTYPES, STRATEGIES
from padim_bench.records.costs import FIT_STAGES, SCORE_STAGES, CostRecord, MeasuredCost, from_dict, to_dict
from padim_bench.records.files import to_json


@pytest.fixture(scope="module")
def record(work: Work) -> MeasuredCost:
    found = measure(Work.from_dict(json.loads(json.dumps(work.to_dict()))))
    assert isinstance(found, MeasuredCost)
    return found


def test_a_record_has_every_stage_and_its_sums(record: MeasuredCost, work: Work, category: Category) -> None:
    assert (record.kind, record.status, record.reason) == ("cost", "ok", None)
    fit = vars(record.fit_s)
    assert list(fit) == [*FIT_STAGES, "total"]
    assert all(seconds > 0 for seconds in fit.values())
    assert fit["total"] == pytest.approx(sum(fit[stage] for stage in FIT_STAGES))
    assert [one.batch_size for one in record.scoring] == [1, 2]
    for one in record.scoring:
        assert one.n_batches * one.batch_size >= record.asked.n_images == 3
        assert list(vars(one.per_image_s)) == [*SCORE_STAGES, "total"]
        for times in vars(one.per_image_s).values():
            assert 0 < times.p50 <= times.p90 <= times.p99
        assert one.images_per_s == pytest.approx(1 / one.per_image_s.total.mean)
    read, whole = record.from_file_s.read, record.from_file_s.total
    assert whole.mean == pytest.approx(read.mean + record.latency_s.total.mean)
    assert list(vars(record.memory.peaks).values()) == sorted(vars(record.memory.peaks).values())
    assert record.memory.peaks.score == record.memory.peak_rss_bytes
    assert record.file_bytes > record.state_bytes > 0
    assert (record.accuracy.n_positions, record.accuracy.n_images) == (64, len(category.test))
    assert record.accuracy.largest_error is not None
    assert record.accuracy.median_error is not None
    assert record.accuracy.median_error <= record.accuracy.largest_error <= GATES["float32"]
    assert record.metrics["image_auroc"] is not None
    assert record.metrics["pro"] is None  # without masks


def test_a_record_says_what_was_measured_and_no_place_on_a_disk(
    record: MeasuredCost, work: Work, category: Category
) -> None:
    assert record.config == work.config
    assert record.dataset.image_sizes == ("40x32",)
    assert (record.dataset.n_train, record.dataset.n_test) == (7, 4)
    assert record.weights.trained is False
    stored = json.loads(to_json(to_dict(record)))
    assert str(category.root.parent) not in json.dumps(stored)
    assert from_dict(stored) == record


def test_a_wrong_strategy_is_void_and_is_not_timed(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    right = STRATEGIES["cholesky"]
    wrong = replace(right, apply=lambda state, delta, epsilon: 1.001 * right.apply(state, delta, epsilon))
    monkeypatch.setitem(STRATEGIES, "cholesky", wrong)
    found = measure(work)
    assert type(found) is CostRecord
    assert found.status == "void"
    assert found.reason is not None
    assert "off by up to 0.001 relative to float64, allowed 2e-05" in found.reason
    assert from_dict(json.loads(to_json(to_dict(found)))) == found


@pytest.mark.parametrize("faster", [1, 2])
def test_every_way_that_a_batch_size_took_is_said_in_one_order(
    work: Work, record: MeasuredCost, monkeypatch: pytest.MonkeyPatch, faster: int
) -> None:
    monkeypatch.setattr(gaussian, "native_is_faster", lambda *asked: asked[4] == faster)
    model = replace(work.config.model, strategy="whitening", storage="bfloat16")
    found = measure(replace(work, config=replace(work.config, model=model)))
    assert isinstance(found, MeasuredCost)
    assert found.applied == "native+widened"  # by batches of 1 and of 2, whichever took which
    assert from_dict(json.loads(to_json(to_dict(found)))) == found
    assert record.applied is None  # float32 has no choice


@pytest.mark.parametrize("storage", STORAGE_DTYPES)
def test_each_storage_has_its_gate(storage: str) -> None:
    assert verdict("cholesky", storage, GATES[storage], exact=True) == ("ok", None)
    for error in (1.01 * GATES[storage], float("inf"), float("nan")):
        status, reason = verdict("cholesky", storage, error, exact=True)
        assert status == "void"
        assert reason is not None
        assert f"allowed {GATES[storage]:g}" in reason


def test_an_approximation_is_lossy_and_not_void() -> None:
    assert verdict("diagonal", "float32", 3.0, exact=False)[0] == "lossy"


def test_a_spool_gives_back_its_rows() -> None:
    spool, rows = Spool(), torch.randn(5, 3, 2)
    spool.append(rows[:2])
    spool.append(rows[2:].transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(spool.read(), rows)
