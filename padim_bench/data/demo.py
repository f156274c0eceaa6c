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
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import label, uniform_filter

from padim_bench.errors import PadimBenchError

DEMO_CATEGORIES: dict[str, str] = {
    "weave": "texture",
    "terrazzo": "texture",
    "gear": "object",
    "resistor": "object",
}

# Float64 throughout: rounding to uint8 then hides the last-bit differences between machines.
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Point = tuple[float, float]
# A part in grey levels (channel, y, x) before camera noise: flawless, marred, and where these differ.
Drawing = tuple[Array, Array, Mask]

_FORMAT = 1  # raise it whenever a pixel of any image changes
_SIZE = 256
_TRAIN, _TEST_GOOD, _PER_DEFECT = 60, 20, 10
_MIN_REGION = 20  # px; smaller splinters of a defect are left out, since PRO counts all regions alike
_AXIS = np.arange(_SIZE) - (_SIZE - 1) / 2
_Y, _X = np.meshgrid(_AXIS, _AXIS, indexing="ij")


class _Picture(NamedTuple):
    """What the camera sees: the same part, light and noise without and with the defect."""

    clean: NDArray[np.uint8]
    image: NDArray[np.uint8]
    mask: Mask


def _colour(*levels: float) -> Array:
    return np.array(levels, dtype=np.float64)[:, None, None]


def _paint(image: Array, colour: Array, cover: Array) -> Array:
    image_to_colour: Array = colour - image
    image_to_colour *= cover  # in place: the drawing's time goes into large temporaries
    image_to_colour += image
    return image_to_colour


def _length(x: Array, y: Array) -> Array:
    length: Array = np.sqrt(x * x + y * y)  # several times faster than np.hypot
    return length


# Shapes are signed distances in pixels, negative inside.


def _cover(distance: Array, softness: float = 1.0) -> Array:
    """The covered part of every pixel, 0 to 1, with an edge ``softness`` pixels wide."""
    return np.clip(0.5 - distance / softness, 0.0, 1.0)


def _box(x: Array, y: Array, half_width: float, half_height: float, radius: float) -> Array:
    across, down = np.abs(x) - half_width + radius, np.abs(y) - half_height + radius
    inside = np.minimum(np.maximum(across, down), 0.0)
    return inside + _length(np.maximum(across, 0.0), np.maximum(down, 0.0)) - radius


def _path(x: Array, y: Array, points: Sequence[Point]) -> Array:
    """Distance to the polyline through ``points``."""
    nearest = np.full_like(x, np.inf)
    for (ax, ay), (bx, by) in pairwise(points):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = np.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
    distance: Array = np.sqrt(nearest)
    return distance


def _line(rng: Generator, x: Array, y: Array, centre: Point, *, length: float, bend: float) -> Array:
    """Distance to a jagged line around ``centre`` whose pieces stray by about ``bend`` radians."""
    steps = 12
    drift = np.cumsum(rng.normal(0.0, 0.4 * bend, steps)) + rng.normal(0.0, bend, steps)
    headings = rng.uniform(0.0, 2 * math.pi) + drift
    moves = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / steps
    points = np.cumsum(moves, axis=0)
    points += np.array(centre) - points.mean(axis=0)
    return _path(x, y, [(float(px), float(py)) for px, py in points])


def _blob(rng: Generator, x: Array, y: Array, centre: Point, area: tuple[float, float]) -> Array:
    """An irregular round shape with an area between roughly the two given, in square pixels."""
    radius = math.sqrt(_between(rng, *area) / math.pi)
    stretch, turn = rng.uniform(1.0, 1.5), rng.uniform(0.0, math.pi)
    dx, dy = x - centre[0], y - centre[1]
    u = (math.cos(turn) * dx + math.sin(turn) * dy) / math.sqrt(stretch)
    v = (math.cos(turn) * dy - math.sin(turn) * dx) * math.sqrt(stretch)
    angle, edge = np.arctan2(v, u), np.ones_like(u)
    for wave in range(2, 7):
        edge += rng.uniform(0.0, 0.45) / wave * np.sin(wave * angle + rng.uniform(0.0, 2 * math.pi))
    return _length(u, v) - radius * edge


def _between(rng: Generator, low: float, high: float) -> float:
    """A size that is as likely to be small as large: log-uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


@cache
def _bumps(cells: int) -> Array:
    knots = np.linspace(-0.5, cells - 0.5, cells + 1)
    weights = np.exp(-2.0 * (np.arange(_SIZE)[:, None] / _SIZE * cells - 0.5 - knots) ** 2)
    return np.asarray(weights / np.sqrt((weights**2).sum(axis=1, keepdims=True)))


def _blotches(rng: Generator, cells: int) -> Array:
    """Smooth noise of mean 0 and variance 1, with ``cells`` blotches across the image."""
    return np.asarray(_bumps(cells) @ rng.standard_normal((cells + 1, cells + 1)) @ _bumps(cells).T)


def _pose(rng: Generator, degrees: float, shift: float, zoom: float) -> tuple[Array, Array]:
    """The image's coordinates as seen from a part that lies slightly turned, shifted and scaled."""
    turn, scale = math.radians(rng.uniform(-degrees, degrees)), 1.0 + rng.uniform(-zoom, zoom)
    dx, dy = rng.uniform(-shift, shift, 2)
    x, y = (_X - dx) / scale, (_Y - dy) / scale
    return math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x


def _count(rng: Generator) -> int:
    """How many regions a defect has: two in three images of ten."""
    return 2 if rng.random() < 0.3 else 1


def _spots(rng: Generator) -> list[Point]:
    """Where a texture is marred: off the border, which PaDiM's centre crop would cut, and far apart."""
    reach = 84.0
    x, y = (float(v) for v in rng.uniform(-reach, reach, 2))
    return [(x, y), (x - math.copysign(reach, x), y - math.copysign(reach, y))][: _count(rng)]


def _differ(clean: Array, marred: Array, region: Mask) -> Drawing:
    """Keep the defect inside ``region``, less its splinters, so that the mask is exact."""
    parts, _ = label(region)
    mask = region & (np.bincount(parts.ravel())[parts] >= _MIN_REGION)
    return clean, np.where(mask, marred, clean), mask


def _overlay(clean: Array, colour: Array, covers: Sequence[Array], opacity: float = 1.0) -> Drawing:
    cover = np.asarray(np.max(covers, axis=0))
    return _differ(clean, _paint(clean, colour, cover * opacity), cover > 0.35)


def _reshape(clean: Array, marred: Array) -> Drawing:
    return _differ(clean, marred, np.abs(marred - clean).max(axis=0) > 3.0)


def _flawless(clean: Array) -> Drawing:
    return clean, clean, np.zeros(clean.shape[1:], dtype=np.bool_)


def _weave(rng: Generator, flaw: Generator, defect: str) -> Drawing:
    """Plain-woven grey cloth, its threads uneven in tone and slightly wavy."""
    x, y = _pose(rng, degrees=2.0, shift=0.0, zoom=0.03)
    pitch = 9.0
    u = x / pitch + 0.14 * _blotches(rng, 5) + rng.uniform(30.0, 32.0)
    v = y / pitch + 0.14 * _blotches(rng, 5) + rng.uniform(30.0, 32.0)
    column, row = u.astype(np.intp), v.astype(np.intp)
    across, down = (u - column - 0.5) ** 2, (v - row - 0.5) ** 2
    tones = 1.0 + rng.normal(0.0, 0.05, (2, 64))
    warp = 152.0 * tones[0][column] * (1.0 - 2.0 * across) * (1.0 - 1.1 * down)
    weft = 124.0 * tones[1][row] * (1.0 - 2.0 * down) * (1.0 - 1.1 * across)
    slub = 1.0 + 0.05 * _blotches(rng, 40) + 0.04 * _blotches(rng, 4)
    clean = (np.where((column + row) % 2 == 0, warp, weft) * slub)[None]
    if defect == "good":
        return _flawless(clean)
    spots = _spots(flaw)
    if defect == "hole":
        frayed = [_blob(flaw, x, y, spot, (70, 700)) + 0.8 * _blotches(flaw, 64) for spot in spots]
        return _overlay(clean, _colour(30), [_cover(tear, 2.0) for tear in frayed])
    if defect == "snag":
        loops = [_line(flaw, x, y, spot, length=flaw.uniform(25, 70), bend=0.4) for spot in spots]
        return _overlay(clean, _colour(212), [_cover(loop - 1.6) for loop in loops], opacity=0.85)
    pools = [_cover(_blob(flaw, x, y, spot, (400, 3000)), 5.0) for spot in spots]
    return _overlay(clean, _colour(0), pools, opacity=flaw.uniform(0.12, 0.3))


def _terrazzo(rng: Generator, flaw: Generator, defect: str) -> Drawing:
    """Ground stone: angular chips of four colours in a light cement."""
    cement = _colour(196, 192, 184) + rng.normal(0.0, 2.0, (3, 1, 1))
    clean = cement + 3.5 * _blotches(rng, 6) + 3.0 * _blotches(rng, 80)
    stones = [_colour(118, 112, 106), _colour(158, 122, 98), _colour(226, 222, 214), _colour(140, 148, 142)]
    pitch, sides, margin = 20, 7, 14
    for cell in range((_SIZE // pitch + 2) ** 2):
        row, column = divmod(cell, _SIZE // pitch + 2)
        # Every other row is offset and every chip strays, which hides the grid that spreads them.
        cx = (column + 0.5 * (row % 2)) * pitch + rng.uniform(-15.0, 5.0)
        cy = row * pitch + rng.uniform(-15.0, 5.0)
        angles = (np.arange(sides) + rng.uniform(-0.4, 0.4, sides)) * 2 * math.pi / sides
        reach = _between(rng, 2.5, 10.0) * rng.uniform(0.75, 1.1, sides)
        stone = stones[rng.choice(4, p=[0.3, 0.25, 0.25, 0.2])] + rng.normal(0.0, 6.0)
        x0, x1 = (min(max(int(cx) + side, 0), _SIZE) for side in (-margin, margin))
        y0, y1 = (min(max(int(cy) + side, 0), _SIZE) for side in (-margin, margin))
        if x0 < x1 and y0 < y1:
            across = np.cos(angles)[:, None] * (np.arange(x0, x1) - cx)
            down = np.sin(angles)[:, None] * (np.arange(y0, y1) - cy) - reach[:, None]
            chip = _cover((across[:, None, :] + down[:, :, None]).max(axis=0))
            clean[:, y0:y1, x0:x1] = _paint(clean[:, y0:y1, x0:x1], stone, chip)
    if defect == "good":
        return _flawless(clean)
    spots = _spots(flaw)
    if defect == "crack":
        width = flaw.uniform(0.9, 1.5)
        cracks = [_line(flaw, _X, _Y, spot, length=flaw.uniform(35, 120), bend=0.5) for spot in spots]
        return _overlay(clean, _colour(58, 54, 50), [_cover(crack - width) for crack in cracks])
    if defect == "ink":
        ink = (_colour(60, 76, 132), _colour(150, 62, 54))[flaw.integers(2)]
        drops = [_cover(_blob(flaw, _X, _Y, spot, (60, 900)), 2.0) for spot in spots]
        return _overlay(clean, ink, drops, opacity=flaw.uniform(0.35, 0.8))
    # Haze: the polish is missing, so that the stone looks dull.
    dull = [_cover(_blob(flaw, _X, _Y, spot, (700, 3000)), 6.0) for spot in spots]
    return _overlay(clean, _colour(255, 255, 255), dull, opacity=flaw.uniform(0.2, 0.4))


def _gear(rng: Generator, flaw: Generator, defect: str) -> Drawing:
    """A spur gear of 22 teeth on a dark belt, with a keyed bore and five lightening holes."""
    x, y = _pose(rng, degrees=2.5, shift=3.0, zoom=0.01)
    rho, theta = _length(x, y), np.arctan2(y, x)
    teeth, root, tip = 22, 84.0, 101.0
    turn = theta * teeth / (2 * math.pi)
    tooth = turn.round().astype(np.intp) % teeth
    flank = np.abs(turn - turn.round()) * rho * 2 * math.pi / teeth - (7.2 - 0.2 * (rho - root))
    bore = np.minimum(rho - 15.0, _box(x, y + 16.0, 4.5, 6.0, 0.5))
    fifth = 2 * math.pi / 5
    sector = (theta + 0.25 * fifth) % fifth - 0.5 * fifth  # all five holes lie where this one does
    bore = np.minimum(bore, _length(rho * np.cos(sector) - 51.0, rho * np.sin(sector)) - 11.5)
    belt = _colour(58, 62, 68) + 3.0 * _blotches(rng, 5)
    sheen = 16.0 * np.cos(2.0 * theta + rng.normal(1.8, 0.05)) + 3.0 * _blotches(rng, 6)
    grooves = 3.0 * np.sin(1.9 * rho + rng.uniform(0.0, 6.0))
    web = 14.0 * (_cover(rho - 31.0, 3.0) + _cover(69.0 - rho, 3.0))  # the hub and the rim stand out
    rings = 26.0 * (_cover(np.abs(rho - 31.0), 3.0) + _cover(np.abs(rho - 69.0), 3.0))
    face = 142.0 + rng.uniform(-4.0, 4.0) + sheen + grooves + web - rings

    def draw(tips: Array) -> tuple[Array, Array]:
        steel = np.maximum(np.minimum(rho - root, np.maximum(flank, rho - tips[tooth])), -bore)
        cover = _cover(steel)
        shadow = np.roll(uniform_filter(cover, 9), (4, 5), axis=(0, 1))
        bevel = 18.0 * _cover(-steel - 1.5, 2.0) * np.where(_X + _Y < 0, 1.0, -1.0)
        return _paint(belt * (1.0 - 0.3 * shadow), (face + bevel) * _colour(1.0, 1.01, 1.04), cover), cover

    tips = np.full(teeth, tip)
    clean, steel = draw(tips)
    if defect == "good":
        return _flawless(clean)
    if defect == "broken_tooth":
        first = flaw.integers(teeth)
        for k in range(_count(flaw)):
            tips[(first + 7 * k) % teeth] -= flaw.uniform(5.0, tip - root)
        return _reshape(clean, draw(tips)[0])
    # On the solid rim, so that no mark falls wholly into a hole.
    radius, angle, count = flaw.uniform(65.0, 82.0), flaw.uniform(0.0, 2 * math.pi), _count(flaw)
    spots = [(radius * math.cos(angle + 2.2 * k), radius * math.sin(angle + 2.2 * k)) for k in range(count)]
    if defect == "scratch":
        lines = [_line(flaw, x, y, spot, length=flaw.uniform(35, 80), bend=0.08) for spot in spots]
        marks = [_cover(line - flaw.uniform(0.9, 1.4)) * steel for line in lines]
        return _overlay(clean, _colour(226, 228, 232), marks, opacity=0.75)
    rust = _colour(128, 78, 46) * (1.0 + 0.12 * _blotches(flaw, 50))
    patches = [_cover(_blob(flaw, x, y, spot, (100, 1600)), 4.0) * steel for spot in spots]
    return _overlay(clean, rust, patches, opacity=flaw.uniform(0.3, 0.7))


def _resistor(rng: Generator, flaw: Generator, defect: str) -> Drawing:
    """An axial resistor on a light tray: a dog-bone body, five colour bands and two leads."""
    x, y = _pose(rng, degrees=2.0, shift=3.0, zoom=0.015)
    tray = _colour(190, 194, 192) + 3.0 * _blotches(rng, 4)
    body = _cover(np.minimum(_box(x, y, 60.0, 25.0, 10.0), _box(np.abs(x) - 48.0, y, 18.0, 31.0, 13.0)))
    # A lacquered cylinder: dark towards its edges, with one highlight above the middle.
    shade = 1.04 - 0.42 * (y / 31.0) ** 2
    gloss = 34.0 * np.exp(-(((y + 11.0) / 4.5) ** 2)) * (1.0 + 0.1 * _blotches(rng, 8))
    lacquer = _colour(206, 172, 124) * (1.0 + 0.015 * _blotches(rng, 12))
    bows = rng.normal(0.0, 1.0, 2)
    places = np.array([-46.0, -22.0, -4.0, 14.0, 46.0]) + rng.uniform(-0.8, 0.8, 5)
    inks = [(104, 60, 34), (38, 36, 40), (178, 44, 36), (52, 96, 58), (176, 134, 48)]

    def draw(bows: Array, places: Array, opacities: Array, order: Sequence[int]) -> Array:
        left, right = ([(60.0, 0.0), (84.0, 0.35 * bow), (112.0, bow)] for bow in bows.tolist())
        wire = np.minimum(_path(-x, y, left), _path(x, y, right))
        lead = _cover(wire - 3.4)
        shadow = np.roll(uniform_filter(np.maximum(body, lead), 9), (6, 4), axis=(0, 1))
        image = _paint(tray * (1.0 - 0.4 * shadow), 208.0 - 8.5 * np.minimum(wire, 4.0) ** 2, lead)
        coat = lacquer
        for place, opacity, ink in zip(places, opacities, order, strict=True):
            coat = _paint(coat, _colour(*inks[ink]), opacity * _cover(np.abs(x - place) - 5.0))
        return _paint(image, coat * shade + gloss, body)

    opacities, order = np.full(5, 0.94), list(range(5))
    clean = draw(bows, places, opacities, order)
    if defect == "good":
        return _flawless(clean)
    if defect == "bent_lead":
        kinks = flaw.uniform(5.0, 18.0, 2) * flaw.choice([-1.0, 1.0], 2)
        kinks[flaw.permutation(2)[_count(flaw) :]] = 0.0
        return _reshape(clean, draw(bows + kinks, places, opacities, order))
    if defect == "misprint":
        for band in flaw.permutation(5)[: _count(flaw)].tolist():
            fault = flaw.integers(3)
            if fault == 0:  # displaced
                places[band] += flaw.choice([-1.0, 1.0]) * flaw.uniform(3.0, 6.0)
            elif fault == 1:  # faint
                opacities[band] = flaw.uniform(0.0, 0.55)
            else:  # of another band's colour
                order[band] = (band + int(flaw.integers(1, 5))) % 5
        return _reshape(clean, draw(bows, places, opacities, order))
    ends = flaw.permutation([-1.0, 1.0])[: _count(flaw)]
    spots = [(end * flaw.uniform(25.0, 50.0), flaw.uniform(-12.0, 12.0)) for end in ends.tolist()]
    burns = [_cover(_blob(flaw, x, y, spot, (300, 2000)), 6.0) * body for spot in spots]
    return _overlay(clean, _colour(16, 6, 0), burns, opacity=flaw.uniform(0.2, 0.5))


_DRAW: dict[str, tuple[Callable[[Generator, Generator, str], Drawing], tuple[str, ...]]] = {
    "weave": (_weave, ("hole", "snag", "stain")),
    "terrazzo": (_terrazzo, ("crack", "haze", "ink")),
    "gear": (_gear, ("broken_tooth", "rust", "scratch")),
    "resistor": (_resistor, ("bent_lead", "misprint", "scorch")),
}


def _picture(seed: int, category: str, folder: str, index: int) -> _Picture:
    """Image ``index`` of ``folder``, such as ``test/hole``, without and with its defect."""
    key = [seed, zlib.crc32(category.encode()), zlib.crc32(folder.encode()), index]
    part, flaw, camera = (default_rng(child) for child in SeedSequence(key).spawn(3))
    clean, marred, mask = _DRAW[category][0](part, flaw, folder.rpartition("/")[2])
    gain, noise = camera.uniform(0.96, 1.04), camera.normal(0.0, 1.8, (_SIZE, _SIZE))

    def shoot(scene: Array) -> NDArray[np.uint8]:
        planes = np.clip(np.rint(scene * gain + noise), 0, 255).astype(np.uint8)
        return planes[0] if len(planes) == 1 else np.stack(list(planes), axis=-1)

    shot = shoot(clean)
    return _Picture(shot, shoot(marred) if mask.any() else shot, mask)


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def _stamp(seed: int, category: str) -> dict[str, object]:
    return {"demo": category, "format": _FORMAT, "seed": seed}


def _write_category(folder: Path, seed: int, category: str) -> None:
    counts = {"train/good": _TRAIN, "test/good": _TEST_GOOD}
    counts |= {f"test/{defect}": _PER_DEFECT for defect in _DRAW[category][1]}
    for part, count in counts.items():
        for index in range(count):
            picture = _picture(seed, category, part, index)
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
        mend = f"to draw seed {seed}, format {_FORMAT}, choose another folder or delete this one"
        raise PadimBenchError(f"{folder} {what}: {mend}")
    raise PadimBenchError(f"{folder} was not written by the demo: choose another folder for the demo data")


def make_demo(root: Path, *, seed: int = 0, categories: Sequence[str] | None = None) -> Path:
    """Draw the demo categories (all of them by default) under ``root`` and return ``root``.

    A category appears under its name only once it is complete, and one that is there already is
    left as it is. Nothing is ever overwritten: another seed needs another root.
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
