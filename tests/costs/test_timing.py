"""Table VII: what is measured, and how it is written; never how long it takes."""

from __future__ import annotations

import copy
import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from padim_bench.costs import timing
from padim_bench.costs.timing import INFERENCE_STAGES, TRAINING_STAGES, measure_timing
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.padim.weights import resolve_weights
from padim_bench.records.files import SCHEMA_VERSION, as_read, check_mergeable, to_json
from padim_bench.records.measurements import keep_measurement, read_measurement
from padim_bench.report.page import NONE
from padim_bench.report.timing import figure3, growth_figure, load_timing_spec, timing_page

N_TRAIN, N_TEST = 7, 4


def draw(folder: Path, n: int, seed: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for i in range(n):
        Image.fromarray(generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)).save(folder / f"{i:03d}.png")


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Category:
    root = tmp_path_factory.mktemp("timing") / "factory"
    draw(root / "part" / "train" / "good", N_TRAIN, 0)
    draw(root / "part" / "test" / "good", N_TEST, 1)
    return mvtec(root, "part")


@pytest.fixture(scope="module")
def record(category: Category) -> dict[str, Any]:
    weights = resolve_weights("resnet18", "random")
    return measure_timing(
        category, weights, n_features=20, seed=3, n_images=3, growth=(3, 5, 7, 1000), threads=torch.get_num_threads()
    )


def test_a_record_has_every_stage_and_its_sums(record: dict[str, Any]) -> None:
    assert list(record["training_s"]) == [*TRAINING_STAGES, "total"]
    assert record["training_s"]["total"] == pytest.approx(sum(record["training_s"][s] for s in TRAINING_STAGES))
    assert list(record["inference_s"]) == [*INFERENCE_STAGES, "total"]
    for times in record["inference_s"].values():
        assert 0 < times["median"] <= times["p90"]
    total = record["inference_s"]["total"]["p90"]
    assert total >= max(record["inference_s"][s]["p90"] for s in INFERENCE_STAGES)


def test_a_record_says_what_was_measured(record: dict[str, Any], tmp_path: Path) -> None:
    assert (record["kind"], record["schema"], record["n_timed"]) == ("timing", SCHEMA_VERSION, 3)
    assert record["dataset"]["n_train"] == N_TRAIN
    assert record["dataset"]["image_sizes"] == ["40x32"]
    assert record["weights"]["trained"] is False
    assert str(tmp_path.parent) not in to_json(record)
    assert as_read(record) == record
    check_mergeable([record, record])
    assert keep_measurement(tmp_path / "one.json", record) == record == read_measurement(tmp_path / "one.json")


def test_growth_has_both_series_and_stops_at_the_whole_training_set(record: dict[str, Any]) -> None:
    found = {(p["strategy"], p["n_train"]): p for p in record["growth"]}
    assert list(found) == [(s, n) for s in ("auto", "cholesky") for n in (3, 5, 7)]
    sizes = {s: [found[s, n]["state_bytes"] for n in (3, 5, 7)] for s in ("auto", "cholesky")}
    assert len(set(sizes["cholesky"])) == 1
    assert sizes["auto"] == sorted(set(sizes["auto"]))  # woodbury's rows grow with n
    assert record["state_bytes"] == found["auto", N_TRAIN]["state_bytes"]
    assert {p["strategy_used"] for p in record["growth"]} == {"woodbury", "cholesky"}


def test_the_id_is_of_what_was_asked(category: Category, record: dict[str, Any]) -> None:
    weights = resolve_weights("resnet18", "random")

    def id_of(growth_n: int, **changes: Any) -> str:
        same = {"n_features": 20, "seed": 3, "n_images": 1, "strategy": "cholesky", "growth": (growth_n,)}
        return str(measure_timing(category, weights, **(same | changes))["id"])

    ids = {id_of(3), id_of(4), id_of(3, seed=4)}
    assert len(ids) == 3
    assert record["id"] not in ids
    assert id_of(3) in ids


def test_stages_do_what_the_model_does(category: Category) -> None:
    from padim_bench import PaDiM
    from padim_bench.padim.config import PaDiMConfig
    from padim_bench.records.config import RunConfig

    weights = resolve_weights("resnet18", "random")
    model = PaDiMConfig("resnet18", ("layer1", "layer2", "layer3"), n_features=20, seed=3)
    config = RunConfig(category.dataset, category.name, model, weights.label)
    rig = timing._rig(category, weights, config)
    train = torch.cat([rig.read(s) for s in category.train])
    selected = [rig.embedding.select(rig.backbone(part)) for part in train.split(3)]
    image = rig.read(category.test[0])
    for n in (4, None):
        maps, scores = rig.maps(rig.distances(rig.fit(selected, "cholesky", n), rig.backbone(image)))
        model = PaDiM(rig.backbone, n_features=20, seed=3).fit(train[:n])
        wanted, wanted_scores = model.score(image)
        torch.testing.assert_close(maps, wanted)
        torch.testing.assert_close(scores, wanted_scores)


def test_counts_in_the_middle_give_way_to_memory(category: Category) -> None:
    weights = resolve_weights("resnet18", "random")
    few = measure_timing(
        category, weights, n_features=20, seed=3, strategy="cholesky", n_images=1, growth=(3, 5), growth_bytes=1
    )
    assert [p["n_train"] for p in few["growth"]] == [3, N_TRAIN]


def test_too_few_images_are_refused(category: Category) -> None:
    from dataclasses import replace

    with pytest.raises(PadimBenchError, match="part has 1 training"):
        measure_timing(
            replace(category, train=category.train[:1]), resolve_weights("resnet18", "random"), n_features=5, seed=0
        )


def trained(record: dict[str, Any], model: str, **times: float) -> dict[str, Any]:
    other = copy.deepcopy(record)
    other["model_name"] = model
    other["weights"]["trained"] = True
    other["dataset"] |= {"name": "mvtec-ad", "category": "bottle"}
    other["inference_s"]["total"]["median"] = times.get("total", 0.0454)
    return other


def test_tables_stand_beside_the_printed_numbers(record: dict[str, Any]) -> None:
    spec = load_timing_spec()
    text = timing_page(spec, [trained(record, "R18-Rd100", total=0.04544)]).texts[".md"]
    assert "| R18-Rd100 | bottle | auto (woodbury) | 0.23 | 0.0454 |" in text
    for model, seconds in (("SPADE (WR50)", "7.10"), ("VAE (R18)", "0.21"), ("WR50-Rd550", "0.95")):
        assert f"| {model} | {NONE} | {NONE} | {seconds} |" in text
    assert "1500 s" in text
    assert "UNTRAINED" not in text
    assert "no difference or verdict" in text
    assert "bottle of mvtec-ad (1 of 15 categories)" in text
    assert "i7-4710HQ" in text
    assert "6154" in text


def test_untrained_weights_stand_in_title_and_row(record: dict[str, Any]) -> None:
    tables = timing_page(load_timing_spec(), [record]).texts
    assert "[UNTRAINED RANDOM WEIGHTS]" in tables[".md"].splitlines()[0]
    assert "R18-Rd20 (untrained)" in tables[".md"]
    assert "[UNTRAINED RANDOM WEIGHTS]" in tables[".tex"]


def test_the_growth_ratio_is_last_to_first(record: dict[str, Any]) -> None:
    other = trained(record, "R18-Rd100")
    for point in other["growth"]:
        point["total_s"]["median"] = {3: 0.020, 5: 0.030, 7: 0.050}[point["n_train"]]
        point["distance_map_s"]["median"] = {3: 0.010, 5: 0.012, 7: 0.016}[point["n_train"]]
    text = timing_page(load_timing_spec(), [other]).texts[".md"]
    assert "| R18-Rd100 | bottle | cholesky | 20.0 | 30.0 | 50.0 (7) | 2.50 | 1.60 |" in text


def test_tables_are_the_same_for_the_same_records(record: dict[str, Any]) -> None:
    again = json.loads(to_json(record))
    spec = load_timing_spec()
    assert timing_page(spec, [record, again]).texts == timing_page(spec, [again, record]).texts
    rows = list(csv.DictReader(io.StringIO(timing_page(spec, [record]).texts[".csv"])))
    assert {r["source"] for r in rows} == {"paper", "ours"}
    assert all(r["value"] and r["unit"] and r["quantity"] for r in rows)


def test_the_figure_has_a_panel_per_model_and_a_line_per_series(record: dict[str, Any]) -> None:
    pytest.importorskip("matplotlib")
    panels = growth_figure([record, trained(record, "R18-Rd100")]).axes
    assert [panel.get_title() for panel in panels] == ["R18-Rd20 (untrained)", "R18-Rd100"]
    for panel in panels:
        assert panel.get_xscale() == "log"
        assert [len(line.get_xdata()) for line in panel.lines] == [3, 3]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.04544, "0.0454"), (7.1, "7.10"), (9.996, "10.0"), (123.4, "123"), (4567.0, "4570"), (0, "0"), (None, NONE)],
)
def test_three_significant_digits(value: float | None, text: str) -> None:
    assert figure3(value) == text
