"""Scenes on the runner's rails: each frame once for all models, in turns past the limit, anywhere, resumable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import distributed
import numpy as np
import pytest
from PIL import Image

from padim_bench import PadimBenchError, StrategyInvalidError
from padim_bench.data import stc as stc_module
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category
from padim_bench.data.stc import Scene, list_scenes, stc
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.model import COMPUTE_DTYPES
from padim_bench.padim.sharing import share, training_cost
from padim_bench.padim.weights import Weights, resolve_weights
from padim_bench.protocols import get_protocol
from padim_bench.records.config import Execution, RunConfig, Wanted
from padim_bench.records.runs import RunRecord
from padim_bench.runs import methods
from padim_bench.runs import scenes as scenes_module
from padim_bench.runs.budget import HISTOGRAM_BYTES, Layouts, key
from padim_bench.runs.executors import open_executor
from padim_bench.runs.plan import Settings, plan, plan_scenes
from padim_bench.runs.runner import Outcome, RunsFailedError, run
from padim_bench.runs.scenes import SceneUnit, plan_scene
from padim_bench.runs.session import Session
from padim_bench.runs.unit import Unit
from tests.passes import count_images

SMALL = get_protocol("paper-stc").vary(resize=64)
TRAIN, TEST = 2 * 8, 4  # frames of a scene
SETTINGS = Settings(Execution(batch_size=3))
LARGE_MAPS = (14, 28)  # seeds whose first channel is of the largest maps: 1 KB a frame
LIMIT = 35 << 20  # room for the histograms of one model


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes of small frames: noise, and through half of the test frames a white square."""
    root = tmp_path_factory.mktemp("campus")
    draw = np.random.default_rng(0)
    for scene in ("01", "02"):
        for clip in (f"{scene}_001", f"{scene}_002"):
            _save(root / "training" / "frames" / clip, draw.integers(0, 255, (TRAIN // 2, 48, 80, 3), dtype=np.uint8))
        masks = np.zeros((TEST, 48, 80), dtype=np.uint8)
        masks[TEST // 2 :, 10:30, 20:50] = 1
        frames = draw.integers(0, 255, (TEST, 48, 80, 3), dtype=np.uint8)
        frames[masks > 0] = 255
        _save(root / "testing" / "frames" / f"{scene}_0001", frames)
        (root / "testing" / "test_pixel_mask").mkdir(exist_ok=True)
        np.save(root / "testing" / "test_pixel_mask" / f"{scene}_0001.npy", masks)
    return root


def _save(folder: Path, frames: np.ndarray[Any, Any]) -> None:
    folder.mkdir(parents=True)
    for i, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / f"{i:03d}.png")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return resolve_weights("resnet18", "random")


Model = tuple[Wanted, Weights]


@pytest.fixture
def models(weights: Weights) -> list[Model]:
    """Two seeds of two sizes, and of one of them a second strategy."""
    chosen = [PaDiMConfig(n_features=n, seed=seed, protocol=SMALL) for n in (4, 20) for seed in (0, 1)]
    return [(Wanted(model), weights) for model in (*chosen, replace(chosen[0], strategy="whitening"))]


@pytest.fixture
def scenes(root: Path) -> list[Scene]:
    return [stc(root, name) for name in list_scenes(root)]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Images of every pass through a network from now on."""
    return count_images(monkeypatch)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """How often each frame was decoded."""
    seen: Counter[Path] = Counter()
    decode = stc_module.decode_image

    def counted(data: bytes, path: Path, *more: Any) -> Image.Image:
        seen[path] += 1
        return decode(data, path, *more)

    monkeypatch.setattr(stc_module, "decode_image", counted)
    return seen


def numbers(record: RunRecord) -> dict[str, Any]:
    """All of a record but time, memory and place."""
    other = {"timings_s", "memory", "environment", "finished"}
    return {name: value for name, value in record.to_dict().items() if name not in other}


def test_five_models_of_a_network_decode_each_frame_once_and_pass_it_once(
    scenes: list[Scene], models: list[Model], tmp_path: Path, passes: list[int], decoded: Counter[Path]
) -> None:
    outcomes = run(plan_scenes(scenes[:1], models, SETTINGS), tmp_path)
    assert len({outcome.record.id for outcome in outcomes}) == 5
    frames = [path for path in sorted(scenes[0].root.rglob("*.png")) if path.parent.name.startswith("01_")]
    assert decoded == dict.fromkeys(frames, 1)
    assert sum(passes) == TRAIN + TEST == len(frames)


def test_a_model_among_others_has_the_numbers_that_it_has_alone(
    scenes: list[Scene], models: list[Model], tmp_path: Path
) -> None:
    together = run(plan_scenes(scenes[:1], models, SETTINGS), tmp_path / "together")
    for model, outcome in zip(models, together, strict=True):
        (alone,) = run(plan_scenes(scenes[:1], [model], SETTINGS), tmp_path / "alone")
        assert numbers(alone.record) == numbers(outcome.record)
        assert outcome.record.dataset.n_test == len(outcome.record.scores) == TEST
        assert outcome.record.timings_s.keys() == {"train", "backbone_train", "fit", "test", "backbone_test"}


def test_models_that_do_not_fit_the_limit_together_take_turns_and_a_line_says_so(
    scenes: list[Scene], models: list[Model], tmp_path: Path, passes: list[int]
) -> None:
    tight, said = replace(SETTINGS, memory_limit=LIMIT), list[str]()
    together = run(plan_scenes(scenes[:1], models, tight), tmp_path / "together", on_message=said.append)
    assert sum(passes) == len(models) * (TRAIN + TEST)
    line, taken = said
    assert " of memory: the program " in taken
    what = "scene 01, resnet18: features of 16 training frames, histograms and states of 5 models would take"
    assert line.startswith(f"{what} 16")
    assert "over the limit of 35 MiB (--memory-limit): in 5 groups with a pass each; about 3" in line
    (alone,) = run(plan_scenes(scenes[:1], models[-1:], tight), tmp_path / "alone")
    assert numbers(alone.record) == numbers(together[-1].record)


def test_models_that_fit_the_limit_folded_share_a_pass(
    scenes: list[Scene], weights: Weights, tmp_path: Path, passes: list[int]
) -> None:
    models = [(Wanted(PaDiMConfig(n_features=1, seed=seed, protocol=SMALL)), weights) for seed in LARGE_MAPS]
    free = run(plan_scenes(scenes[:1], models, Settings(Execution(batch_size=1))), tmp_path / "free")
    passes.clear()
    said: list[str] = []
    tight = Settings(Execution(batch_size=1), memory_limit=2 * HISTOGRAM_BYTES + 26_000)
    folded = run(plan_scenes(scenes[:1], models, tight), tmp_path / "folded", on_message=said.append)
    assert sum(passes) == TRAIN + TEST
    line, taken = said
    assert " of memory: the program " in taken
    assert "(--memory-limit): folded into running moments; about" in line
    for one, other in zip(free, folded, strict=True):
        scores = [[score.score for score in outcome.record.scores] for outcome in (one, other)]
        np.testing.assert_allclose(scores[1], scores[0], rtol=1e-5)


def scene_unit(scene: Scene, models: Sequence[Model], limit: int) -> SceneUnit:
    (unit,) = plan_scenes([scene], models, replace(SETTINGS, memory_limit=limit))
    assert isinstance(unit, SceneUnit)
    return unit


@pytest.mark.parametrize("limit", [1, 1 << 20, LIMIT, 70 << 20, 110 << 20, 200 << 20, 1 << 40])
def test_groups_keep_the_order_and_the_limit_wherever_it_can_be_kept(
    scenes: list[Scene], models: list[Model], limit: int
) -> None:
    unit = scene_unit(scenes[0], models, limit)
    groups = plan_scene(unit, Session())
    assert tuple(config for group in groups for config in group.configs) == unit.configs
    assert all(group.needed <= limit or len(group.configs) == 1 for group in groups)
    for one, other in pairwise(groups):  # none is cut short in vain
        (joined, *_) = plan_scene(unit.only((*one.configs, other.configs[0])), Session())
        assert len(joined.configs) == len(one.configs)


@pytest.mark.parametrize("limit", [1, HISTOGRAM_BYTES + 12_000, HISTOGRAM_BYTES + 17_000, 1 << 40])
def test_a_model_alone_is_given_all_but_its_histograms(scenes: list[Scene], weights: Weights, limit: int) -> None:
    wanted = Wanted(PaDiMConfig(n_features=1, seed=LARGE_MAPS[0], protocol=SMALL))
    (unit,) = plan_scenes(scenes[:1], [(wanted, weights)], Settings(Execution(batch_size=1), limit))
    assert isinstance(unit, SceneUnit)
    (group,), (config,) = plan_scene(unit, Session()), unit.configs
    one = key(config, config.layers)
    cost = training_cost(Layouts(unit, Session()).one(one), COMPUTE_DTYPES["float64"], TRAIN, 1)
    rooms, used = share([cost], limit - HISTOGRAM_BYTES)
    assert (list(group.room.values()), group.needed) == (rooms, used + HISTOGRAM_BYTES)
    assert (rooms == [None]) is (limit > HISTOGRAM_BYTES + 15_000)  # 16 KB held, 11 folded


def test_scenes_on_record_make_no_pass(
    scenes: list[Scene], models: list[Model], tmp_path: Path, passes: list[int], decoded: Counter[Path]
) -> None:
    first = run(plan_scenes(scenes, models[:1], SETTINGS), tmp_path)
    passes.clear()
    decoded.clear()
    said: list[str] = []
    again = run(plan_scenes(scenes, models[:1], SETTINGS), tmp_path, on_message=said.append)
    assert [(outcome.record, outcome.resumed) for outcome in again] == [(outcome.record, True) for outcome in first]
    assert (passes, decoded) == ([], {})
    assert said[0].startswith("2 of 2 runs are on record already")
    more = run(plan_scenes(scenes, models, SETTINGS), tmp_path)
    assert [outcome.resumed for outcome in more] == [True, False, False, False, False] * 2
    assert sum(passes) == 2 * (TRAIN + TEST)


@pytest.fixture
def category(root: Path, tmp_path: Path) -> Category:
    """Images of one category, which are frames of a scene."""
    base = tmp_path / "images" / "grid"
    for part, clip in (("train/good", "training/frames/01_001"), ("test/good", "testing/frames/01_0001")):
        (base / part).parent.mkdir(parents=True)
        (base / part).symlink_to(root / clip)
    return mvtec(base.parent, "grid")


@pytest.fixture(params=["processes:2", "dask"])
def elsewhere(request: pytest.FixtureRequest) -> Iterator[str]:
    """Two processes, or a Dask cluster of one process with two threads, which share torch's settings."""
    if request.param != "dask":
        yield request.param
        return
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster:
        yield f"dask:{cluster.scheduler_address}"


def test_images_and_scenes_are_one_list_that_is_run_elsewhere_too(
    scenes: list[Scene], category: Category, models: list[Model], tmp_path: Path, elsewhere: str
) -> None:
    small = Wanted(PaDiMConfig(layers=("layer1", "layer2"), n_features=4, protocol=SMALL))
    models = [*models[:2], (small, resolve_weights("test_resnet", "random"))]

    def units() -> list[Unit]:
        return [*plan([category], models, SETTINGS), *plan_scenes(scenes, models, SETTINGS)]

    here = run(units(), tmp_path / "here")
    with open_executor(elsewhere) as executor:
        apart = run(units(), tmp_path / "apart", executor=executor)
    assert [outcome.config.category for outcome in here] == ["grid"] * 3 + ["01"] * 3 + ["02"] * 3
    assert [numbers(outcome.record) for outcome in apart] == [numbers(outcome.record) for outcome in here]
    assert [outcome.path.name for outcome in apart] == [outcome.path.name for outcome in here]


@pytest.mark.parametrize("where", ["serial", "processes:1"])
def test_an_unreadable_scene_is_named_with_its_file_and_costs_nothing_that_was_finished(
    scenes: list[Scene], category: Category, models: list[Model], tmp_path: Path, where: str
) -> None:
    (gone,) = [clip for clip in scenes[1].train if clip.name == "02_002"]
    copy = tmp_path / "02_002"
    _save(copy, np.zeros((3, 48, 80, 3), dtype=np.uint8))
    (copy / "001.png").write_bytes(b"no picture")
    clips = tuple(replace(clip, source=copy) if clip == gone else clip for clip in scenes[1].train)
    bad = replace(scenes[1], root=Path("/"), train=clips)
    units = [*plan([category], models[:1], SETTINGS), *plan_scenes([scenes[0], bad], models[:1], SETTINGS)]
    with open_executor(where) as executor, pytest.raises(RunsFailedError) as raised:
        run(units, tmp_path / "results", executor=executor)
    message = str(raised.value)
    assert message.startswith("scene 02: ")
    assert str(copy / "001.png") in message
    assert "\n" not in message
    assert [unit.place for unit in raised.value.units] == ["scene 02"]
    assert [outcome.config.category for outcome in raised.value.outcomes] == ["grid", "01"]
    assert all(isinstance(outcome, Outcome) and outcome.path.is_file() for outcome in raised.value.outcomes)


def test_a_scene_of_a_single_training_frame_is_refused(
    scenes: list[Scene], models: list[Model], tmp_path: Path
) -> None:
    one = replace(scenes[0], train=scenes[0].train[:1])
    with pytest.raises(PadimBenchError, match=r"scene 01: 1 training frame: lower --stc-every"):
        run(plan_scenes([one], models, SETTINGS, every=TRAIN), tmp_path)


def test_a_model_that_cannot_be_fitted_costs_no_other(
    scenes: list[Scene], models: list[Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit(config: RunConfig, seen: methods.Seen, **chosen: Any) -> methods.Fitted:
        if config.model.strategy == "whitening":
            raise StrategyInvalidError("wrong on this machine")
        return methods.fit(config, seen, **chosen)

    monkeypatch.setattr(scenes_module, "fit", fit)
    said: list[str] = []
    outcomes = run(plan_scenes(scenes[:1], models, SETTINGS), tmp_path, on_message=said.append)
    assert [outcome.record.status for outcome in outcomes] == ["ok"] * 4 + ["invalid"]
    told = [line for line in said if " of memory: the program " not in line]
    assert told == ["scene 01 R18-Rd4 whitening: INVALID: wrong on this machine"]
    assert (outcomes[-1].record.scores, outcomes[-1].record.dataset.n_test) == ((), 0)


@pytest.mark.parametrize("unfit", [{"reduction": "pca"}, {"fusion": "sum", "n_features": None}])
def test_what_needs_all_features_at_once_is_refused(
    scenes: list[Scene], models: list[Model], unfit: dict[str, Any]
) -> None:
    wanted, weights = models[0]
    with pytest.raises(PadimBenchError, match="choose a reduction that learns nothing"):
        plan_scenes(scenes, [(wanted.vary(**unfit), weights)], SETTINGS)
