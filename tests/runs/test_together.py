"""Units that travel together: those of one place, in as many groups as there are workers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from padim_bench import PadimBenchError
from padim_bench.data.mvtec import list_categories, mvtec
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.weights import resolve_weights
from padim_bench.protocols import PROTOCOLS
from padim_bench.records.config import RunConfig, Wanted
from padim_bench.runs import images, methods
from padim_bench.runs.executors import open_executor
from padim_bench.runs.plan import Settings, plan
from padim_bench.runs.runner import RunsFailedError, run
from padim_bench.runs.together import together
from padim_bench.runs.unit import Unit


@dataclass(frozen=True)
class Placed:
    """As much of a unit as decides with whom it travels."""

    root: Path
    place: str
    number: int


@st.composite
def placed(draw: st.DrawFn) -> list[Any]:
    places = draw(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["grid", "bottle", "01"])), max_size=12))
    return [Placed(Path(root), place, i) for i, (root, place) in enumerate(places)]


@given(placed(), st.integers(1, 12))
def test_units_of_a_place_travel_together_but_leave_no_worker_without_any(units: list[Any], n_workers: int) -> None:
    groups: list[tuple[Any, ...]] = list(together(units, n_workers))
    assert sorted((unit for group in groups for unit in group), key=lambda unit: unit.number) == units
    assert all(len({(unit.root, unit.place) for unit in group}) == 1 for group in groups)
    assert all(group == tuple(sorted(group, key=lambda unit: unit.number)) for group in groups)
    n_places = len({(unit.root, unit.place) for unit in units})
    assert len(groups) == max(n_places, min(n_workers, len(units)))


def test_the_largest_groups_are_halved_first() -> None:
    places = [*"aaaa", *"bb", "c"]
    units: list[Any] = [Placed(Path(), place, i) for i, place in enumerate(places)]
    spelled = {n: ["".join(unit.place for unit in group) for group in together(units, n)] for n in (3, 4, 5, 6, 99)}
    assert spelled[3] == ["aaaa", "bb", "c"]
    assert spelled[4] == ["aa", "aa", "bb", "c"]
    assert spelled[5] == ["a", "a", "aa", "bb", "c"]
    assert spelled[6] == ["a", "a", "a", "a", "bb", "c"]
    assert spelled[99] == list("aaaabbc")


NETWORKS = ("resnet18", "test_resnet")
MODEL = PaDiMConfig(layers=("layer1", "layer2"), n_features=8, protocol=PROTOCOLS["paper"].vary(resize=64, crop=64))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two categories of a few images of noise."""
    draw = np.random.default_rng(0)
    for folder in ("train/good", "test/good", "test/cut"):
        for name in ("bottle", "grid"):
            place = tmp_path / "data" / name / folder
            place.mkdir(parents=True)
            for i in range(3):
                Image.fromarray(draw.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(place / f"{i:03d}.png")
    return tmp_path / "data"


@pytest.fixture
def units(root: Path) -> list[Unit]:
    """Two seeds of each of two networks over two categories."""
    networks = [resolve_weights(name, "random") for name in NETWORKS]
    models = [(Wanted(MODEL).vary(seed=seed), network) for network in networks for seed in (0, 1)]
    return plan([mvtec(root, name) for name in list_categories(root)], models, Settings())


FAILS = ("bottle", "resnet18", 1)


def kept(error: RunsFailedError) -> list[tuple[str, str, int]]:
    assert all(outcome.path.is_file() for outcome in error.outcomes)
    configs = [outcome.config for outcome in error.outcomes]
    return [(config.category, config.model.backbone, config.model.seed) for config in configs]


def test_a_unit_that_fails_costs_none_that_travels_with_it(
    units: list[Unit], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(config: RunConfig, seen: methods.Seen, **chosen: Any) -> methods.Fitted:
        if (config.category, config.model.backbone, config.model.seed) == FAILS:
            raise PadimBenchError("unfit")
        return methods.fit(config, seen, **chosen)

    monkeypatch.setattr(images, "fit", fit)
    with ThreadPoolExecutor(1) as pool, pytest.raises(RunsFailedError) as raised:
        run(units, tmp_path / "results", executor=pool)
    assert str(raised.value) == "bottle R18-Rd8 cholesky: unfit"
    everything = list(product(("grid", "bottle"), NETWORKS, (0, 1)))
    assert kept(raised.value) == [one for one in everything if one != FAILS]


def test_a_bad_image_ends_all_units_of_its_category_and_no_other_s(
    units: list[Unit], root: Path, tmp_path: Path
) -> None:
    bad = root / "bottle" / "train" / "good" / "001.png"
    bad.write_bytes(b"no picture")
    with open_executor("processes:2") as executor, pytest.raises(RunsFailedError) as raised:
        run(units, tmp_path / "results", executor=executor)
    assert str(bad) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert [(unit.place, unit.weights.arch) for unit in raised.value.units] == [("bottle", name) for name in NETWORKS]
    assert kept(raised.value) == list(product(["grid"], NETWORKS, (0, 1)))
