"""The PRO page, from records made here: distances by hand, what is nearest, and which verdicts change."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from padim_bench.metrics.pro_variants import PRO_VARIANTS
from padim_bench.records.runs import Extra, RunRecord
from padim_bench.report.page import NONE, Grid, Page
from padim_bench.report.pro import MVTEC, distances, pro_page
from padim_bench.report.spec import load_toml
from tests.drawn_records import METRICS, run_config, run_record

VARIANTS = {"per anomalous image": "each image alone", "no normal images": "fewer pixels"}
TITLE = "R18-Rd100"


def record(category: str, seed: int, exact: float, invalid: str = "", **variants: float | None) -> RunRecord:
    """A run with that PRO and variants, in percent."""
    config = run_config(category, seed, extras=("pro_variants",))
    made = run_record(config, invalid=invalid)
    kind = "texture" if category == "grid" else "object"
    made = replace(made, dataset=replace(made.dataset, kind=kind))
    if invalid:
        return made
    found = {name.replace("_", " "): None if v is None else v / 100 for name, v in variants.items()}
    return replace(made, metrics=dict.fromkeys(METRICS, exact / 100), extra=Extra(pro_variants=found))


def page_of(*records: RunRecord) -> Page:
    return pro_page(load_toml("pro"), VARIANTS, {TITLE: list(records)}, {})


# Printed: transistor 80.2 (SPADE 87.4), bottle 93.9 (SPADE 95.5), grid 90.9 (SPADE 86.7).
TWO = [
    record("transistor", 0, 90.2, per_anomalous_image=79.2, no_normal_images=83.2),
    record("transistor", 1, 92.2, per_anomalous_image=82.2, no_normal_images=83.2),
    record("bottle", 0, 93.9, per_anomalous_image=93.4, no_normal_images=93.9),
    record("bottle", 1, 94.9, per_anomalous_image=94.4, no_normal_images=93.9),
]


@pytest.fixture
def page() -> Page:
    return page_of(*TWO)


def grid(page: Page, start: str) -> Grid:
    ((_, found),) = [one for one in page.sections if one[0].startswith(f"{TITLE}: {start}")]
    return found


def test_the_distance_is_the_root_mean_square_over_categories_of_what_the_means_are_off(page: Page) -> None:
    rows = {row[0]: row[1:] for row in grid(page, "distance to the paper").rows}
    # Of MVTec's the means are off by 11 and 0.5; seed 0 by 10 and 0, seed 1 by 12 and 1.
    ones = np.sqrt([(10**2 + 0) / 2, (12**2 + 1) / 2])
    assert rows[MVTEC][0] == f"{np.sqrt((11**2 + 0.5**2) / 2):.2f}"
    spread = f"{ones.mean():.2f} ± {ones.std(ddof=1):.2f} ({ones.min():.2f} to {ones.max():.2f})"
    assert rows[MVTEC][1:] == [spread, "1 of 2"]
    assert rows["per anomalous image"][0] == f"{np.sqrt((0.5**2 + 0) / 2):.2f}"
    assert rows["per anomalous image"][-1] == "2 of 2"
    assert rows["no normal images"][0] == f"{np.sqrt(3**2 / 2):.2f}"


def test_the_nearest_stands_first(page: Page) -> None:
    order = [row[0] for row in grid(page, "distance to the paper").rows]
    assert order == ["per anomalous image", "no normal images", MVTEC]


def test_the_order_is_by_the_objects_where_there_are_textures_too() -> None:
    textures = [record("grid", s, 90.9, per_anomalous_image=40, no_normal_images=91) for s in (0, 1)]
    found = grid(page_of(*textures, *TWO), "distance to the paper")
    assert [row[0] for row in found.rows] == ["per anomalous image", "no normal images", MVTEC]
    assert found.header[1:4:2] == ["objects (2): means", "all (3): means"]


def test_a_verdict_that_a_definition_changes_is_told_with_the_seeds_that_change_it(page: Page) -> None:
    rows = {row[0]: row[1:] for row in grid(page, "above or below").rows}
    assert rows["transistor: SPADE"] == ["87.4", "80.2 (below)", "91.20 (2 of 2 above)", "80.70 (0 of 2 above)"]
    assert rows["bottle: SPADE"] == ["95.5", "93.9 (below)", "94.40 (0 of 2 above)", "93.90 (0 of 2 above)"]
    text = "\n".join(page.captions)
    assert f"verdicts that change by {MVTEC}: transistor against SPADE (2 of 2 seeds above)" in text
    assert "verdicts that change by per anomalous image: none" in text


def test_what_fits_and_what_no_definition_gives_is_told() -> None:
    far = [record("grid", s, 80 + s, per_anomalous_image=82 + s, no_normal_images=81 + s) for s in (0, 1)]
    text = "\n".join(page_of(*far, *TWO).captions)
    assert f"{MVTEC}: the printed value lies within the range of seeds in bottle; outside in" in text
    assert "per anomalous image: the printed value lies within the range of seeds in transistor, bottle;" in text
    assert "grid: no definition here gives the printed 90.9 with any seed; the nearest mean is 82.50" in text
    assert "printed values of 3 of 15 categories" in text
    assert "furthest from the other codes on metal_nut: printed 81.9" in text


def test_parts_are_told_by_the_change_from_the_row_above(page: Page) -> None:
    rows = grid(page, "from MVTec's").rows
    assert [row[0] for row in rows] == [MVTEC, "no normal images", "per anomalous image"]
    assert rows[0][1] == "91.20"
    assert rows[1][1] == "83.20 (-8.00)"
    assert rows[2][1:] == ["80.70 (-2.50)", "93.90 (+0.00)", "87.30 (-1.25)"]


def test_the_first_line_says_what_it_covers(page: Page) -> None:
    assert page.captions[0] == "Dataset mvtec-ad, 2 of 15 categories, 2 seeds."


def test_every_value_of_every_seed_is_in_the_csv(page: Page) -> None:
    lines = list(csv.DictReader(io.StringIO(page.csv)))
    values = {
        (line["definition"], line["place"], line["seed"]): float(line["value"])
        for line in lines
        if line["section"] == "value"
    }
    assert len(values) == 3 * 4
    assert values["per anomalous image", "transistor", "1"] == 82.2
    assert values[MVTEC, "bottle", "0"] == 93.9


def test_an_invalid_run_is_named_and_its_seed_is_in_no_distance() -> None:
    page = page_of(*TWO, record("transistor", 2, 0, invalid="wrong"), record("bottle", 2, 50, per_anomalous_image=50))
    assert f"{TITLE}: INVALID and left out: transistor seed 2." in page.captions
    rows = {row[0]: row[1:] for row in grid(page, "distance to the paper").rows}
    assert rows[MVTEC][0] == f"{np.sqrt((11**2 + 0.5**2) / 2):.2f}"


def test_a_definition_that_some_run_has_no_value_of_is_left_out_and_said() -> None:
    page = page_of(*TWO[:3], record("bottle", 1, 94.9, per_anomalous_image=94.4, no_normal_images=None))
    assert "no normal images" not in [row[0] for row in grid(page, "distance to the paper").rows]
    assert any("in some run, and left out: no normal images" in line for line in page.captions)


def test_without_a_run_it_holds_what_is_printed_and_says_so() -> None:
    page = pro_page(load_toml("pro"), VARIANTS, {}, {TITLE: "no record of it here"})
    assert f"{TITLE}: not run: no record of it here." in page.captions
    assert page.absent == (TITLE,)
    assert page.figures == {}
    rows = {row[0]: row[1:] for row in grid(page, "PRO as printed").rows}
    assert rows["transistor"] == ["80.2", "89.39", "90.80", "92.39"]


def test_of_another_dataset_it_holds_no_printed_number() -> None:
    others = [replace(r, dataset=replace(r.dataset, name="nuts")) for r in TWO]
    page = page_of(*others)
    assert [heading.partition(": ")[2][:9] for heading, _ in page.sections] == ["PRO of ev", "from MVTe"]
    assert "80.2" not in page.texts[".md"]


def test_every_definition_that_the_spec_names_is_a_variant() -> None:
    spec = load_toml("pro")
    assert {spec["beside"], *spec["walk"]} <= set(PRO_VARIANTS)


def test_the_figure_is_the_same_bytes_each_time(page: Page) -> None:
    (draw,) = page.figures.values()
    first, second = draw(), draw()
    assert first == second
    assert set(first) == {"svg", "png"}


@given(
    values=st.dictionaries(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["grid", "bottle", "pill"]), st.integers(0, 3)),
        st.floats(0, 100),
        min_size=1,
    ),
    printed=st.dictionaries(st.sampled_from(["grid", "bottle", "pill", "zipper"]), st.floats(0, 100)),
)
def test_distances_are_those_of_a_plain_loop(
    values: dict[tuple[str, str, int], float], printed: dict[str, float]
) -> None:
    kinds = {"grid": "texture", "bottle": "object", "pill": "object"}
    lines: list[dict[str, Any]] = [
        {"definition": d, "category": c, "kind": kinds[c], "seed": s, "value": v} for (d, c, s), v in values.items()
    ]
    found = distances(pd.DataFrame(lines), printed).set_index(["definition", "over"])
    expected = {}
    for definition in {d for d, _, _ in values}:
        for over in ("objects", "all"):
            mine = {(c, s): v for (d, c, s), v in values.items() if d == definition and c in printed}
            mine = {(c, s): v for (c, s), v in mine.items() if over == "all" or kinds[c] == "object"}
            categories = {c for c, _ in mine}
            seeds = [s for s in range(4) if categories and all((c, s) in mine for c in categories)]
            if not seeds:
                continue
            means = {c: sum(mine[c, s] for s in seeds) / len(seeds) for c in categories}
            square = sum((means[c] - printed[c]) ** 2 for c in categories) / len(categories)
            ones = [(sum((mine[c, s] - printed[c]) ** 2 for c in categories) / len(categories)) ** 0.5 for s in seeds]
            expected[definition, over] = (len(categories), square**0.5, sum(ones) / len(ones), min(ones), max(ones))
    assert set(found.index) == set(expected)
    for place, numbers in expected.items():
        one = found.loc[[place]].iloc[0]
        assert [one[name] for name in ("n", "of_means", "mean", "low", "high")] == pytest.approx(numbers, abs=1e-9)


def test_over_test_images_both_definitions_stand_beside_the_printed_value() -> None:
    """Two seeds; what a resample adds to both is between 0 and 1."""
    added = [0.003 + i / 199 for i in range(200)]
    records = []
    for one in TWO:
        exact, beside = one.value("pro"), (one.extra.pro_variants or {})["per anomalous image"]
        assert exact is not None
        assert beside is not None
        drawn = {
            name: tuple(value + a / 100 for a in added) for name, value in (("pro", exact), ("pro_per_image", beside))
        }
        metrics = (one.metrics or {}) | {"pro_per_image": beside}
        records.append(replace(one, metrics=metrics, extra=replace(one.extra, resampled=drawn)))
    page = page_of(*records)
    paper, exact_row, beside_row = grid(page, "over test images").rows
    assert paper == ["paper", "80.2", "93.9", NONE]
    assert exact_row[:3] == ["MVTec's definition", "91.20 [91.23, 92.18]", "94.40 [94.43, 95.38]"]
    assert beside_row[:3] == ["per anomalous image", "80.70 [80.73, 81.68]", "93.90 [93.93, 94.88]"]
    assert beside_row[3].startswith("0.35 [0.3")  # of 0.5 and 0; resampled they add 0 to 1 to each
    assert any("in 200 of 200 resamples" in line for line in page.captions)
    assert not any("over test images" in title for title, _ in page_of(*TWO).sections)
