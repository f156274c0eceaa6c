"""A dataset whose pictures do not matter."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one category, ``grid``, with two training and two test images: not to be changed."""
    root = tmp_path_factory.mktemp("plain")
    for i in range(4):
        path = root / "grid" / ("train", "train", "test", "test")[i] / ("good", "cut")[i // 3] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (40 * i, 0, 0)).save(path)
    return root
