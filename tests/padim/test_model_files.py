"""Models on disk: they score as they did, or are refused in a line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from padim_bench import PaDiM, PadimBenchError, create_backbone
from padim_bench.padim.digests import tensors_digest
from tests.spoil import edited, flipped, outcomes, ruined

TRAIN, TEST = (
    torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(n)) for n in (5, 2)
)
# How a model that loads is refused when it scores: its images are of another size, or grids of another shape.
WHEN_SCORING = "the model was fitted on"


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    return create_backbone("resnet18", "random", ["layer1"])


@pytest.fixture(scope="module")
def fitted(backbone: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of few channels, by a strategy whose state has tensors of two dtypes."""
    path = tmp_path_factory.mktemp("fitted") / "model.safetensors"
    PaDiM(backbone, n_features=6, seed=3, strategy="woodbury", storage="float16").fit(TRAIN).save(path)
    return path


def test_who_may_read_other_files_may_read_a_model(fitted: Path) -> None:
    other = fitted.with_name("other")
    other.touch()
    assert fitted.stat().st_mode == other.stat().st_mode


def parts(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["padim_bench"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118


def saved(path: Path, about: Any, tensors: dict[str, Tensor], seal: str | None = None) -> Path:
    """Such a file with a digest that is right, unless another is given."""
    text = json.dumps(about)
    save_file(tensors, path, {"padim_bench": text, "sha256": tensors_digest(tensors, text) if seal is None else seal})
    return path


def scores(path: Path) -> Callable[[], list[list[float]]]:
    def case() -> list[list[float]]:
        maps, maxima = PaDiM.load(path).score(TEST)
        return [maps.flatten().tolist(), maxima.tolist()]

    return case


def test_no_flipped_bit_of_a_model_changes_a_score_or_gives_a_traceback(fitted: Path, tmp_path: Path) -> None:
    draw, raw, cases = random.Random(6), fitted.read_bytes(), {}
    header = int.from_bytes(raw[:8], "little") + 8
    for i in range(250):
        content = flipped(raw[:header], draw) + raw[header:] if i % 2 else flipped(raw, draw)
        path = tmp_path / f"{i}.safetensors"
        path.write_bytes(content)
        cases[f"flip {i}"] = scores(path)
    assert outcomes(cases, scores(fitted)(), str(tmp_path))["refused"] > 240


def test_what_is_no_model_any_more_is_refused(fitted: Path, tmp_path: Path) -> None:
    raw, (about, tensors) = fitted.read_bytes(), parts(fitted)
    cases = {}
    texts = ruined(json.dumps(about).encode())
    for i, content in enumerate([b"", raw[:4], raw[:-1], raw[:3000], raw + b"\0", b"\xff" * 16, raw[8:]]):
        (tmp_path / f"whole{i}").write_bytes(content)
        cases[f"whole {i}"] = scores(tmp_path / f"whole{i}")
    for i, text in enumerate(t.decode("utf-8", "ignore") for t in texts):
        seal = {"padim_bench": text, "sha256": tensors_digest(tensors, text)}
        save_file(tensors, tmp_path / f"about{i}", seal)
        cases[f"about {i}: {text[:30]!r}"] = scores(tmp_path / f"about{i}")
    (tmp_path / "folder").mkdir()
    cases["a folder"] = scores(tmp_path / "folder")
    assert outcomes(cases, scores(fitted)(), str(tmp_path))["refused"] > len(cases) - 4  # some ruins touch nothing here


def test_an_edited_model_is_refused_and_with_a_new_digest_gives_no_traceback(fitted: Path, tmp_path: Path) -> None:
    draw, (about, tensors) = random.Random(7), parts(fitted)
    expected, cases = scores(fitted)(), {}
    for i in range(30):
        path = saved(
            tmp_path / f"plain{i}", edited(about, draw), tensors, seal=tensors_digest(tensors, json.dumps(about))
        )
        cases[f"edit {i}"] = scores(path)
    assert outcomes(cases, expected, str(tmp_path))["refused"] == 30
    cases = {}
    for i in range(60):
        wrong = edited(about, draw)
        cases[f"edit {i}: {wrong}"] = scores(saved(tmp_path / f"resealed{i}", wrong, tensors))
    assert outcomes(cases, expected, str(tmp_path), WHEN_SCORING, changes=True)["refused"] > 30


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("seed", 4, "channels: not those of reduction random, n_features 6, seed 4"),
        ("channels", [0, 1, 2, 3, 4, 4], "channels: "),
        ("channels", [0, 1, 2, 3, 4, 64], "channels: "),
        ("n_features", 7, "n_features 7"),
        ("epsilon", 0.0, "epsilon: "),
        ("layer_grids", [[8, 4]], "mean: "),
        ("layer_grids", [[8, 8], [4, 4]], "layer_grids: "),
        ("image_size", [32], "image_size"),
        ("n_images", 9, "state.rows: "),
        ("strategy_used", "cholesky", "strategy_used: "),
        ("dtype", "float32", "state.rows: "),
        ("layers", ["layer9"], "layer9"),
        ("arch", "resnet19", "weights.arch: "),
        ("residual", "small", "residual: "),
    ],
)
def test_what_does_not_hold_together_is_named(fitted: Path, tmp_path: Path, place: str, value: Any, said: str) -> None:
    about, tensors = parts(fitted)
    path = saved(tmp_path / "model", about | {place: value}, tensors)
    with pytest.raises(PadimBenchError) as caught:
        PaDiM.load(path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t | {"mean": t["mean"][1:]},
        lambda t: t | {"mean": t["mean"].double()},
        lambda t: t | {"mean": t["mean"].int()},
        lambda t: {k: v for k, v in t.items() if k != "mean"},
        lambda t: {k: v for k, v in t.items() if k != "state.rows"},
        lambda t: t | {"state.more": t["mean"].clone()},
        lambda t: t | {"projection": torch.zeros(6, 64)},
        lambda t: t | {"state.rows": t["state.rows"].clone().fill_(float("nan"))},
        lambda t: t | {"mean": t["mean"].clone().fill_(float("inf"))},
        lambda t: t | {"state.rows": t["state.rows"].mT.contiguous()},
    ],
)
def test_tensors_that_are_not_the_strategys_are_refused(
    fitted: Path, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    about, tensors = parts(fitted)
    path = saved(tmp_path / "model", about, change(tensors))
    with pytest.raises(PadimBenchError, match=r"model does not hold together .* fit and save it again"):
        PaDiM.load(path)


def test_models_of_the_format_before_say_so(fitted: Path, tmp_path: Path) -> None:
    about, tensors = parts(fitted)
    path = saved(tmp_path / "model", about | {"format": "2"}, tensors)
    with pytest.raises(PadimBenchError, match=r"not a PaDiM model of format 4 \('2'\): fit and save it again"):
        PaDiM.load(path)
