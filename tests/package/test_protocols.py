"""Protocols: what decides the pixels of images and of masks is exactly what each says it is."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from padim_bench.data.loading import LoadedCategory, load_category
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category
from padim_bench.protocols import CHOICES, PROTOCOLS, Protocol, rd_mvtec_protocol

TURNED = rd_mvtec_protocol(3)
# Of every field another value, and the protocol that it is changed in.
OTHER: dict[str, tuple[Protocol, Any]] = {
    "name": (TURNED, "another"),
    "resize": (TURNED, 240),
    "crop": (TURNED, 200),
    "image_interpolation": (TURNED, "bilinear"),
    "mask_interpolation": (PROTOCOLS["paper"], "bilinear"),
    "map_interpolation": (TURNED, "bilinear"),
    "sigma": (TURNED, 2.0),
    "border": (TURNED, "mirror"),
    "score_from": (TURNED, "raw"),
    "epsilon": (TURNED, 0.1),
    "compare_at": (PROTOCOLS["paper"], "masks"),
    "rotation": (TURNED, 5.0),
    "version": (TURNED, 4),
    "source": (TURNED, "somebody else"),
    "bits": (TURNED, 12),
}


@pytest.fixture(scope="module")
def part(tmp_path_factory: pytest.TempPathFactory) -> Category:
    """Two training images and one anomalous one with a mask, in 16 bits, of no size that a protocol has."""
    root = tmp_path_factory.mktemp("set")
    draw = np.random.default_rng(0)
    for name in ("train/good/000", "train/good/001", "test/hole/000"):
        path = root / "part" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 4096, (330, 310), dtype=np.uint16)).save(path)
    mask = np.kron(draw.integers(0, 2, (33, 31), dtype=np.uint8) * 255, np.ones((10, 10), dtype=np.uint8))
    (root / "part" / "ground_truth" / "hole").mkdir(parents=True)
    Image.fromarray(mask).save(root / "part" / "ground_truth" / "hole" / "000_mask.png")
    return mvtec(root, "part")


def test_every_field_of_a_protocol_is_a_choice_by_name_or_what_it_is_called() -> None:
    paper = PROTOCOLS["paper"]
    named = {f.name for f in fields(paper) if not is_dataclass(getattr(paper, f.name))} - {"name", "source"}
    parts = {f.name: getattr(paper, f.name) for f in fields(paper) if is_dataclass(getattr(paper, f.name))}
    named |= {f"{part}.{f.name}" for part, value in parts.items() for f in fields(value)}
    assert sorted(CHOICES.values()) == sorted(named)


def _differ(a: list[Any], b: list[Any]) -> bool:
    return any(x.shape != y.shape or not np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def _images(loaded: LoadedCategory) -> list[Any]:
    return [np.asarray(image) for images in (loaded.train, loaded.test) for image in images]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("field", [*CHOICES, "name", "source"])
def test_pixels_differ_exactly_where_a_protocol_says_that_they_do(part: Category, field: str) -> None:
    protocol, value = OTHER[field]
    changed = protocol.vary(**{field: value}) if field in CHOICES else replace(protocol, **{field: value})
    assert (changed != protocol) is (field != "source")  # which is prose
    before, after = (load_category(part, one) for one in (protocol, changed))
    assert _differ(_images(before), _images(after)) == (changed.images != protocol.images)
    assert before.masks is not None
    assert after.masks is not None
    masks = _differ(list(before.masks), list(after.masks))
    assert masks == (changed.mask_choices != protocol.mask_choices)
