"""A procedurally drawn data set in the MVTec AD layout, for trying the benchmark without real data.

Two textures (``weave``, mode L; ``terrazzo``) and two roughly aligned objects (``gear``,
``resistor``), 256x256 pixels each. An image depends on the seed, its category, its folder and its
number alone, never on what else is drawn; only a NumPy release that changes its random streams
changes it. A mask holds exactly the pixels that its defect changed.
"""

from __future__ import annotations

import json
import math
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import uniform_filter

from padim_bench.data.datasets import DEMO_CATEGORIES
from padim_bench.demo.drawing import (
    SIZE,
    Array,
    Drawing,
    Mask,
    X,
    Y,
    blob,
    blotches,
    box,
    colour,
    covered,
    draw_spots,
    flawless,
    jagged_line,
    log_uniform,
    norm,
    overlay,
    paint,
    polyline,
    pose,
    region_count,
    reshape,
)
from padim_bench.errors import PadimBenchError

FORMAT = 1  # raise it whenever a pixel of any image changes
TRAIN, TEST_GOOD, PER_DEFECT = 60, 20, 10  # images in each folder


class Picture(NamedTuple):
    """What the camera sees: the same part, light and noise without and with the defect."""

    clean: NDArray[np.uint8]
    image: NDArray[np.uint8]
    mask: Mask


def _weave(rng: Generator, flaw: Generator, defect: str) -> Drawing:
    """Plain-woven grey cloth, its threads uneven in tone and slightly wavy."""
    x, y = pose(rng, degrees=2.0, shift=0.0, zoom=0.03)
    pitch = 9.0
    u = x / pitch + 0.14 * blotches(rng, 5) + rng.uniform(30.0, 32.0)
    v = y / pitch + 0.14 * blotches(rng, 5) + rng.uniform(30.0, 32.0)
    column, row = u.astype(np.intp), v.astype(np.intp)
    across, down = (u - column - 0.5) ** 2, (v - row - 0.5) ** 2
    tones = 1.0 + rng.normal(0.0, 0.05, (2, 64))
    warp = 152.0 * tones[0][column] * (1.0 - 2.0 * across) * (1.0 - 1.1 * down)
    weft = 124.0 * tones[1][row] * (1.0 - 2.0 * down) * (1.0 - 1.1 * across)
    slub = 1.0 + 0.05 * blotches(rng, 40) + 0.04 * blotches(rng, 4)
    clean = (np.where((column + row) % 2 == 0, warp, weft) * slub)[None]
    if defect == "good":
        return flawless(clean)
    spots = draw_spots(flaw)
    if defect == "hole":
        frayed = [blob(flaw, x, y, spot, (70, 700)) + 0.8 * blotches(flaw, 64) for spot in spots]
        return overlay(clean, colour(30), [covered(tear, 2.0) for tear in frayed])
    if defect == "snag":
        loops = [jagged_line(flaw, x, y, spot, length=flaw.uniform(25, 70), bend=0.4) for spot in spots]
        return overlay(clean, colour(212), [covered(loop - 1.6) for loop in loops], opacity=0.85)
    pools = [covered(blob(flaw, x, y, spot, (400, 3000)), 5.0) for spot in spots]
    return overlay(clean, colour(0), pools, opacity=flaw.uniform(0.12, 0.3))


def _terrazzo(rng: Generator, flaw: Generator, defect: str) -> Drawing:
    """Ground stone: angular chips of four colours in a light cement."""
    cement = colour(196, 192, 184) + rng.normal(0.0, 2.0, (3, 1, 1))
    clean = cement + 3.5 * blotches(rng, 6) + 3.0 * blotches(rng, 80)
    stones = [colour(118, 112, 106), colour(158, 122, 98), colour(226, 222, 214), colour(140, 148, 142)]
    pitch, sides, margin = 20, 7, 14
    for cell in range((SIZE // pitch + 2) ** 2):
        row, column = divmod(cell, SIZE // pitch + 2)
        # Every other row is offset and every chip strays, which hides the grid that spreads them.
        cx = (column + 0.5 * (row % 2)) * pitch + rng.uniform(-15.0, 5.0)
        cy = row * pitch + rng.uniform(-15.0, 5.0)
        angles = (np.arange(sides) + rng.uniform(-0.4, 0.4, sides)) * 2 * math.pi / sides
        reach = log_uniform(rng, 2.5, 10.0) * rng.uniform(0.75, 1.1, sides)
        stone = stones[rng.choice(4, p=[0.3, 0.25, 0.25, 0.2])] + rng.normal(0.0, 6.0)
        x0, x1 = (min(max(int(cx) + side, 0), SIZE) for side in (-margin, margin))
        y0, y1 = (min(max(int(cy) + side, 0), SIZE) for side in (-margin, margin))
        if x0 < x1 and y0 < y1:
            across = np.cos(angles)[:, None] * (np.arange(x0, x1) - cx)
            down = np.sin(angles)[:, None] * (np.arange(y0, y1) - cy) - reach[:, None]
            chip = covered((across[:, None, :] + down[:, :, None]).max(axis=0))
            clean[:, y0:y1, x0:x1] = paint(clean[:, y0:y1, x0:x1], stone, chip)
    if defect == "good":
        return flawless(clean)
    spots = draw_spots(flaw)
    if defect == "crack":
        width = flaw.uniform(0.9, 1.5)
        cracks = [jagged_line(flaw, X, Y, spot, length=flaw.uniform(35, 120), bend=0.5) for spot in spots]
        return overlay(clean, colour(58, 54, 50), [covered(crack - width) for crack in cracks])
    if defect == "ink":
        ink = (colour(60, 76, 132), colour(150, 62, 54))[flaw.integers(2)]
        drops = [covered(blob(flaw, X, Y, spot, (60, 900)), 2.0) for spot in spots]
        return overlay(clean, ink, drops, opacity=flaw.uniform(0.35, 0.8))
    # Haze: the polish is missing, so that the stone looks dull.
    dull = [covered(blob(flaw, X, Y, spot, (700, 3000)), 6.0) for spot in spots]
    return overlay(clean, colour(255, 255, 255), dull, opacity=flaw.uniform(0.2, 0.4))


def _gear(rng: Generator, flaw: Generator, defect: str) -> Drawing:
    """A spur gear of 22 teeth on a dark belt, with a keyed bore and five lightening holes."""
    x, y = pose(rng, degrees=2.5, shift=3.0, zoom=0.01)
    rho, theta = norm(x, y), np.arctan2(y, x)
    teeth, root, tip = 22, 84.0, 101.0
    turn = theta * teeth / (2 * math.pi)
    tooth = turn.round().astype(np.intp) % teeth
    flank = np.abs(turn - turn.round()) * rho * 2 * math.pi / teeth - (7.2 - 0.2 * (rho - root))
    bore = np.minimum(rho - 15.0, box(x, y + 16.0, 4.5, 6.0, 0.5))
    fifth = 2 * math.pi / 5
    sector = (theta + 0.25 * fifth) % fifth - 0.5 * fifth  # all five holes lie where this one does
    bore = np.minimum(bore, norm(rho * np.cos(sector) - 51.0, rho * np.sin(sector)) - 11.5)
    belt = colour(58, 62, 68) + 3.0 * blotches(rng, 5)
    sheen = 16.0 * np.cos(2.0 * theta + rng.normal(1.8, 0.05)) + 3.0 * blotches(rng, 6)
    grooves = 3.0 * np.sin(1.9 * rho + rng.uniform(0.0, 6.0))
    web = 14.0 * (covered(rho - 31.0, 3.0) + covered(69.0 - rho, 3.0))  # the hub and the rim stand out
    rings = 26.0 * (covered(np.abs(rho - 31.0), 3.0) + covered(np.abs(rho - 69.0), 3.0))
    face = 142.0 + rng.uniform(-4.0, 4.0) + sheen + grooves + web - rings

    def draw(tips: Array) -> tuple[Array, Array]:
        steel = np.maximum(np.minimum(rho - root, np.maximum(flank, rho - tips[tooth])), -bore)
        cover = covered(steel)
        shadow = np.roll(uniform_filter(cover, 9), (4, 5), axis=(0, 1))
        bevel = 18.0 * covered(-steel - 1.5, 2.0) * np.where(X + Y < 0, 1.0, -1.0)
        return paint(belt * (1.0 - 0.3 * shadow), (face + bevel) * colour(1.0, 1.01, 1.04), cover), cover

    tips = np.full(teeth, tip)
    clean, steel = draw(tips)
    if defect == "good":
        return flawless(clean)
    if defect == "broken_tooth":
        first = flaw.integers(teeth)
        for k in range(region_count(flaw)):
            tips[(first + 7 * k) % teeth] -= flaw.uniform(5.0, tip - root)
        return reshape(clean, draw(tips)[0])
    # On the solid rim, so that no mark falls wholly into a hole.
    radius, angle, count = flaw.uniform(65.0, 82.0), flaw.uniform(0.0, 2 * math.pi), region_count(flaw)
    spots = [(radius * math.cos(angle + 2.2 * k), radius * math.sin(angle + 2.2 * k)) for k in range(count)]
    if defect == "scratch":
        lines = [jagged_line(flaw, x, y, spot, length=flaw.uniform(35, 80), bend=0.08) for spot in spots]
        marks = [covered(line - flaw.uniform(0.9, 1.4)) * steel for line in lines]
        return overlay(clean, colour(226, 228, 232), marks, opacity=0.75)
    rust = colour(128, 78, 46) * (1.0 + 0.12 * blotches(flaw, 50))
    patches = [covered(blob(flaw, x, y, spot, (100, 1600)), 4.0) * steel for spot in spots]
    return overlay(clean, rust, patches, opacity=flaw.uniform(0.3, 0.7))


def _resistor(rng: Generator, flaw: Generator, defect: str) -> Drawing:
    """An axial resistor on a light tray: a dog-bone body, five colour bands and two leads."""
    x, y = pose(rng, degrees=2.0, shift=3.0, zoom=0.015)
    tray = colour(190, 194, 192) + 3.0 * blotches(rng, 4)
    body = covered(np.minimum(box(x, y, 60.0, 25.0, 10.0), box(np.abs(x) - 48.0, y, 18.0, 31.0, 13.0)))
    # A lacquered cylinder: dark towards its edges, with one highlight above the middle.
    shade = 1.04 - 0.42 * (y / 31.0) ** 2
    gloss = 34.0 * np.exp(-(((y + 11.0) / 4.5) ** 2)) * (1.0 + 0.1 * blotches(rng, 8))
    lacquer = colour(206, 172, 124) * (1.0 + 0.015 * blotches(rng, 12))
    bows = rng.normal(0.0, 1.0, 2)
    places = np.array([-46.0, -22.0, -4.0, 14.0, 46.0]) + rng.uniform(-0.8, 0.8, 5)
    inks = [(104, 60, 34), (38, 36, 40), (178, 44, 36), (52, 96, 58), (176, 134, 48)]

    def draw(bows: Array, places: Array, opacities: Array, order: Sequence[int]) -> Array:
        left, right = ([(60.0, 0.0), (84.0, 0.35 * bow), (112.0, bow)] for bow in bows.tolist())
        wire = np.minimum(polyline(-x, y, left), polyline(x, y, right))
        lead = covered(wire - 3.4)
        shadow = np.roll(uniform_filter(np.maximum(body, lead), 9), (6, 4), axis=(0, 1))
        image = paint(tray * (1.0 - 0.4 * shadow), 208.0 - 8.5 * np.minimum(wire, 4.0) ** 2, lead)
        coat = lacquer
        for place, opacity, ink in zip(places, opacities, order, strict=True):
            coat = paint(coat, colour(*inks[ink]), opacity * covered(np.abs(x - place) - 5.0))
        return paint(image, coat * shade + gloss, body)

    opacities, order = np.full(5, 0.94), list(range(5))
    clean = draw(bows, places, opacities, order)
    if defect == "good":
        return flawless(clean)
    if defect == "bent_lead":
        kinks = flaw.uniform(5.0, 18.0, 2) * flaw.choice([-1.0, 1.0], 2)
        kinks[flaw.permutation(2)[region_count(flaw) :]] = 0.0
        return reshape(clean, draw(bows + kinks, places, opacities, order))
    if defect == "misprint":
        for band in flaw.permutation(5)[: region_count(flaw)].tolist():
            fault = flaw.integers(3)
            if fault == 0:  # displaced
                places[band] += flaw.choice([-1.0, 1.0]) * flaw.uniform(3.0, 6.0)
            elif fault == 1:  # faint
                opacities[band] = flaw.uniform(0.0, 0.55)
            else:  # of another band's colour
                order[band] = (band + int(flaw.integers(1, 5))) % 5
        return reshape(clean, draw(bows, places, opacities, order))
    ends = flaw.permutation([-1.0, 1.0])[: region_count(flaw)]
    spots = [(end * flaw.uniform(25.0, 50.0), flaw.uniform(-12.0, 12.0)) for end in ends.tolist()]
    burns = [covered(blob(flaw, x, y, spot, (300, 2000)), 6.0) * body for spot in spots]
    return overlay(clean, colour(16, 6, 0), burns, opacity=flaw.uniform(0.2, 0.5))


MOTIFS: dict[str, tuple[Callable[[Generator, Generator, str], Drawing], tuple[str, ...]]] = {
    "weave": (_weave, ("hole", "snag", "stain")),
    "terrazzo": (_terrazzo, ("crack", "haze", "ink")),
    "gear": (_gear, ("broken_tooth", "rust", "scratch")),
    "resistor": (_resistor, ("bent_lead", "misprint", "scorch")),
}


def draw_picture(seed: int, category: str, folder: str, index: int) -> Picture:
    """Image ``index`` of ``folder``, such as ``test/hole``, without and with its defect."""
    key = [seed, zlib.crc32(category.encode()), zlib.crc32(folder.encode()), index]
    part, flaw, camera = (default_rng(child) for child in SeedSequence(key).spawn(3))
    clean, marred, mask = MOTIFS[category][0](part, flaw, folder.rpartition("/")[2])
    gain, noise = camera.uniform(0.96, 1.04), camera.normal(0.0, 1.8, (SIZE, SIZE))

    def shoot(scene: Array) -> NDArray[np.uint8]:
        planes = np.clip(np.rint(scene * gain + noise), 0, 255).astype(np.uint8)
        return planes[0] if len(planes) == 1 else np.stack(list(planes), axis=-1)

    shot = shoot(clean)
    return Picture(shot, shoot(marred) if mask.any() else shot, mask)


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def _stamp(seed: int, category: str) -> dict[str, object]:
    return {"demo": category, "format": FORMAT, "seed": seed}


def _write_category(folder: Path, seed: int, category: str) -> None:
    counts = {"train/good": TRAIN, "test/good": TEST_GOOD}
    counts |= {f"test/{defect}": PER_DEFECT for defect in MOTIFS[category][1]}
    for part, count in counts.items():
        for index in range(count):
            picture = draw_picture(seed, category, part, index)
            _save(picture.image, folder / part / f"{index:03d}.png")
            if not part.endswith("/good"):
                truth = folder / "ground_truth" / part.removeprefix("test/") / f"{index:03d}_mask.png"
                _save(picture.mask.astype(np.uint8) * 255, truth)
    (folder / "demo.json").write_text(json.dumps(_stamp(seed, category)) + "\n", encoding="utf-8")


def _is_complete(folder: Path, seed: int, category: str) -> bool:
    """Whether this very demo category is in place; raises where something else is."""
    if not folder.exists():
        return False
    try:
        found = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        found = None
    if found == _stamp(seed, category):
        return True
    if isinstance(found, dict) and found.get("demo") == category:
        what = f"holds a demo of seed {found.get('seed')}, format {found.get('format')}"
        mend = f"to draw seed {seed}, format {FORMAT}, choose another folder or delete this one"
        raise PadimBenchError(f"{folder} {what}: {mend}")
    raise PadimBenchError(f"{folder} was not written by the demo: choose another folder for the demo data")


def make_demo(root: Path, *, seed: int = 0, categories: Sequence[str] | None = None) -> Path:
    """Draws the demo categories in MVTec AD layout under ``root``, and returns ``root``.

    A category appears under its name only once it is complete, and one that is there already is
    left as it is. Nothing is ever overwritten: another seed needs another root.

    Args:
        root: made where it is missing.
        seed: 0 or more; the same seed draws the same pixels.
        categories: names of those drawn; None for all.

    Raises:
        PadimBenchError: an unknown category, a seed below 0, a root that holds the demo of another seed, or one that
            cannot be written.
    """
    names = list(dict.fromkeys(DEMO_CATEGORIES if categories is None else categories))
    if unknown := [name for name in names if name not in DEMO_CATEGORIES]:
        raise PadimBenchError(f"unknown demo category {unknown[0]!r}: choose from {', '.join(DEMO_CATEGORIES)}")
    if seed < 0:
        raise PadimBenchError(f"the demo's seed is {seed}: choose a seed of 0 or more")
    try:
        root.mkdir(parents=True, exist_ok=True)
        # Before anything is drawn, and whatever is asked for: one root never mixes two demos.
        complete = {name for name in DEMO_CATEGORIES if _is_complete(root / name, seed, name)}
        # Once a block this large has been freed, glibc keeps smaller ones instead of handing each back
        # to the kernel. That spares the drawing a third of its time, which goes into page faults.
        np.empty(30 << 20, dtype=np.uint8)
        for name in [name for name in names if name not in complete]:
            with tempfile.TemporaryDirectory(prefix=".demo-", dir=root) as workshop:
                _write_category(Path(workshop) / name, seed, name)
                try:
                    (Path(workshop) / name).rename(root / name)
                except OSError:
                    # Another process may have put the same category in place meanwhile.
                    if not _is_complete(root / name, seed, name):
                        raise
    except OSError as error:
        reason = error.strerror or error
        raise PadimBenchError(f"cannot write the demo data to {root} ({reason}): choose another folder") from error
    return root
