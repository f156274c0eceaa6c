"""The report on few images, from records made here: curves, how many are enough, which spread is larger, by hand."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padim_bench.data.drawn import Drawn
from padim_bench.protocols import get_protocol
from padim_bench.records.merged import Evidence
from padim_bench.records.runs import RunRecord
from padim_bench.report.page import NONE, Grid, Page
from padim_bench.report.shots import chance, enough
from padim_bench.report.spec import load_toml, read_few_shot, specs_folder
from padim_bench.reproduction.kinds import Choice, kind_of
from padim_bench.reproduction.pages import make_pages, page_names
from tests.drawn_records import METRICS, run_config, run_record

CHOICE = Choice(get_protocol("paper"))


def record(category: str, percent: float, trained: Drawn | None = None, seed: int = 1024) -> RunRecord:
    """A run with that value of every metric."""
    made = run_record(run_config(category, seed, trained=trained))
    return replace(made, metrics=dict.fromkeys(METRICS, percent / 100))


def few(category: str, n: int, *percent: float) -> list[RunRecord]:
    """A run for every draw of ``n`` images."""
    return [record(category, value, Drawn(n, draw)) for draw, value in enumerate(percent)]


BOTTLE = [*few("bottle", 1, 80, 82), *few("bottle", 8, 89, 91), record("bottle", 91)]
TRANSISTOR = [*few("transistor", 1, 60, 62), *few("transistor", 8, 70, 72), record("transistor", 81)]
DRAWN_OTHERWISE = [
    *(record("bottle", value, Drawn(None, draw, replaced=True)) for draw, value in enumerate((90, 92))),
    *(record("bottle", value, seed=seed) for seed, value in enumerate((88, 92))),
]


def page_of(*records: RunRecord) -> Page:
    (page,) = make_pages(["shots"], Evidence(records), CHOICE)
    return page


def grid(page: Page, start: str) -> Grid:
    return next(found for title, found in page.sections if title.startswith(start))


def rows(page: Page, start: str) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in grid(page, start).rows}


@pytest.fixture(scope="module")
def page() -> Page:
    return page_of(*BOTTLE, *TRANSISTOR, *DRAWN_OTHERWISE)


def test_every_number_of_images_has_its_mean_and_spread_over_draws(page: Page) -> None:
    assert grid(page, "R18-Rd100: PRO").header == ["Category (images)", "1", "8", "all"]
    assert rows(page, "R18-Rd100: PRO") == {
        "bottle (209)": ["81.00 ± 1.41", "90.00 ± 1.41", "91.00"],
        "transistor (209)": ["61.00 ± 1.41", "71.00 ± 1.41", "81.00"],
        "mean of 2": ["71.00 ± 1.41", "80.50 ± 1.41", "86.00"],  # 70 and 72, 79.5 and 81.5
    }
    assert page.captions[0] == "Dataset mvtec-ad, 2 of 15 categories."


def test_enough_is_said_of_every_category_and_of_the_mean(page: Page) -> None:
    found = rows(page, "Least number of images")
    assert {name: row[0] for name, row in found.items()} == {
        "bottle": "8", "transistor": "more than 8", "mean": "more than 8",
    }  # fmt: skip
    text = "\n".join(page.captions)
    assert "R18-Rd100, PRO: the mean is within 1 point of all images' 86.00 with more than 8 images only" in text
    assert "1 image: -15.00." in text


@given(st.dictionaries(st.integers(1, 30), st.integers(0, 10), min_size=1), st.integers(0, 10))
def test_enough_is_the_least_from_which_on_all_are_near(curve: dict[int, int], of_all: int) -> None:
    def near(n: int) -> bool:
        return all(curve[m] >= of_all - 2 for m in curve if m >= n)

    assert enough({n: float(v) for n, v in curve.items()}, of_all, 2) == min(filter(near, curve), default=None)


def test_the_spread_over_images_stands_beside_that_over_channels(page: Page) -> None:
    found = rows(page, "R18-Rd100: standard deviation over training images")
    assert found["bottle"][:3] == ["1.41", "2.83", "0.50"]
    assert found["root mean square"][:3] == ["1.41", "2.83", "0.50"]
    assert "transistor" not in found  # of which neither is on record
    (line,) = (c for c in page.captions if "PRO: the spread is larger" in c)
    assert "larger over channels, 1.41 points of images to 2.83 of channels" in line
    assert (
        "the larger in 0 of 1 categories. By more than chance that of images in none, that of channels in none" in line
    )
    assert "Resamples lie +0.00 points off" in line


def test_a_ratio_of_spreads_is_held_against_chance() -> None:
    low, high = chance(10, 10)
    assert (low, high) == pytest.approx((4.026**-0.5, 4.026**0.5), abs=1e-3)  # F of 9 and 9 degrees, 97.5 %
    wide = [record("bottle", 90 + v, Drawn(None, i, replaced=True)) for i, v in enumerate(range(-5, 5))]
    narrow = [record("bottle", 90 + v / 10, seed=i) for i, v in enumerate(range(-5, 5))]
    for images, channels, said in (
        (wide, narrow, "that of images in bottle, that of channels in none"),
        ([record("bottle", 90 + v / 10, Drawn(None, i, replaced=True)) for i, v in enumerate(range(-5, 5))],
         [record("bottle", 90 + v, seed=i) for i, v in enumerate(range(-5, 5))],
         "that of images in none, that of channels in bottle"),
    ):  # fmt: skip
        assert said in "\n".join(page_of(*BOTTLE, *images, *channels).captions)


def test_published_means_stand_beside_ours_each_with_its_distance_from_all_images(page: Page) -> None:
    found = rows(page, "PRO: means beside published")
    assert grid(page, "PRO: means beside published").header[1:] == [
        "R18-Rd100 (2 categories)", "IM-IAD, R18", "PatchCore's authors, WR50",
    ]  # fmt: skip
    assert found["1"] == ["71.00 ± 1.41 (-15.0)", "67.7 (-23.6)", "72.4 ± 1.2 (-19.4)"]
    assert found["5"] == [NONE, NONE, "82.7 ± 0.2 (-9.1)"]
    assert found["all"] == ["86.00", "91.3", "91.8"]


def test_published_values_are_of_the_papers_dataset_alone() -> None:
    def elsewhere(one: RunRecord) -> RunRecord:
        config = replace(one.config, dataset="nuts")
        return run_record(config, dataset=replace(one.dataset, name="nuts"))

    page = page_of(*map(elsewhere, BOTTLE))
    assert not any("published" in title for title, _ in page.sections)
    assert "IM-IAD" not in page.csv + "".join(page.captions)


def test_a_category_that_lacks_a_number_is_in_no_mean_and_named() -> None:
    page = page_of(*BOTTLE, *TRANSISTOR, *few("toothbrush", 1, 50, 50), record("toothbrush", 50))
    found = rows(page, "R18-Rd100: PRO")
    assert found["toothbrush (209)"] == ["50.00 ± 0.00", NONE, "50.00"]
    assert found["mean of 2"] == ["71.00 ± 1.41", "80.50 ± 1.41", "86.00"]
    assert "or no run is on record: toothbrush of 8." in "\n".join(page.captions)


def test_a_draw_without_numbers_takes_its_category_out_of_the_mean() -> None:
    void = run_record(run_config("bottle", 1024, trained=Drawn(8, 1)), invalid="did not return")
    page = page_of(*BOTTLE[:3], void, BOTTLE[4], *TRANSISTOR)
    assert rows(page, "R18-Rd100: PRO")["bottle (209)"][1] == "89.00"
    assert not any(name.startswith("mean") for name in rows(page, "R18-Rd100: PRO"))
    assert "R18-Rd100: INVALID and left out: bottle, 8 images, draw 1." in page.captions


def test_every_value_of_every_run_is_in_the_csv(page: Page) -> None:
    lines = list(csv.DictReader(io.StringIO(page.csv)))
    ours = [line for line in lines if line["part"] != "published" and line["metric"] == "pro"]
    assert len(ours) == len([*BOTTLE, *TRANSISTOR, *DRAWN_OTHERWISE])
    values = {(x["part"], x["category"], x["images"], x["draw"], x["seed"]): x["value"] for x in ours}
    assert values["drawn", "transistor", "8", "1", "1024"] == "72.0000"
    assert values["bootstrap", "bottle", "209", "1", "1024"] == "92.0000"
    assert values["channels", "bottle", "209", "0", "1"] == "92.0000"


def test_the_figure_is_drawn(page: Page) -> None:
    files = page.figures["shots"]()
    assert {kind: content[:4] for kind, content in files.items()} == {"svg": b"<?xm", "png": b"\x89PNG"}


def names_and_texts(records: Sequence[RunRecord]) -> dict[str, dict[str, str]]:
    names = [name for name in page_names() if name not in {"shots", "effort"}]  # the latter counts whatever ran
    pages = make_pages(names, Evidence(tuple(records)), CHOICE)
    return {page.name: page.texts for page in pages}


def test_no_other_page_takes_runs_of_some_of_the_images() -> None:
    whole = [record(category, 90, seed=seed) for category in ("bottle", "grid") for seed in (0, 1, 2, 1024)]
    drawn = [r for r in (*BOTTLE, *TRANSISTOR, *DRAWN_OTHERWISE) if r.config.trained is not None]
    before = names_and_texts(whole)
    assert {"table3", "seeds"} <= set(before)
    assert names_and_texts([*drawn, *whole]) == before
    assert make_pages(["shots"], Evidence(tuple(whole)), CHOICE) == []


def test_what_is_wanted_is_nested_draws_resamples_and_other_channels() -> None:
    wanted = kind_of("shots").wanted("shots", CHOICE, False)
    r18 = wanted["R18-Rd100"]
    spec = load_toml("shots")
    few_of_each = len(spec["images"]) * spec["draws"]
    assert len(set(r18)) == 1 + few_of_each + spec["resamples"] + spec["channel_seeds"]
    draws = [w.trained.indices(209) for w in r18 if w.trained and w.trained.draw == 3 and not w.trained.replaced]
    assert all(set(fewer) < set(more) for fewer, more in pairwise(draws))
    assert {w.model.seed for w in r18 if w.trained} == {spec["seed"]}
    assert len(kind_of("shots").wanted("shots", CHOICE, True)["R18-Rd100"]) == 1 + 2 * 2 + 2 + spec["channel_seeds"]


def test_published_values_are_all_of_reproductions_that_the_spec_names() -> None:
    spec = load_toml("shots")
    found = read_few_shot(specs_folder() / spec["few_shot_csv"])
    assert {one for one, _ in found} == {r["id"] for r in spec["reproductions"]}
    assert all(None in column for column in found.values())
