"""How inference grows with n: which models are timed, and what their states take; never how long it takes."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from padim_bench.costs.growth import counts_within, measure
from padim_bench.costs.pipeline import Pipeline
from padim_bench.costs.work import Work
from padim_bench.data.samples import Category
from padim_bench.padim.weights import Weights
from padim_bench.records.costs import GrowthChoices, GrowthRecord, from_dict, to_dict
from padim_bench.records.files import to_json


@pytest.fixture(scope="module")
def asked(work: Work) -> Work:
    config = replace(work.config, model=replace(work.config.model, strategy="auto"))
    return replace(work, config=config, asked=GrowthChoices(3, (3, 5, 7, 1000), 8 << 30))


@pytest.fixture(scope="module")
def record(asked: Work) -> GrowthRecord:
    return measure(Work.from_dict(asked.to_dict()))


def test_growth_has_both_series_and_stops_at_the_whole_training_set(record: GrowthRecord) -> None:
    found = {(p.strategy, p.n_train): p for p in record.points}
    assert list(found) == [(s, n) for s in ("auto", "cholesky") for n in (3, 5, 7)]
    sizes = {s: [found[s, n].state_bytes for n in (3, 5, 7)] for s in ("auto", "cholesky")}
    assert len(set(sizes["cholesky"])) == 1
    assert sizes["auto"] == sorted(set(sizes["auto"]))  # woodbury's rows grow with n
    assert {p.strategy_used for p in record.points} == {"woodbury", "cholesky"}
    for point in record.points:
        assert 0 < point.distance_map_s.p50 < point.total_s.p50 <= point.total_s.p90


def test_a_record_says_what_was_measured(record: GrowthRecord, asked: Work) -> None:
    assert (record.kind, record.status, record.n_timed, record.dataset.n_train) == ("growth", "ok", 3, 7)
    assert record.config == asked.config
    assert from_dict(json.loads(to_json(to_dict(record)))) == record


def test_counts_in_the_middle_give_way_to_memory(category: Category, asked: Work, weights: Weights) -> None:
    pipeline = Pipeline.open(category, asked.config, weights)
    assert counts_within(pipeline, "cholesky", [3, 5, 6, 7], 1) == [3, 7]
    one = 4 * pipeline.embedding.n_positions * (12 * 12 + 12)
    assert counts_within(pipeline, "cholesky", [3, 5, 6, 7], 3 * one) == [3, 6, 7]


def test_what_a_baseline_holds_grows_with_the_training_images_and_has_one_series(asked: Work) -> None:
    model = replace(asked.config.model, method="spade").normalised(0)
    work = replace(asked, config=replace(asked.config, model=model))
    record = measure(Work.from_dict(work.to_dict()))
    assert [(p.strategy, p.strategy_used, p.n_train) for p in record.points] == [
        ("spade", "spade", n) for n in (3, 5, 7)
    ]
    first, second, third = (p.state_bytes for p in record.points)
    assert third - second == second - first > 0
    assert from_dict(json.loads(to_json(to_dict(record)))) == record
