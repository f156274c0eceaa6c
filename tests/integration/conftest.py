"""A few small categories in MVTec AD layout, and the command line to run over them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import CommandLine

from padim_bench.demo import images
from padim_bench.demo.scenes import make_demo_stc
from padim_bench.padim.weights import hub_unreachable

TRAIN, TEST_GOOD, PER_DEFECT = 6, 3, 1
OTHERS = 6  # the number of the first image of another category drawn alike


def _cut(source: Path, target: Path, *, first: int = 0, masks: bool = True) -> None:
    """A few images of every folder of a demo category, from number ``first`` on."""
    for folder in sorted([source / "train" / "good", *(source / "test").iterdir()]):
        count = TRAIN if folder.parent.name == "train" else TEST_GOOD if folder.name == "good" else PER_DEFECT
        for i in range(first, first + count):
            place = target / folder.relative_to(source)
            place.mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / f"{i:03d}.png", place)
            if masks and folder.name != "good":
                truth = target / "ground_truth" / folder.name
                truth.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / "ground_truth" / folder.name / f"{i:03d}_mask.png", truth)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two demo categories, with no more images than are taken from them: each is drawn for its number alone."""
    with pytest.MonkeyPatch.context() as patch:
        for name, count in (("TRAIN", TRAIN), ("TEST_GOOD", TEST_GOOD), ("PER_DEFECT", PER_DEFECT)):
            patch.setattr(images, name, OTHERS + count)
        return images.make_demo(tmp_path_factory.mktemp("drawn"), categories=["weave", "gear"])


@pytest.fixture(scope="session")
def tiny(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bottle`` (object) and ``grid`` (texture) with masks, ``leather`` (texture) without any: not to be changed.

    The names are MVTec AD's, so that the paper's numbers stand beside those of the images drawn here.
    """
    root = tmp_path_factory.mktemp("tiny") / "set"
    _cut(drawn / "gear", root / "bottle")
    _cut(drawn / "weave", root / "grid")
    _cut(drawn / "weave", root / "leather", first=OTHERS, masks=False)
    return root


@pytest.fixture(scope="session")
def custom(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of the user's own, with the category ``part``."""
    root = tmp_path_factory.mktemp("custom") / "factory"
    _cut(drawn / "gear", root / "part", first=OTHERS)
    return root


@pytest.fixture(scope="session")
def campus_frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drawn scenes as single frames, in ShanghaiTech Campus' layout: not to be changed."""
    return make_demo_stc(tmp_path_factory.mktemp("frames") / "campus", video=False)


@pytest.fixture
def bottle(tiny: Path, tmp_path: Path) -> Path:
    """A category to be changed at will; its dataset is the folder above."""
    return Path(shutil.copytree(tiny / "bottle", tmp_path / "data" / "bottle"))


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(capfd)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No network, and nothing of timm's in the hub's local cache."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    hub_unreachable.cache_clear()
    yield
    hub_unreachable.cache_clear()
