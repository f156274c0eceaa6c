"""Protocols on the way from one preset to another, and pixels compared at the masks' own resolution."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from padim_bench import PROTOCOLS, PadimBenchError, Protocol, compute_metrics, mvtec, protocols
from padim_bench.data.loading import load_category, load_masks
from padim_bench.data.transforms import prepare_mask
from padim_bench.evaluation import maps_at
from padim_bench.report.spec import load_toml
from padim_bench.reproduction.ablation import CHOICES, alone, gap_protocols, walk

PAPER = PROTOCOLS["paper"]
SPEC = load_toml("gaps")


def differing(one: Protocol, other: Protocol) -> list[str]:
    """Choices that differ, by name."""
    return [name for name in protocols.CHOICES if one.choice(name) != other.choice(name)]


@pytest.mark.parametrize(("start", "end"), list(permutations(PROTOCOLS, 2)))
def test_a_walk_leads_from_one_preset_to_the_other_one_choice_at_a_time(start: str, end: str) -> None:
    steps = walk(start, end)
    assert steps[0].protocol == PROTOCOLS[start]
    assert steps[-1].protocol == PROTOCOLS[end]
    assert steps[0].title == start
    assert steps[-1].title.endswith(f"= {end}")
    changed = [differing(one.protocol, other.protocol) for one, other in pairwise(steps)]
    assert all(len(fields) == 1 for fields in changed)
    assert {fields[0] for fields in changed} == set(differing(PROTOCOLS[start], PROTOCOLS[end]))
    assert len({step.protocol.name for step in steps}) == len(steps)
    assert len({step.title for step in steps}) == len(steps)


def test_the_steps_from_the_paper_to_anomalib_in_order() -> None:
    assert [(s.title, s.protocol.name) for s in walk("paper", "anomalib")] == [
        ("paper", "paper"),
        ("+ crop none", "paper+crop=None"),
        ("+ image interpolation bilinear", "paper+crop=None+image_interpolation=bilinear"),
        ("+ map interpolation bilinear", "paper+crop=None+image_interpolation=bilinear+map_interpolation=bilinear"),
        (
            "+ epsilon 0.01001",
            "paper+crop=None+image_interpolation=bilinear+map_interpolation=bilinear+epsilon=0.01001",
        ),
        ("+ border mirror = anomalib", "anomalib"),
    ]


def test_a_walk_to_where_it_starts_is_one_step() -> None:
    (step,) = walk("paper", "paper")
    assert (step.title, step.protocol) == ("paper", PAPER)


def test_presets_that_differ_in_what_no_step_changes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "other", replace(PAPER.vary(resize=320, sigma=2.0), name="other"))
    with pytest.raises(PadimBenchError, match="paper and other differ in a field"):
        walk("paper", "other")
    with pytest.raises(PadimBenchError, match="unknown protocol 'nowhere'"):
        walk("paper", "nowhere")


def test_alone_is_one_choice_away_from_the_paper() -> None:
    steps = alone(SPEC)
    assert len(steps) == len(SPEC["choices"]) > 5
    for step, choice in zip(steps, SPEC["choices"], strict=True):
        (field,) = differing(PAPER, step.protocol)
        assert field in CHOICES
        wanted = choice[field]
        assert step.protocol.choice(field) == (None if wanted == "none" else wanted)
        assert step.title == choice["title"]
    assert {differing(PAPER, s.protocol)[0] for s in steps} == set(CHOICES)  # each choice is tried
    assert len({s.title for s in steps}) == len({s.protocol for s in steps}) == len(steps)


def test_what_the_gaps_report_runs_has_names_of_its_own_and_nothing_twice() -> None:
    made = gap_protocols(SPEC)
    assert made[: len(SPEC["presets"])] == [PROTOCOLS[name] for name in SPEC["presets"]]
    assert len({p.name for p in made}) == len(made)
    assert len({tuple(p.choice(name) for name in protocols.CHOICES) for p in made}) == len(made)
    wanted = {s.protocol for w in SPEC["walks"] for s in walk(w["from"], w["to"])} | {s.protocol for s in alone(SPEC)}
    assert wanted <= set(made)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"sigma": 2.0}, "paper+sigma=2"),
        ({"epsilon": 0.001}, "paper+epsilon=0.001"),
        ({"crop": None}, "paper+crop=None"),
        ({"border": "mirror", "score_from": "raw"}, "paper+border=mirror+score_from=raw"),
        ({"border": "reflect", "compare_at": "masks"}, "paper+compare_at=masks"),
    ],
)
def test_a_varied_protocol_says_what_was_changed(changes: dict[str, Any], name: str) -> None:
    varied = PAPER.vary(**changes)
    assert varied == Protocol.of(name, source=PAPER.source, **changes)


def test_what_changes_nothing_is_the_protocol_itself() -> None:
    assert PAPER.vary() is PAPER
    assert PAPER.vary(sigma=4.0, border="reflect", crop=224) is PAPER


@pytest.mark.parametrize("changes", [{"compare_at": "pixels"}, {"crop": 300}, {"sigma": -1.0}, {"epsilon": 0.0}])
def test_a_varied_protocol_is_checked_as_any_other(changes: dict[str, Any]) -> None:
    with pytest.raises(PadimBenchError, match="choose"):
        PAPER.vary(**changes)


# The masks' own resolution.


def test_the_mask_is_what_lies_under_the_crop_at_its_own_size() -> None:
    """Of 256 pixels the crop leaves out 16 on each side: a sixteenth."""
    pixels = np.zeros((600, 900), dtype=np.uint8)
    pixels[200:210, 100:130] = 255
    pixels[:30, :] = 255  # above the crop
    pixels[100, 840:] = 1  # on its right edge, and faint
    protocol = PAPER.vary(compare_at="masks")
    mask = prepare_mask(pixels != 0, protocol)
    top, bottom, left, right = 38, 562, 56, 844  # 37.5 and 56.25, to the nearest pixel (a half to the even one)
    assert np.array_equal(mask, pixels[top:bottom, left:right] != 0)
    rows, columns = np.nonzero(mask)
    assert (rows.min(), rows.max(), columns.max()) == (100 - top, 209 - top, right - left - 1)
    assert mask.sum() == 10 * 30 + (844 - 840)


def test_without_a_crop_it_is_the_mask_as_stored() -> None:
    pixels = np.random.default_rng(0).integers(0, 2, (31, 47), dtype=np.uint8)
    protocol = PAPER.vary(crop=None, compare_at="masks")
    assert np.array_equal(prepare_mask(pixels == 1, protocol), pixels == 1)


@pytest.mark.parametrize(("size", "crop"), [((900, 600), 224), ((256, 256), 224), ((1024, 700), 200), ((101, 57), 224)])
def test_the_crop_of_masks_covers_the_same_part_as_that_of_images(size: tuple[int, int], crop: int) -> None:
    width, height = size
    protocol = PAPER.vary(crop=crop, compare_at="masks")
    share = crop / 256
    mask = prepare_mask(np.ones((height, width), dtype=bool), protocol)
    assert mask.shape == (pytest.approx(share * height, abs=1), pytest.approx(share * width, abs=1))
    gradient = np.broadcast_to(np.linspace(0, 1, width), (height, width))
    above_half = prepare_mask(gradient > 0.5, protocol)
    assert above_half.mean() == pytest.approx(0.5, abs=1.5 / width)  # cut off alike on both sides


def test_maps_are_resized_to_their_masks_as_the_protocol_interpolates() -> None:
    bilinear = Protocol.of("two", resize=2, crop=None, map_interpolation="bilinear", compare_at="masks")
    maps = torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[1.0, 1.0], [1.0, 1.0]]])
    masks = [np.zeros((4, 4), dtype=bool), np.zeros((5, 3), dtype=bool)]
    first, second = maps_at(masks, maps, bilinear)
    across = np.array([0, 0.25, 0.75, 1])
    np.testing.assert_allclose(first, 2 * across[:, None] + across, atol=1e-6)
    np.testing.assert_allclose(second, np.ones((5, 3)), atol=1e-6)
    overshooting = maps_at(masks, maps, bilinear.vary(map_interpolation="bicubic"))[0]
    assert overshooting.max() > 3
    assert overshooting.min() < 0


def test_maps_stay_as_they_are_where_the_protocol_compares_at_its_own_size() -> None:
    maps = torch.rand(2, 8, 8)
    masks = [np.zeros((8, 8), dtype=bool)] * 2
    for protocol, given in ((PAPER, masks), (PAPER, None), (PAPER.vary(compare_at="masks"), None)):
        found = maps_at(given, maps, protocol)
        assert all(np.array_equal(a, b) for a, b in zip(found, maps.numpy(), strict=True))


def save_category(root: Path, size: tuple[int, int]) -> None:
    """Noise of (width, height), with a defect in two of four test images."""
    draw = np.random.default_rng(0)

    def save(path: Path, pixels: NDArray[np.uint8]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)

    for folder in ("train/good", "test/good", "test/dent"):
        for i in range(2):
            save(root / folder / f"{i:03d}.png", draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    for i in range(2):
        mask = np.zeros((size[1], size[0]), dtype=np.uint8)
        mask[70 : 120 + 20 * i, 60 + 50 * i : 180] = 255
        save(root / "ground_truth" / "dent" / f"{i:03d}_mask.png", mask)


def test_with_masks_stored_at_the_protocols_size_both_give_the_same_numbers(tmp_path: Path) -> None:
    save_category(tmp_path / "part", (256, 256))
    category = mvtec(tmp_path, "part")
    maps = torch.rand(4, 224, 224, generator=torch.Generator().manual_seed(0))
    scores = maps.amax(dim=(1, 2)).numpy()
    found = []
    for protocol in (PAPER, PAPER.vary(compare_at="masks")):
        loaded = load_category(category, protocol)
        assert loaded.masks is not None
        found.append(compute_metrics(loaded.labels, scores, loaded.masks, maps_at(loaded.masks, maps, protocol)))
    assert found[0].keys() == found[1].keys()
    assert list(found[1].values()) == pytest.approx(list(found[0].values()), abs=1e-9)
    assert 0 < found[0]["pro"] < 1


def test_masks_of_a_category_come_at_the_size_of_their_images(tmp_path: Path) -> None:
    save_category(tmp_path / "part", (320, 200))
    category, protocol = mvtec(tmp_path, "part"), PAPER.vary(compare_at="masks")
    loaded = load_category(category, protocol)
    assert loaded.test.shape == (4, 3, 224, 224)
    assert loaded.masks is not None
    assert {m.shape for m in loaded.masks} == {(176, 280)}  # normal images' too: rows 12 to 188, columns 20 to 300
    for sample, mask, again in zip(category.test, loaded.masks, load_masks(category, protocol), strict=True):
        assert np.array_equal(mask, again)
        assert mask.any() == (sample.label == 1)
    maps = torch.rand(4, 224, 224)
    assert [m.shape for m in maps_at(loaded.masks, maps, protocol)] == [(176, 280)] * 4
