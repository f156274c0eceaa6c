"""What the demo's pictures are drawn with: shapes as signed distances, colours, smooth noise, and exact masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import label

# Float64 throughout: rounding to uint8 then hides the last-bit differences between machines.
Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Point = tuple[float, float]
# A part in grey levels (channel, y, x) before camera noise: flawless, marred, and where these differ.
Drawing = tuple[Array, Array, Mask]

SIZE = 256
MIN_REGION = 20  # px; smaller splinters of a defect are left out, since PRO counts all regions alike
_AXIS = np.arange(SIZE) - (SIZE - 1) / 2
Y, X = np.meshgrid(_AXIS, _AXIS, indexing="ij")


def colour(*levels: float) -> Array:
    """Grey levels, one per channel, as (channels, 1, 1)."""
    return np.array(levels, dtype=np.float64)[:, None, None]


def paint(image: Array, colour: Array, cover: Array) -> Array:
    """``image`` with ``colour`` on it, as opaque as ``cover`` says, 0 to 1."""
    image_to_colour: Array = colour - image
    image_to_colour *= cover  # in place: the drawing's time goes into large temporaries
    image_to_colour += image
    return image_to_colour


def norm(x: Array, y: Array) -> Array:
    """Distance from the origin."""
    length: Array = np.sqrt(x * x + y * y)  # several times faster than np.hypot
    return length


# Shapes are signed distances in pixels, negative inside.


def covered(distance: Array, softness: float = 1.0) -> Array:
    """The covered part of every pixel, 0 to 1, with an edge ``softness`` pixels wide."""
    return np.clip(0.5 - distance / softness, 0.0, 1.0)


def box(x: Array, y: Array, half_width: float, half_height: float, radius: float) -> Array:
    """Distance to a box around the origin with rounded corners, negative inside."""
    across, down = np.abs(x) - half_width + radius, np.abs(y) - half_height + radius
    inside = np.minimum(np.maximum(across, down), 0.0)
    return inside + norm(np.maximum(across, 0.0), np.maximum(down, 0.0)) - radius


def polyline(x: Array, y: Array, points: Sequence[Point]) -> Array:
    """Distance to the polyline through ``points``."""
    nearest = np.full_like(x, np.inf)
    for (ax, ay), (bx, by) in pairwise(points):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0.0, 1.0)
        nearest = np.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
    distance: Array = np.sqrt(nearest)
    return distance


def jagged_line(rng: Generator, x: Array, y: Array, centre: Point, *, length: float, bend: float) -> Array:
    """Distance to a jagged line around ``centre`` whose pieces stray by about ``bend`` radians."""
    steps = 12
    drift = np.cumsum(rng.normal(0.0, 0.4 * bend, steps)) + rng.normal(0.0, bend, steps)
    headings = rng.uniform(0.0, 2 * math.pi) + drift
    moves = np.stack([np.cos(headings), np.sin(headings)], axis=1) * length / steps
    points = np.cumsum(moves, axis=0)
    points += np.array(centre) - points.mean(axis=0)
    return polyline(x, y, [(float(px), float(py)) for px, py in points])


def blob(rng: Generator, x: Array, y: Array, centre: Point, area: tuple[float, float]) -> Array:
    """An irregular round shape with an area between roughly the two given, in square pixels."""
    radius = math.sqrt(log_uniform(rng, *area) / math.pi)
    stretch, turn = rng.uniform(1.0, 1.5), rng.uniform(0.0, math.pi)
    dx, dy = x - centre[0], y - centre[1]
    u = (math.cos(turn) * dx + math.sin(turn) * dy) / math.sqrt(stretch)
    v = (math.cos(turn) * dy - math.sin(turn) * dx) * math.sqrt(stretch)
    angle, edge = np.arctan2(v, u), np.ones_like(u)
    for wave in range(2, 7):
        edge += rng.uniform(0.0, 0.45) / wave * np.sin(wave * angle + rng.uniform(0.0, 2 * math.pi))
    return norm(u, v) - radius * edge


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """A size that is as likely to be small as large: log-uniform."""
    return math.exp(rng.uniform(math.log(low), math.log(high)))


@cache
def _bumps(cells: int) -> Array:
    knots = np.linspace(-0.5, cells - 0.5, cells + 1)
    weights = np.exp(-2.0 * (np.arange(SIZE)[:, None] / SIZE * cells - 0.5 - knots) ** 2)
    return np.asarray(weights / np.sqrt((weights**2).sum(axis=1, keepdims=True)))


def blotches(rng: Generator, cells: int) -> Array:
    """Smooth noise of mean 0 and variance 1, with ``cells`` blotches across the image."""
    return np.asarray(_bumps(cells) @ rng.standard_normal((cells + 1, cells + 1)) @ _bumps(cells).T)


def pose(rng: Generator, degrees: float, shift: float, zoom: float) -> tuple[Array, Array]:
    """The image's coordinates as seen from a part that lies slightly turned, shifted and scaled."""
    turn, scale = math.radians(rng.uniform(-degrees, degrees)), 1.0 + rng.uniform(-zoom, zoom)
    dx, dy = rng.uniform(-shift, shift, 2)
    x, y = (X - dx) / scale, (Y - dy) / scale
    return math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x


def region_count(rng: Generator) -> int:
    """How many regions a defect has: two in three images of ten."""
    return 2 if rng.random() < 0.3 else 1


def draw_spots(rng: Generator) -> list[Point]:
    """Where a texture is marred: off the border, which PaDiM's centre crop would cut, and far apart."""
    reach = 84.0
    x, y = (float(v) for v in rng.uniform(-reach, reach, 2))
    return [(x, y), (x - math.copysign(reach, x), y - math.copysign(reach, y))][: region_count(rng)]


def differ(clean: Array, marred: Array, region: Mask) -> Drawing:
    """Keep the defect inside ``region``, less its splinters, so that the mask is exact."""
    parts, _ = label(region)
    mask = region & (np.bincount(parts.ravel())[parts] >= MIN_REGION)
    return clean, np.where(mask, marred, clean), mask


def overlay(clean: Array, colour: Array, covers: Sequence[Array], opacity: float = 1.0) -> Drawing:
    """A part with ``colour`` on it where ``covers`` are."""
    cover = np.asarray(np.max(covers, axis=0))
    return differ(clean, paint(clean, colour, cover * opacity), cover > 0.35)


def reshape(clean: Array, marred: Array) -> Drawing:
    """A part that is drawn anew, marred."""
    return differ(clean, marred, np.abs(marred - clean).max(axis=0) > 3.0)


def flawless(clean: Array) -> Drawing:
    """A part without a defect."""
    return clean, clean, np.zeros(clean.shape[1:], dtype=np.bool_)
