"""Profiles: what is measured, when a measurement is void, the front, and what is written; never how long it takes."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from padim_bench.costs import profile as asking
from padim_bench.costs.fresh import in_fresh_process
from padim_bench.costs.profile import (
    GATES,
    ProfileModel,
    ProfileSettings,
    plan_profiles,
    profile,
    profile_config,
    verdict,
)
from padim_bench.costs.profile_worker import (
    FIT_STAGES,
    SCORE_STAGES,
    Spool,
    TimedMoments,
    measure,
)
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.strategies import STORAGE_DTYPES, STRATEGIES
from padim_bench.padim.tiling import Tiling
from padim_bench.padim.weights import Weights, resolve_weights
from padim_bench.records.config import read_config
from padim_bench.records.files import as_read, check_mergeable
from padim_bench.records.measurements import measurement_id, read_measurement
from padim_bench.report.figures import render
from padim_bench.report.pareto import pareto_figure
from padim_bench.report.profiles import accuracy_key, best, pareto_front, profiles_page
from padim_bench.runs.runner import Interrupted

Points = list[tuple[int, int, int]]


# The front.


def test_the_front_of_points_computed_by_hand() -> None:
    points = [(1, 9), (2, 5), (2, 6), (3, 5), (4, 1), (4, 1), (9, 0), (9, 9)]
    assert pareto_front(points) == [True, True, False, False, True, True, True, False]
    assert pareto_front([(3, 3, 3), (3, 3, 2), (0, 9, 9)]) == [False, True, True]
    assert pareto_front([]) == []


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=25))
def test_the_front_is_what_nothing_dominates(points: Points) -> None:
    def dominates(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))

    assert pareto_front(points) == [not any(dominates(other, point) for other in points) for point in points]


# What makes a measurement valid.


@pytest.mark.parametrize("dtype", STORAGE_DTYPES)
def test_each_storage_has_its_gate(dtype: str) -> None:
    assert verdict("cholesky", dtype, GATES[dtype], exact=True) == ("ok", None)
    for error in (1.01 * GATES[dtype], float("inf"), float("nan")):
        status, reason = verdict("cholesky", dtype, error, exact=True)
        assert status == "void"
        assert reason is not None
        assert f"allowed {GATES[dtype]:g}" in reason


def test_an_approximation_is_lossy_and_not_void() -> None:
    assert verdict("diagonal", "float32", 3.0, exact=False)[0] == "lossy"


def test_a_spool_gives_back_its_rows() -> None:
    spool, rows = Spool(), torch.randn(5, 3, 2)
    spool.append(rows[:2])
    spool.append(rows[2:].transpose(1, 2).contiguous().transpose(1, 2))
    assert torch.equal(spool.read(), rows)


# One configuration.


@pytest.fixture(scope="module")
def category(tmp_path_factory: pytest.TempPathFactory) -> Category:
    root = tmp_path_factory.mktemp("profiles") / "factory"
    generator = np.random.default_rng(0)
    for folder, n in (("train/good", 6), ("test/good", 2), ("test/scratch", 2)):
        (root / "part" / folder).mkdir(parents=True)
        for i in range(n):
            pixels = generator.integers(0, 256, (32, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "part" / folder / f"{i:03d}.png")
    return mvtec(root, "part")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return resolve_weights("resnet18", "random")


SETTINGS = ProfileSettings(batch_sizes=(2,), n_images=3, seed=5)


def asked(category: Category, strategy: str = "cholesky", **settings: Any) -> dict[str, Any]:
    return {
        "root": str(category.root),
        "category": category.name,
        "dataset": category.dataset,
        "normal": [],
        "backbone": "resnet18",
        "weights": "random",
        "n_features": 12,
        "strategy": strategy,
        "dtype": "float32",
        "settings": vars(SETTINGS) | {"batch_sizes": list(SETTINGS.batch_sizes)} | settings,
    }


@pytest.fixture(scope="module")
def record(category: Category) -> dict[str, Any]:
    return as_read(measure(asked(category)))


def test_a_record_has_every_stage_and_its_sums(record: dict[str, Any], category: Category) -> None:
    assert (record["kind"], record["status"], record["reason"]) == ("profile", "ok", None)
    assert list(record["fit_s"]) == [*FIT_STAGES, "total"]
    assert all(seconds > 0 for seconds in record["fit_s"].values())
    assert record["fit_s"]["total"] == pytest.approx(sum(record["fit_s"][s] for s in FIT_STAGES))
    assert [one["batch_size"] for one in record["scoring"]] == [1, 2]  # 1 always is
    for one in record["scoring"]:
        assert one["n_batches"] * one["batch_size"] >= SETTINGS.n_images
        assert list(one["per_image_s"]) == [*SCORE_STAGES, "total"]
        for times in one["per_image_s"].values():
            assert 0 < times["p50"] <= times["p90"] <= times["p99"]
        assert one["images_per_s"] == pytest.approx(1 / one["per_image_s"]["total"]["mean"])
    peaks = list(record["memory"]["peaks"].values())
    assert peaks == sorted(peaks)
    assert record["file_bytes"] > record["state_bytes"] > 0
    assert record["accuracy"]["n_positions"] == 64
    assert record["accuracy"]["n_images"] == len(category.test)
    assert record["accuracy"]["median_error"] <= record["accuracy"]["largest_error"] <= GATES["float32"]
    assert record["dataset"]["image_sizes"] == ["40x32"]
    assert record["config"]["seed"] == SETTINGS.seed
    assert set(record["load_average"]) == {"before", "after"}
    assert str(category.root) not in json.dumps(record)
    check_mergeable([record])


def test_a_wrong_strategy_is_void_and_is_not_timed(category: Category, monkeypatch: pytest.MonkeyPatch) -> None:
    right = STRATEGIES["cholesky"]
    wrong = replace(right, apply=lambda state, delta, epsilon: 1.001 * right.apply(state, delta, epsilon))
    monkeypatch.setitem(STRATEGIES, "cholesky", wrong)
    found = measure(asked(category))
    assert found["status"] == "void"
    assert "off by up to 0.001 relative to float64, allowed 2e-05" in found["reason"]
    assert "scoring" not in found
    assert "fit_s" not in found


def test_moments_that_are_timed_are_the_same_moments(category: Category, weights: Weights, threads: int) -> None:
    two = Tiling(fit_bytes=2 * 9 * 6 * 8)  # positions to a tile
    embedding = PatchEmbedding((6,), ((4, 15),), tuple(range(6)))
    config = profile_config(category, ProfileModel(weights, 6, "cholesky", "float32"), SETTINGS)
    timed = TimedMoments(embedding, config, two)
    plain = TrainingMoments(embedding, torch.float64, 1 << 30, two)
    for moments in (timed, plain):
        moments.update(embedding.select([torch.randn(9, 6, 4, 15, generator=torch.Generator().manual_seed(0))]))
    found = fit_gaussians(timed, epsilon=0.01, on_positions=timed.finished)
    assert len(timed.reading) == 30 > len(list(plain.groups()))
    assert 0 < timed.share < 1
    same = fit_gaussians(plain, epsilon=0.01)
    assert all(torch.equal(found.state[k], same.state[k]) for k in same.state)


# What is asked, kept and tried again.


def test_features_that_a_backbone_lacks_are_left_out_and_said(weights: Weights) -> None:
    narrow, said = resolve_weights("resnet10t", "random"), []
    widths = [sum(asking.Backbone(w).channels) for w in (narrow, weights)]
    assert widths[0] >= 100
    wide = max(widths)
    models = plan_profiles([narrow, weights], [100, wide, None, 100], ["cholesky"], ["float32"], said.append)
    assert len(said) == sum(width < wide for width in widths)
    assert [m.n_features for m in models if m.weights == weights] == [100, None]  # all of them is one spelling
    with pytest.raises(PadimBenchError, match=f"--n-features {wide + 1}: these backbones have at most {wide}"):
        plan_profiles([narrow, weights], [wide + 1], ["cholesky"], ["float32"])


def test_a_measurement_that_fails_costs_no_other_and_is_tried_again(
    category: Category, weights: Weights, record: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [ProfileModel(weights, 12, name, "float32") for name in ("cholesky", "woodbury", "whitening")]
    deaths = {"woodbury"}

    def fake(_module: str, wanted: dict[str, Any], *_: object, **__: object) -> dict[str, Any]:
        if wanted["strategy"] in deaths:
            raise PadimBenchError(f"{category.root}/part: ended by SIGKILL, most likely for want of memory")
        if wanted["strategy"] == "whitening" and interrupting:
            raise KeyboardInterrupt
        stored = record["config"] | {"strategy": wanted["strategy"]}
        digests = record["dataset"]["split_digest"], record["weights"]["sha256"]
        return record | {"config": stored, "id": measurement_id("profile", *read_config(stored), *digests)}

    monkeypatch.setattr(asking, "in_fresh_process", fake)
    interrupting, said = True, []
    with pytest.raises(Interrupted, match="2 of 3 runs are finished and kept"):
        profile(category, models, SETTINGS, tmp_path, on_message=said.append)
    assert any("FAILED: " in line and "SIGKILL" in line for line in said)
    assert len(list(tmp_path.rglob("*.*"))) == 2
    interrupting, said = False, []
    deaths.clear()
    again = profile(category, models, SETTINGS, tmp_path, on_message=said.append)
    assert [p.resumed for p in again] == [True, False, False]
    assert "measured before" in said[0]
    assert [p.record["status"] for p in again] == ["ok"] * 3
    assert [read_measurement(p.path) for p in again] == [p.record for p in again]
    assert all(p.resumed for p in profile(category, models, SETTINGS, tmp_path))
    # Other settings are another measurement.
    deaths.add("woodbury")
    other = profile(category, models[1:2], replace(SETTINGS, n_images=4), tmp_path)
    assert other[0].record["status"] == "failed"
    assert other[0].record["reason"] == "factory/part: ended by SIGKILL, most likely for want of memory"


def test_how_a_process_ended_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "profile_test_victim.py").write_text(
        "import os, signal, sys\n"
        "from padim_bench.costs.fresh import answer\n"
        "def work(asked):\n"
        "    if asked['die']:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    print('noise')\n"
        "    return {'asked': asked}\n"
        "answer(work)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    module = "profile_test_victim"
    assert in_fresh_process(module, {"die": False}, "it", timeout_s=100) == {"asked": {"die": False}}
    with pytest.raises(PadimBenchError, match="measuring it: ended by SIGKILL, most likely for want of memory"):
        in_fresh_process(module, {"die": True}, "it", timeout_s=100)


# What is written.


@pytest.fixture(scope="module")
def records(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Made-up numbers: rows 1 to 3 and 5 are the front, 4 is beaten by 2, 6 is void, 7 failed."""
    made = []
    for strategy, status, pro, milliseconds, megabytes in (
        ("cholesky", "ok", 0.90, 20.0, 900),
        ("woodbury", "ok", 0.90, 30.0, 700),
        ("diagonal", "lossy", 0.80, 10.0, 600),
        ("explicit", "ok", 0.90004, 31.0, 701),
        ("whitening", "ok", 0.90, 19.0, 901),
        ("explicit-lu", "void", None, None, None),
        ("auto", "failed", None, None, None),
    ):
        one = copy.deepcopy(record)
        one["config"]["strategy"] = one["strategy_used"] = strategy
        one["status"], one["reason"] = status, None if status == "ok" else f"made {status}"
        if pro is None or milliseconds is None or megabytes is None:
            for key in ("fit_s", "scoring", "metrics", "memory", "state_bytes", "file_bytes"):
                del one[key]
        else:
            one["metrics"]["pro"] = pro
            one["scoring"][0]["per_image_s"]["total"]["p50"] = milliseconds / 1e3
            one["memory"]["peak_rss_bytes"] = megabytes * 10**6
        if status == "failed":
            del one["accuracy"], one["strategy_used"]
        made.append(one)
    return made


def test_the_front_of_records_ignores_accuracy_that_is_not_printed(records: list[dict[str, Any]]) -> None:
    assert accuracy_key(records) == "pro"
    assert list(best(records)) == [1, 2, 3, 5]


def test_without_masks_the_front_is_over_image_auroc(record: dict[str, Any]) -> None:
    assert record["metrics"]["pro"] is None
    assert accuracy_key([record]) == "image_auroc"


def test_tables_are_the_same_for_the_same_records(records: list[dict[str, Any]]) -> None:
    tables = profiles_page(records).texts
    assert tables == profiles_page(copy.deepcopy(records)).texts
    text = tables[".md"]
    assert "[UNTRAINED RANDOM WEIGHTS]" in text.splitlines()[0]
    summary = [line for line in text.split("##")[1].splitlines() if line.startswith("| ")][1:]
    assert [line.split(" | ")[-2] for line in summary] == ["yes", "yes", "yes", "", "yes", "–", "–"]  # noqa: RUF001
    assert all(f"{name} | " in text for name in ("cholesky", "diagonal"))
    assert tables[".tex"].count(r"\begin{tabular}") == 5


def test_void_and_failed_rows_have_a_reason_and_no_number(records: list[dict[str, Any]]) -> None:
    tables = profiles_page(records).texts
    for i, name, status in ((6, "explicit-lu", "void"), (7, "auto", "failed")):
        rows = [line for line in tables[".md"].splitlines() if line.startswith(f"| {i} |")]
        assert len(rows) == 1
        assert rows[0].endswith(f"| {status.upper()} |")
        assert set(rows[0].split(" | ")[4:-1]) == {"–"}  # noqa: RUF001
        assert f"- {i}, R18-Rd12 (untrained) {name} float32: {status}: made {status}." in tables[".md"]
        found = [r for r in csv.DictReader(io.StringIO(tables[".csv"])) if r["row"] == str(i)]
        assert [(r["quantity"], r["value"]) for r in found] == [("reason", f"made {status}")]


def test_tables_of_nothing_valid_are_the_reasons(records: list[dict[str, Any]]) -> None:
    tables = profiles_page(records[-2:]).texts
    assert "made void" in tables[".md"]
    assert "made failed" in tables[".md"]
    assert pareto_figure(records[-2:]) is None


def test_every_number_of_the_csv_has_its_unit_and_place(records: list[dict[str, Any]]) -> None:
    rows = list(csv.DictReader(io.StringIO(profiles_page(records).texts[".csv"])))
    for r in (r for r in rows if r["quantity"] != "reason"):
        assert np.isfinite(float(r["value"]))
        assert r["provenance"]
        assert r["unit"] or r["quantity"].startswith(("metric", "relative error", "load"))
    fits = {r["quantity"]: float(r["value"]) for r in rows if r["row"] == "1" and r["quantity"].startswith("fit")}
    assert fits["fit: total"] == pytest.approx(sum(v for k, v in fits.items() if k != "fit: total"), abs=1e-5)


def test_the_figure_is_the_same_for_the_same_records_and_its_numbers_stand_clear(
    records: list[dict[str, Any]],
) -> None:
    figure = pareto_figure(records)
    assert figure is not None
    again = pareto_figure(records)
    assert again is not None
    assert render(figure) == render(again)
    for axes in figure.axes:
        assert sorted(t.get_text() for t in axes.texts) == ["1", "2", "3", "5"]
        boxes = [t.get_window_extent() for t in axes.texts]
        assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    title = figure.get_suptitle()
    assert "factory: part on " in title
    assert "UNTRAINED RANDOM WEIGHTS" in title
