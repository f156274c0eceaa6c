"""Tables from small records made here: means, spread, what is left out, and what stands beside what."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from padim_bench import PadimBenchError
from padim_bench.data.mvtec_ad import MVTEC_OBJECTS, MVTEC_TEXTURES
from padim_bench.machine.console import printable
from padim_bench.protocols import rd_mvtec_protocol
from padim_bench.records.runs import Extra, RunRecord
from padim_bench.report.page import NONE
from padim_bench.report.render import table_page
from padim_bench.report.spec import load_spec, read_paper, specs_folder
from padim_bench.report.tables import Table, build_table
from tests.drawn_records import WEIGHTS, run_config, run_record

NAMES = [f"table{n}" for n in range(1, 7)]
KINDS = dict.fromkeys(MVTEC_TEXTURES, "texture") | dict.fromkeys(MVTEC_OBJECTS, "object")
METRICS = ("image_auroc", "pixel_auroc", "pro", "pro_per_image")
_ids = count()


def record(category: str, values: Mapping[str, float | None] | None, **about: Any) -> RunRecord:
    """A run with these values in percent, None for an invalid one; ``about`` says more of it."""
    dataset, kind = about.pop("dataset", "mvtec-ad"), about.pop("kind", KINDS.get(category, ""))
    official = about.pop("official", True if dataset == "mvtec-ad" else None)
    weights = replace(WEIGHTS, trained=about.pop("trained", True))
    changes = {name: about.pop(name) for name in ("extra",) if name in about}
    config = run_config(category, about.pop("seed", 0), dataset=dataset, **about)
    metrics = None
    if values is not None:
        metrics = {m: None if (v := values.get(m)) is None else v / 100 for m in METRICS}
    made = run_record(config, invalid="" if values is not None else "wrong", weights=weights)
    where = replace(made.dataset, kind=kind, official_split=official)
    return replace(made, id=f"{next(_ids):064x}"[::-1], dataset=where, metrics=metrics, **changes)


def both(value: float) -> dict[str, float]:
    return dict.fromkeys(METRICS, value)


def lines_of(table: Table) -> list[dict[str, str]]:
    assert len({len(line) for line in csv.reader(io.StringIO(table_page(table).csv))}) == 1
    return list(csv.DictReader(io.StringIO(table_page(table).csv)))


def line_of(table: Table, model: str, metric: str, row: str) -> dict[str, str]:
    (line,) = [x for x in lines_of(table) if (x["model"], x["metric"], x["row"]) == (model, metric, row)]
    return line


def grid_rows(text: str, heading: str = "") -> list[dict[str, str]]:
    """The rows of the first Markdown grid after ``heading``, by column."""
    lines = text[text.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    header, _, *body = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in lines[start : next(i for i in range(start, len(lines)) if not lines[i])]
    ]
    return [dict(zip(header, row, strict=True)) for row in body]


# Numbers.

SPREAD = {"carpet": [90.0, 92.0, 97.0], "grid": [80.0, 80.0, 83.0], "bottle": [99.0, 98.0, 97.0]}


@pytest.fixture
def replicated() -> Table:
    runs = [record(c, both(values[i]), seed=i) for i in range(3) for c, values in SPREAD.items()]
    return build_table(load_spec("table2"), {"Rd 100": runs}, {})


@pytest.mark.parametrize("category", SPREAD)
def test_spread_of_a_category_is_over_its_replicates(replicated: Table, category: str) -> None:
    cell = replicated.cell("Rd 100", "pro", category)
    assert cell is not None
    values = SPREAD[category]
    assert cell.values == pytest.approx(values)
    assert (cell.ours, cell.sd, cell.sem) == (
        pytest.approx(fmean(values)),
        pytest.approx(stdev(values)),
        pytest.approx(stdev(values) / math.sqrt(3)),
    )
    line = line_of(replicated, "Rd 100", "pro", category)
    assert line["ours"] == f"{fmean(values):.2f}"
    assert (line["sd"], line["sem"]) == (f"{stdev(values):.4f}", f"{stdev(values) / math.sqrt(3):.4f}")
    assert line["replicates"] == "3"
    assert len(set(line["records"].split())) == 3


@pytest.mark.parametrize(
    ("group", "members"), [("texture", ["carpet", "grid"]), ("object", ["bottle"]), ("all", list(SPREAD))]
)
def test_spread_of_a_mean_is_that_of_the_means_of_each_replicate(
    replicated: Table, group: str, members: list[str]
) -> None:
    means = [fmean(SPREAD[c][i] for c in members) for i in range(3)]
    cell = replicated.cell("Rd 100", "pixel_auroc", group)
    assert cell is not None
    assert cell.values == pytest.approx(means)
    assert (cell.sd, cell.sem) == (pytest.approx(stdev(means)), pytest.approx(stdev(means) / math.sqrt(3)))
    assert (cell.present, len(cell.records)) == (len(members), 3 * len(members))
    rows = {row["Model"]: row for row in grid_rows(table_page(replicated).texts[".md"])}
    shown = [v for k, v in rows["Rd 100"].items() if k.startswith(f"{group.capitalize()}: ours")]
    assert shown == [f"{fmean(means):.2f} ± {stdev(means):.2f}"]


def test_one_replicate_has_no_spread() -> None:
    table = build_table(load_spec("table2"), {"Rd 100": [record("carpet", both(90))]}, {})
    cell = table.cell("Rd 100", "pro", "carpet")
    assert cell is not None
    assert (cell.ours, cell.sd, cell.sem) == (pytest.approx(90), None, None)
    assert line_of(table, "Rd 100", "pro", "carpet")["sd"] == ""
    assert "±" not in table_page(table).texts[".md"].partition("\n- ")[0]


def test_intervals_over_test_images_are_shown_where_asked_for_and_in_the_csv_always() -> None:
    """Two seeds of one category, whose values in a resample are 0.7 and 0.9 plus what the images add to both."""
    added = [i / 1990 for i in range(200)]
    runs = [
        record("carpet", both(100 * v), seed=seed, extra=Extra(resampled={"pro": tuple(v + a for a in added)}))
        for seed, v in enumerate((0.7, 0.9))
    ]
    spec = load_spec("table2")
    line = line_of(build_table(spec, {"Rd 100": runs}, {}), "Rd 100", "pro", "all")
    assert (line["ours"], line["low"], line["high"]) == ("80.00", "80.25", "89.75")
    assert line_of(build_table(spec, {"Rd 100": runs}, {}), "Rd 100", "pixel_auroc", "all")["low"] == ""
    shown, hidden = (
        table_page(build_table(spec, {"Rd 100": runs}, {}, intervals=i)).texts[".md"] for i in (True, False)
    )
    assert "80.00 \N{PLUS-MINUS SIGN} 14.14 [80.25, 89.75]" in shown
    assert "Brackets: 95 % interval over test images" in shown
    assert "[80.25" not in hidden
    assert "Brackets" not in hidden


def test_a_metric_beside_anothers_column_has_verdicts_of_its_own() -> None:
    values = {"pixel_auroc": 96.0, "pro": 70.0, "pro_per_image": 96.5}  # printed of carpet: PRO 96.0
    table = build_table(load_spec("table3"), {"R18-Rd100": [record("carpet", values)]}, {})
    verdicts = {m: line_of(table, "R18-Rd100", m, "carpet")["verdict"] for m in ("pro", "pro_per_image")}
    assert verdicts == {"pro": "outside", "pro_per_image": "within"}
    text = table_page(table).texts[".md"]
    assert "## PRO per image: as the paper's column appears to be" in text
    assert "PRO 0 of 1, PRO per image 1 of 1" in text


def test_means_over_some_categories_stand_beside_the_papers_over_the_same() -> None:
    spec = load_spec("table3")
    ours = {"carpet": 97.0, "wood": 91.0, "bottle": 99.0, "screw": 90.0}
    table = build_table(spec, {"R18-Rd100": [record(c, both(v)) for c, v in ours.items()]}, {})
    printed = {c: spec.paper["PaDiM-R18-Rd100", c, "pro"].value for c in ours}
    for group, full in (("texture", 5), ("object", 10), ("all", 15)):
        members = [c for c in ours if group in {"all", KINDS[c]}]
        cell = table.cell("R18-Rd100", "pro", group)
        assert cell is not None
        assert cell.ours == pytest.approx(fmean(ours[c] for c in members))
        assert cell.paper == pytest.approx(fmean(printed[c] for c in members))
        assert cell.difference == pytest.approx(fmean(ours[c] - printed[c] for c in members))
        assert (cell.present, cell.full) == (len(members), full)
        assert cell.printed == spec.paper["PaDiM-R18-Rd100", group, "pro"]
        assert line_of(table, "R18-Rd100", "pro", group)["paper_printed"] == f"{cell.printed.value:.2f}"
    assert "4 of 15 categories" in table_page(table).texts[".md"]


def test_means_printed_alone_are_compared_with_all_categories_only() -> None:
    spec = load_spec("table1")
    for categories, compared in ((list(KINDS)[1:14], False), (list(KINDS), True)):
        runs = [record(c, both(96.0), reduction="none") for c in categories]
        table = build_table(spec, {"PaDiM-R18": runs}, {})
        cell = table.cell("PaDiM-R18", "pixel_auroc", "all")
        assert cell is not None
        assert (cell.paper, cell.verdict) == ((97.1, "outside") if compared else (None, ""))
        assert ("no difference is drawn" in table_page(table).texts[".md"]) is not compared


@pytest.mark.parametrize(
    ("ours", "verdict"), [(98.4, "within"), (99.4, "within"), (99.41, "outside"), (98.39, "outside")]
)
def test_the_verdict_is_within_the_tolerance_of_the_printed_value(ours: float, verdict: str) -> None:
    spec = load_spec("table3")  # carpet: 98.9, tolerance 0.5
    table = build_table(spec, {"R18-Rd100": [record("carpet", both(ours))]}, {})
    cell = table.cell("R18-Rd100", "pixel_auroc", "carpet")
    assert cell is not None
    assert cell.verdict == verdict
    (row,) = [r for r in grid_rows(table_page(table).texts[".md"]) if r["Category"] == "carpet"]
    assert row["R18-Rd100: diff."].endswith("*") == (verdict == "outside")


def test_a_category_with_one_invalid_replicate_is_left_out_and_named() -> None:
    runs = [
        *(record("carpet", both(90.0), seed=0), record("bottle", both(80.0), seed=0)),
        *(record("carpet", both(92.0), seed=1), record("bottle", None, seed=1)),
    ]
    table = build_table(load_spec("table2"), {"Rd 100": runs}, {})
    bottle, everything = (table.cell("Rd 100", "pro", row) for row in ("bottle", "all"))
    assert bottle is not None
    assert everything is not None
    assert (bottle.ours, bottle.values, bottle.present) == (None, (), 0)
    assert everything.values == pytest.approx([90.0, 92.0])
    assert everything.present == 1
    for text in table_page(table).texts.values():
        assert "INVALID and left out: bottle" in text


def test_metrics_without_a_value_are_left_out_of_means() -> None:
    runs = [record("carpet", both(90.0)), record("leather", {"image_auroc": 70.0})]
    table = build_table(load_spec("table3"), {"R18-Rd100": runs}, {})
    cell = table.cell("R18-Rd100", "pro", "texture")
    assert cell is not None
    assert (cell.values, cell.present) == ((pytest.approx(90),), 1)


def test_records_of_two_datasets_are_refused() -> None:
    runs = [record("carpet", both(90.0)), record("gear", both(90.0), dataset="demo")]
    with pytest.raises(PadimBenchError, match="one dataset"):
        build_table(load_spec("table3"), {"R18-Rd100": runs}, {})


# The paper's numbers.


def test_layer_3_stands_as_printed_and_as_recomputed() -> None:
    runs = [record(c, both(96.0), reduction="none") for c in KINDS]
    spec = load_spec("table1")
    table = build_table(spec, {"Layer 3": runs}, {m.title: "not run" for m in spec.models if m.title != "Layer 3"})
    line = line_of(table, "Layer 3", "pixel_auroc", "all")
    assert (line["paper"], line["paper_printed"], line["paper_recomputed"]) == ("95.70", "95.70", "96.33")
    rows = {row["Model"]: row for row in grid_rows(table_page(table).texts[".md"], "## Pixel AUROC")}
    assert (rows["Layer 3"]["All: paper"], rows["Layer 3"]["All: paper recomputed"]) == ("95.7", "96.33")
    assert {row["All: paper recomputed"] for title, row in rows.items() if title != "Layer 3"} == {NONE}
    assert "All: paper recomputed" not in grid_rows(table_page(table).texts[".md"], "## PRO")[0]
    note = "Layer 3, all, Pixel AUROC: printed 95.7, recomputed 96.33: group means give 96.3"
    assert note in table_page(table).texts[".md"]
    assert note in table_page(table).texts[".tex"]


def test_spade_stands_as_printed_and_as_recomputed() -> None:
    table = build_table(load_spec("table3"), {"R18-Rd100": [record("carpet", both(96.0))]}, {})
    line = line_of(table, "SPADE", "pixel_auroc", "all")
    assert (line["paper_printed"], line["paper_recomputed"]) == ("96.50", "96.03")
    assert line_of(table, "SPADE", "pro", "all")["paper_recomputed"] == ""
    rows = {row["Category"]: row for row in grid_rows(table_page(table).texts[".md"], "## Pixel AUROC as printed")}
    assert (rows["All"]["SPADE"], rows["All"]["SPADE recomputed"]) == ("96.5", "96.03")
    assert (rows["carpet"]["SPADE"], rows["carpet"]["SPADE recomputed"]) == ("97.5", NONE)


@pytest.mark.parametrize("name", NAMES)
def test_competitors_appear_as_printed_and_as_not_run(name: str) -> None:
    spec = load_spec(name)
    table = build_table(spec, {}, {m.title: "not at hand" for m in spec.models})
    lines = {(x["model"], x["row"], x["metric"]): x for x in lines_of(table)}
    assert set(lines) == set(spec.paper)  # nothing ran, so that all is as printed
    for key, printed in spec.paper.items():
        assert float(lines[key]["paper_printed"]) == printed.value
        assert (lines[key]["ours"], lines[key]["verdict"], lines[key]["records"]) == ("", "", "")
        assert lines[key]["provenance"] == "as printed in the paper; not run here"
    markdown = table_page(table).texts[".md"]
    for competitor in spec.competitors:
        assert competitor in markdown
    assert ("as printed in the paper; copied, not run here" in markdown) == bool(
        spec.competitors or spec.layout == "categories"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_table_with_nothing_run_shows_the_papers_values_and_why(name: str) -> None:
    spec = load_spec(name)
    table = build_table(spec, {}, {m.title: f"no weights for {m.title}" for m in spec.models})
    for text in (table_page(table).texts[".md"], table_page(table).texts[".tex"]):
        for model in spec.models:
            assert f"{model.title}: not run: no weights for {model.title}." in text.replace(r"\_", "_")
        for printed in spec.paper.values():
            assert f"{printed.value:.1f}" in text
    assert table.warnings == ()


def test_models_that_did_not_run_are_named_beside_those_that_did() -> None:
    runs = {"R18-Rd100": [record("carpet", both(96.0))]}
    table = build_table(load_spec("table5"), runs, {"WR50-Rd550": "weights not available offline"})
    rows = {row["Model"]: row for row in grid_rows(table_page(table).texts[".md"])}
    assert rows["WR50-Rd550"]["All: paper"] == "95.3"
    assert {v for k, v in rows["WR50-Rd550"].items() if "ours" in k} == {NONE}
    assert "EfficientNet-B4" not in rows
    assert "- WR50-Rd550: not run: weights not available offline.\n" in table_page(table).texts[".md"]


@pytest.mark.parametrize("name", ["table1", "table2", "table3", "table5", "table6"])
def test_a_demo_shows_none_of_the_papers_numbers(name: str) -> None:
    spec = load_spec(name)
    drawn = [record(c, both(50.0), dataset="demo", kind=k) for c, k in (("weave", "texture"), ("gear", "object"))]
    table = build_table(spec, {m.title: drawn for m in spec.models}, {})
    assert not table.comparable
    assert "[DEMO DATA, NOT MVTEC AD]" in table.heading
    for line in lines_of(table):
        assert {line[k] for k in ("paper", "paper_printed", "paper_recomputed", "difference", "verdict")} == {""}
    markdown = table_page(table).texts[".md"]
    for competitor in spec.competitors:
        assert competitor not in markdown
    for text in (markdown, table_page(table).texts[".tex"]):
        assert "as printed" not in text
        assert "recomputed" not in text
    shown = {float(n) for line in markdown.splitlines() if line.startswith("|") for n in re.findall(r"\d+\.\d+", line)}
    assert shown == {50.0}
    (cell,) = [
        c for c in table.cells if (c.model, c.metric, c.row) == (spec.models[0].title, spec.metrics[0].key, "all")
    ]
    assert (cell.present, cell.full) == (2, 4)


def test_untrained_weights_and_unofficial_splits_stand_in_the_title() -> None:
    one = record("carpet", both(50.0), trained=False, official=False)
    table = build_table(load_spec("table3"), {"R18-Rd100": [one]}, {})
    assert table.heading.endswith("[NOT THE OFFICIAL SPLIT: CARPET] [UNTRAINED RANDOM WEIGHTS]")
    assert table_page(table).texts[".md"].startswith(f"# {table.heading}\n")
    assert table.heading in table_page(table).texts[".tex"]


def test_values_from_histograms_are_told_with_their_largest_bounds_rounded_up() -> None:
    spec = load_spec("table3")

    def with_bounds(**bounds: dict[str, float | None] | None) -> Table:
        runs = [record(name, both(97), extra=Extra(error_bounds=found)) for name, found in bounds.items()]
        return build_table(spec, {"R18-Rd100": runs}, {})

    assert not any("histograms" in fact for fact in with_bounds(carpet=None, bottle=None).facts)
    bottle, grid = {"pixel_auroc": 0.000212, "pro": None}, {"pixel_auroc": 0.0001, "pro": 0.01}
    assert (
        "pixel metrics of bottle, grid from histograms, within these points of the exact values: "
        "pixel AUROC 0.03, PRO 1"
    ) in with_bounds(carpet=None, bottle=bottle, grid=grid).facts
    of_all = with_bounds(carpet={"pixel_auroc": None}, bottle=bottle, grid=grid)
    assert "ixel metrics of all from histograms" in table_page(of_all).texts[".md"]


def test_a_backbone_that_rounds_stands_in_the_title() -> None:
    runs = {"R18-Rd100": [record("carpet", both(50.0), backbone_dtype="bfloat16")]}
    assert build_table(load_spec("table3"), runs, {}).heading.endswith("[BACKBONE IN BFLOAT16]")


# Claims.


@pytest.mark.parametrize(
    ("summed", "concatenated", "holds"),
    [(80.0, 81.5, "holds"), (81.5, 80.0, "does not hold"), (80.0, 80.0, "does not hold")],
)
def test_claims_are_judged_on_our_means(summed: float, concatenated: float, holds: str) -> None:
    runs = {
        "Layer 1+2+3": [record("carpet", both(summed), fusion="sum"), record("bottle", both(90.0), fusion="sum")],
        "PaDiM-R18": [record("carpet", both(concatenated)), record("bottle", both(90.0))],
    }
    table = build_table(load_spec("table1"), runs, {})
    gap = f"{(concatenated - summed) / 2:+.2f} points"
    expected = (
        "- Claim: concatenation, with the covariances between layers, beats the sum in PRO: "
        f"{holds} here (PRO, 2 of 15: {gap}).\n"
    )
    assert expected in table_page(table).texts[".md"]
    assert "best single layer" not in table_page(table).texts[".md"]  # Layer 2 has not run


@pytest.mark.parametrize(("summed", "holds"), [(91.0, "holds"), (89.0, "does not hold")])
def test_the_sum_of_layers_is_compared_with_the_best_of_them(summed: float, holds: str) -> None:
    values = {"Layer 1": 70.0, "Layer 2": 80.0, "Layer 3": 90.0, "Layer 1+2+3": summed}
    runs = {title: [record("carpet", both(value))] for title, value in values.items()}
    text = table_page(build_table(load_spec("table1"), runs, {})).texts[".md"]
    assert f"beats the best single layer's PRO: {holds} here (PRO, 1 of 15: {summed - 90:+.2f} points)" in text


def test_no_claim_is_judged_over_differing_categories() -> None:
    runs = {
        "Layer 1+2+3": [record("carpet", both(80.0)), record("bottle", None)],
        "PaDiM-R18": [record("carpet", both(81.0)), record("bottle", both(90.0))],
    }
    assert "Claim" not in table_page(build_table(load_spec("table1"), runs, {})).texts[".md"]


def test_a_printed_value_that_the_paper_contradicts_gets_no_verdict() -> None:
    spec = load_spec("table1")
    runs = [record(c, both(96.0), reduction="none") for c in KINDS]
    lines = {
        (x["model"], x["metric"]): x for x in lines_of(build_table(spec, {"Layer 3": runs}, {})) if x["row"] == "all"
    }
    contradicted, sound = lines["Layer 3", "pixel_auroc"], lines["Layer 3", "pro"]
    assert (contradicted["difference"], contradicted["verdict"]) == ("0.30", "")
    assert sound["verdict"] in {"within", "outside"}


def test_seeds_of_one_version_are_no_replicates_of_the_dataset() -> None:
    spec = load_spec("table6")
    values = [[90.0, 92.0], [80.0, 84.0], [70.0, 70.0], [60.0, 62.0], [50.0, 50.0]]
    runs = [
        record("carpet", both(v), seed=seed, protocol=rd_mvtec_protocol(version))
        for version, of_version in enumerate(values)
        for seed, v in enumerate(of_version)
    ]
    cell = build_table(spec, {"R18-Rd100": runs}, {}).cell("R18-Rd100", "pro", "carpet")
    assert cell is not None
    assert cell.values == pytest.approx([91, 82, 70, 61, 50])
    assert cell.sd == pytest.approx(stdev([91, 82, 70, 61, 50]))
    assert len(cell.records) == 10


NAMED = {"carpet": "texture", "grid": "texture", "bottle": "object"}
VALUES = st.floats(0, 100)
OUTCOMES = st.one_of(VALUES, VALUES, VALUES, VALUES, st.sampled_from(["undefined", "invalid", "no record"]))


@settings(max_examples=100, deadline=None)
@given(st.sets(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=1, max_size=4), st.data())
def test_a_cell_is_over_the_categories_that_have_a_value_of_every_replicate(
    draws: set[tuple[int, int]], data: st.DataObject
) -> None:
    """Replicates are versions of the dataset, each the mean over the seeds that it has."""
    came = {(name, draw): data.draw(OUTCOMES) for name in NAMED for draw in sorted(draws)}
    runs = [
        record(
            name,
            None if outcome == "invalid" else {} if outcome == "undefined" else both(outcome),
            seed=seed,
            protocol=rd_mvtec_protocol(version),
        )
        for (name, (version, seed)), outcome in came.items()
        if outcome != "no record"
    ]
    assume(runs)
    ran = {draw for (_, draw), outcome in came.items() if outcome != "no record"}
    complete = [name for name in NAMED if all(isinstance(came[name, draw], float) for draw in ran)]

    table = build_table(load_spec("table6"), {"R18-Rd100": runs}, {})
    for cell in (c for c in table.cells if c.metric == "pro"):
        members = [name for name in complete if cell.row in {"all", name, NAMED[name]}]
        expected = [
            fmean(fmean(came[name, draw] for draw in ran if draw[0] == version) for name in members)
            for version in sorted({version for version, _ in ran})
            if members
        ]
        assert cell.values == pytest.approx(expected)
        assert (cell.present, len(cell.records)) == (len(members), len(members) * len(ran))


# Rendering.


def full_table(name: str) -> Table:
    """Every model over three categories, with two replicates and awkward numbers."""
    spec = load_spec(name)
    names = ("01", "02") if spec.dataset == "stc" else ("carpet", "bottle", "zipper")
    runs = {
        m.title: [
            record(c, both(90 + i + j / 3 + k / 7), seed=k, dataset=spec.dataset, reduction=m.model.reduction)
            for k in range(2)
            for j, c in enumerate(names)
        ]
        for i, m in enumerate(spec.models)
    }
    return build_table(spec, runs, {})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("suffix", [".md", ".csv", ".tex"])
def test_the_same_records_render_to_the_same_bytes(name: str, suffix: str) -> None:
    table = full_table(name)
    text = table_page(table).texts[suffix]
    assert text == table_page(table).texts[suffix]
    assert text != table_page(build_table(table.spec, {}, {})).texts[suffix]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nothing_run", [False, True])
def test_latex_is_ascii_and_balanced(name: str, nothing_run: bool) -> None:
    spec = load_spec(name)
    table = (
        build_table(spec, {}, {m.title: "why_not & 100 %" for m in spec.models}) if nothing_run else full_table(name)
    )
    first, *lines = table_page(table).texts[".tex"].splitlines()
    text = "\n".join(lines)
    assert first.startswith("%")
    assert text.isascii()
    for special in "%#_~":
        assert not re.search(rf"(?<!\\){special}", text)
    for one, other in ("{}",):
        assert len(re.findall(rf"(?<!\\)\{one}", text)) == len(re.findall(rf"(?<!\\)\{other}", text))
    assert len(re.findall(r"(?<!\\)\$", text)) % 2 == 0
    begun, ended = (re.findall(rf"\\{word}\{{(.*?)\}}", text) for word in ("begin", "end"))
    assert sorted(begun) == sorted(ended)
    assert begun[0] == ended[-1] == "table*"
    for tabular in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", text, re.DOTALL):
        columns = re.search(r"\{(l+r*)\}", tabular)
        assert columns is not None
        rows = [line for line in tabular.splitlines() if line.endswith(r" \\")]
        assert len(rows) > 1
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns[1]) - 1}


@pytest.mark.parametrize("name", NAMES)
def test_markdown_grids_have_rows_as_long_as_their_headers(name: str) -> None:
    grids = re.findall(r"(?:^\|.*\n)+", table_page(full_table(name)).texts[".md"], re.MULTILINE)
    assert grids
    for grid in grids:
        lines = grid.splitlines()
        assert len(lines) > 2
        assert len({line.count("|") for line in lines}) == 1


# Specs and the printed numbers.


@pytest.mark.parametrize("name", NAMES)
def test_specs_are_consistent(name: str) -> None:
    spec = load_spec(name)
    assert spec.name == name
    titles = [m.title for m in spec.models]
    assert len(set(titles)) == len(titles) > 0
    metrics = {m.key for m in spec.metrics}
    assert {metric for _, _, metric in spec.paper} <= {m.printed for m in spec.metrics} <= metrics
    methods = {method for method, _, _ in spec.paper}
    for model in spec.models:
        assert not model.paper_method or model.paper_method in methods
    for claim in spec.claims:
        assert claim.metric in metrics
        assert {claim.better, *claim.worse} <= set(titles)
        assert claim.worse
        assert claim.better not in claim.worse
        assert claim.text


def test_the_tables_are_numbered_as_the_paper_numbers_them() -> None:
    specs = [load_spec(name) for name in NAMES]
    assert [spec.number for spec in specs] == ["I", "II", "III", "IV", "V", "VI"]
    assert len({spec.title for spec in specs}) == len(NAMES)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "table4"])
def test_printed_averages_are_as_audited(name: str) -> None:
    """Of the 15 categories where they are printed, else 5 textures and 10 objects; what contradicts them says so."""
    paper = read_paper(specs_folder() / "paper" / f"{name}.csv")
    audited = 0
    for method, metric in {(m, k) for m, _, k in paper}:
        of_one = {row: p for (m, row, k), p in paper.items() if (m, k) == (method, metric)}
        categories = {row: p.value for row, p in of_one.items() if row in KINDS}
        expected: dict[str, float] = {}
        if categories:
            assert set(categories) == set(KINDS)
            for group in ("texture", "object", "all"):
                expected[group] = fmean(v for c, v in categories.items() if group in {"all", KINDS[c]})
        elif "texture" in of_one:
            expected["all"] = (5 * of_one["texture"].value + 10 * of_one["object"].value) / 15
        unit = 1.0 if all(p.value == int(p.value) for p in of_one.values()) else 0.1
        for row, printed in of_one.items():
            if row in expected and printed.recomputed is None:
                assert printed.value == pytest.approx(expected[row], abs=unit + 1e-9)  # both are rounded
                audited += 1
            elif row in expected:
                assert printed.recomputed == pytest.approx(expected[row], abs=0.01)
                assert abs(printed.value - expected[row]) > unit
                assert printed.note
            else:
                assert printed.recomputed is None
    assert audited > 0


@pytest.mark.parametrize("name", ["a|b", "a,b", 'a"b', "a\nb", "a\r\n\u2028b", "a\\b", "| |", "gro\\xdf", "größe"])
def test_names_of_categories_break_no_format(name: str) -> None:
    spec = load_spec("table3")
    table = build_table(
        spec, {"R18-Rd100": [record(name, both(91.0), dataset="mine"), record("plain", None, dataset="mine")]}, {}
    )
    markdown, latex = table_page(table).texts[".md"], table_page(table).texts[".tex"]
    for block in (b for b in markdown.split("\n\n") if b.startswith("|")):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    shown = printable(name).replace("|", "\\|")
    assert f"\n| {shown} | 91.00 |" in markdown
    assert all(line.startswith(("# ", "## ", "| ", "|:", "- ")) for line in markdown.splitlines() if line)
    assert line_of(table, "R18-Rd100", "pro", name)["ours"] == "91.00"
    assert "|" not in latex
    body = latex.partition("\\midrule")[2]
    assert len([line for line in body.splitlines() if "91.00" in line and line.endswith(r" \\")]) == 2 * len(
        spec.metrics
    )
