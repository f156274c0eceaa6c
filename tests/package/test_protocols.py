"""Protocols: what decides the pixels of images and of masks is exactly what each says it is."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from padim_bench.data.loading import LoadedCategory, load_category
from padim_bench.data.mvtec import mvtec
from padim_bench.data.samples import Category
from padim_bench.data.transforms import original_crop, prepare_mask
from padim_bench.errors import PadimBenchError
from padim_bench.maps.saving import at_image
from padim_bench.protocols import CHOICES, PROTOCOLS, Protocol, get_protocol, rd_mvtec_protocol

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


PAPER = PROTOCOLS["paper"]


@pytest.mark.parametrize(
    ("protocol", "resize", "crop", "sides", "title"),
    [
        ("paper", 512, 448, (512, 448), "paper, resize 512, crop 448"),
        ("paper", 512, None, (512, 448), "paper, resize 512, crop 448"),
        ("paper", 250, None, (250, 218), "paper, resize 250, crop 218"),
        ("paper", 456, "none", (456, None), "paper, resize 456, crop none"),
        ("paper", None, 200, (256, 200), "paper, crop 200"),
        ("paper", 224, 224, (224, None), "paper, resize 224, crop none"),
        ("paper", 256, 224, (256, 224), "paper"),
        ("anomalib", 456, None, (456, None), "anomalib, resize 456"),
        ("anomalib", 512, 448, (512, 448), "anomalib, resize 512, crop 448"),
    ],
)
def test_another_size_keeps_what_is_seen_of_the_image_unless_a_crop_says_otherwise(
    protocol: str, resize: int | None, crop: Any, sides: tuple[int, int | None], title: str
) -> None:
    found = PROTOCOLS[protocol].sized(resize, crop)
    assert (found.images.resize, found.images.crop) == sides
    assert found.title == title
    assert get_protocol(found.name) == found
    assert replace(found, images=PROTOCOLS[protocol].images, name=protocol) == PROTOCOLS[protocol]


def test_a_size_has_one_name_and_a_protocol_varied_back_is_the_preset_itself() -> None:
    large = PAPER.vary(resize=512, crop=448)
    assert large.name == "paper+resize=512+crop=448"
    assert PAPER.vary(crop=448, resize=512) == PAPER.vary(resize=512).vary(crop=448) == large
    assert large.vary(sigma=2.0).vary(resize=256, crop=224) == PAPER.vary(sigma=2.0)
    assert large.sized(256, 224) is PAPER
    assert PAPER.vary(sigma=2.0, crop=None).name == "paper+sigma=2+crop=None"  # as records of before have it
    assert get_protocol("paper+epsilon=1e-09+sigma=2") == PAPER.vary(epsilon=1e-9, sigma=2.0)
    own = Protocol.of("mine", resize=300)
    assert own.vary(resize=256).name == "mine+resize=256"  # of which nobody knows what it was


@pytest.mark.parametrize(
    ("resize", "crop", "said"),
    [
        (None, 257, "crop 257 is larger than the image, which protocol paper resizes to 256 pixels"),
        (100, 101, "a resize of 101 or more"),
        (0, None, "1 pixel or more"),
        (-5, None, "1 pixel or more"),
        (None, 0, "1 pixel or more"),
    ],
)
def test_sizes_that_cannot_be_are_refused(resize: int | None, crop: int | None, said: str) -> None:
    with pytest.raises(PadimBenchError, match=said):
        PAPER.sized(resize, crop)


@pytest.mark.parametrize("name", ["paper+", "paper+resize=", "paper+resize=x", "paper+size=3", "nix+resize=300"])
def test_a_name_that_no_protocol_has_is_refused(name: str) -> None:
    with pytest.raises(PadimBenchError):
        get_protocol(name)


sides = st.integers(1, 90)


@settings(max_examples=150)
@given(resize=sides, cut=st.integers(0, 89), size=st.tuples(st.integers(8, 120), st.integers(8, 120)), seed=sides)
def test_masks_and_maps_of_any_size_lie_where_the_image_was_cut(
    resize: int, cut: int, size: tuple[int, int], seed: int
) -> None:
    """Held to the place of every single pixel: where its centre lies in the image as stored, and back."""
    protocol = PAPER.sized(resize, max(1, resize - cut))
    side, (width, height) = protocol.size, size
    left = (resize - side) // 2
    mask = np.random.default_rng(seed).random((height, width)) < 0.3
    # A prepared pixel's centre, in pixels of the image as stored; one that falls between two may be either's.
    rows, columns = ((np.arange(left, left + side) + 0.5) * of / resize for of in (height, width))
    found = prepare_mask(mask, protocol)
    assert found.shape == (side, side)
    sure = np.ix_(*(abs(at - at.round()) > 1e-6 for at in (rows, columns)))
    assert np.array_equal(found[sure], mask[np.ix_(rows.astype(int), columns.astype(int))][sure])

    # Pixels as stored whose centre lies under the crop, which a map over the image scores: to the pixel at the edge.
    cut_out = original_crop(size, protocol)
    whole = at_image(torch.arange(1.0, side**2 + 1).reshape(side, side), (width, height), protocol)
    assert whole.shape == (height, width)
    for of, found_at in zip((height, width), cut_out, strict=True):
        centres = (np.arange(of) + 0.5) * resize / of
        under = np.flatnonzero((centres >= left) & (centres < left + side))
        if len(under):
            assert abs(found_at.start - under[0]) <= 1
            assert abs(found_at.stop - 1 - under[-1]) <= 1
