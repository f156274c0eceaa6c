"""What the whole reproduction takes, from records whose seconds are made here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.records.runs import RunRecord
from padim_bench.report.effort import Effort, effort_page, efforts, foretold, in_parallel
from padim_bench.report.spec import load_toml
from tests.drawn_records import run_config, run_record


def runs(category: str, slower: float = 1.0) -> list[RunRecord]:
    """Two runs of one unit: 10 ms an image to decode, 20 ms through the network, a fit of 2 s, 5 ms an image scored."""
    counts = MVTEC_AD[category]
    shared = {"decode": 0.01 * (counts.train + counts.test), "backbone_train": 0.02 * counts.train}
    seconds = shared | {"backbone_test": 0.02 * counts.test, "fit": 2.0, "score": 0.005 * counts.test}
    made = [run_record(run_config(category, seed)) for seed in (0, 1)]
    return [
        replace(
            one,
            dataset=replace(one.dataset, n_train=counts.train, n_test=counts.test, n_anomalous=counts.masks),
            timings_s={stage: slower * s for stage, s in seconds.items()},
        )
        for one in made
    ]


def of(category: str) -> float:
    counts = MVTEC_AD[category]
    return 0.03 * (counts.train + counts.test) + 2 * (2 + 0.005 * counts.test)


def test_shared_stages_count_once_and_a_category_is_foretold_by_its_images() -> None:
    found = efforts(runs("bottle") + runs("screw"))
    assert {category: one.total for category, one in found.items()} == pytest.approx({c: of(c) for c in found})
    assert foretold(MVTEC_AD["hazelnut"], list(found.values())) == pytest.approx(of("hazelnut"))


def test_the_page_says_how_far_it_is_off_and_what_all_categories_take() -> None:
    page = effort_page(load_toml("effort"), [*runs("bottle"), *runs("screw", slower=1.5), *runs("grid")[:1]])
    assert page is not None
    (_, machines), (_, categories) = page.sections
    rows = {row[0]: row[1:] for row in categories.rows}
    assert set(rows) == set(MVTEC_AD)
    assert rows["bottle"] == ["209", "83", f"{of('bottle') / 60:.1f}", f"{1.5 * of('bottle') / 60:.1f}", "+50 %"]
    assert rows["screw"][-1] == "-33 %"
    assert rows["grid"][2] == ""  # not with all its runs
    whole = of("bottle") + 1.5 * of("screw") + 1.25 * sum(of(c) for c in MVTEC_AD if c not in {"bottle", "screw"})
    assert machines.rows[0][1] == f"{whole / 3600:.1f} h"


def test_other_methods_are_told_apart_and_foretell_nothing() -> None:
    padim = [*runs("bottle"), *runs("screw")]
    rivals = [
        replace(one, config=replace(one.config, model=replace(one.config.model, method="spade").normalised(0)))
        for one in runs("bottle")
    ]
    alone, beside = (effort_page(load_toml("effort"), records) for records in (padim, [*padim, *rivals]))
    assert alone is not None
    assert beside is not None
    assert beside.sections == alone.sections
    (told,) = set(beside.captions) - set(alone.captions)
    assert f"(spade) took another {of('bottle') / 60:.0f} minutes" in told


def test_one_category_foretells_nothing() -> None:
    assert effort_page(load_toml("effort"), runs("bottle")) is None
    assert effort_page(load_toml("effort"), []) is None


def test_processes_take_the_longest_first() -> None:
    assert in_parallel([1, 1, 1, 3], 2) == 3
    assert in_parallel([4, 3, 3], 2) == 6
    assert in_parallel([4, 3, 3], 1) == 10


def test_a_stage_that_some_lack_is_of_no_seconds_there() -> None:
    bottle, screw = MVTEC_AD["bottle"], MVTEC_AD["screw"]
    others = [Effort(bottle, {"fit": 1.0, "extras": 0.83}, 1, 0, 0), Effort(screw, {"fit": 3.0}, 1, 0, 0)]
    assert foretold(screw, others) == pytest.approx(2 + 0.005 * screw.test)
