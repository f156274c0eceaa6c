"""Saved maps are what MVTec's public evaluation code looks for: its walk through folders and its rules of reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from padim_bench import SaveMaps, mvtec
from padim_bench.cli.run import border_note
from padim_bench.data.samples import Category
from padim_bench.maps.saving import MapWriter
from padim_bench.protocols import Protocol, get_protocol

SIZES = {"good/000": (60, 40), "good/001": (64, 64), "cut/000": (60, 40), "cut/crack.1": (30, 50)}  # width, height
CROPPED, WHOLE = get_protocol("paper"), get_protocol("anomalib")


def walked(dataset: Path, maps: Path, name: str) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8] | None]]:
    """Every map below ``maps/name/test`` and its ground truth; none of images in a folder called good."""
    for defect in sorted((maps / name / "test").iterdir()):
        for file in sorted(defect.iterdir()):
            assert file.suffix == ".tiff"
            truth = dataset / name / "ground_truth" / defect.name / f"{file.stem}_mask.png"
            yield tifffile.imread(file), None if defect.name == "good" else np.asarray(Image.open(truth))


@pytest.fixture
def category(tmp_path: Path) -> Category:
    """Images of several sizes; of each defect the mask touches the upper edge and the middle."""
    base = tmp_path / "set" / "part"
    for name in ("train/good", "test/good", "test/cut", "ground_truth/cut"):
        (base / name).mkdir(parents=True)
    Image.new("RGB", (60, 40)).save(base / "train" / "good" / "000.png")
    for name, (width, height) in SIZES.items():
        Image.new("RGB", (width, height)).save(base / "test" / f"{name}.png")
        mask = np.zeros((height, width), np.uint8)
        mask[0] = mask[height // 2] = 255
        if name.startswith("cut"):
            Image.fromarray(mask).save(base / "ground_truth" / f"{name}_mask.png")
    return mvtec(tmp_path / "set", "part")


def saved(where: SaveMaps, category: Category, protocol: Protocol) -> SaveMaps:
    writer = MapWriter(where, category, protocol)
    writer.add(torch.rand(len(category.test), protocol.size, protocol.size) + 1)
    writer.finish(np.zeros(len(category.test), np.float32))
    return where


@pytest.mark.parametrize("protocol", [CROPPED, WHOLE], ids=["cropped", "whole"])
def test_every_map_is_found_and_is_as_large_as_the_dataset_s_own_ground_truth(
    category: Category, tmp_path: Path, protocol: Protocol
) -> None:
    where = saved(SaveMaps(tmp_path / "maps"), category, protocol)
    found = list(walked(tmp_path / "set", where.folder, "part"))
    assert len(found) == len(SIZES)
    for score_map, mask in found:
        assert (score_map.dtype, score_map.ndim) == (np.float32, 2)
        assert score_map.shape[::-1] in SIZES.values()
        assert mask is None or mask.shape == score_map.shape
    # Where nothing was scored there is no NaN but the map's own minimum; a line says so of a protocol that crops.
    assert all(np.isfinite(score_map).all() for score_map, _ in found)
    assert ("their own minimum where the protocol crops" in border_note(where, protocol)) is (protocol is CROPPED)


@pytest.mark.parametrize("at", ["image", "protocol"])
def test_of_a_cropped_protocol_the_masks_that_go_with_the_maps_stand_in_for_the_dataset(
    category: Category, tmp_path: Path, at: str
) -> None:
    where = SaveMaps(tmp_path / "maps", "image" if at == "image" else "protocol", tmp_path / "masks")
    saved(where, category, CROPPED)
    assert f"the masks in {(tmp_path / 'masks').as_posix()} that go with them" in border_note(where, CROPPED)
    found = list(walked(tmp_path / "masks", where.folder, "part"))
    assert len(found) == len(SIZES)
    masks = [mask for _, mask in found if mask is not None]
    assert len(masks) == 2
    for score_map, mask in found:
        assert at == "image" or score_map.shape == (224, 224)
        if mask is not None:
            assert mask.shape == score_map.shape
            assert set(np.unique(mask)) == {0, 255}
            assert at == "protocol" or not mask[0].any()  # of the border, which is not scored, nothing counts
