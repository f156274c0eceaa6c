"""Rd-MVTec AD: the paper's non-aligned variant of MVTec AD (sections IV-A and V-C).

Every image, training and test, turns by a random angle and is cropped at a random place; its mask does the
same. What an image gets depends on the version and on its own name alone, so a version is the same on
every machine and for any subset of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from padim_bench.protocols import Protocol


@dataclass(frozen=True)
class Placement:
    """Counter-clockwise degrees about the centre of the resized image, then the crop's corner in pixels."""

    angle: float
    left: int
    top: int


def placement(name: str, protocol: Protocol) -> Placement:
    """Where an image goes.

    Args:
        name: path below the dataset's root, as ``bottle/train/good/000.png``.
        protocol: its ``rotation`` bounds the angle, ``resize`` and ``crop`` the corner, ``version`` seeds.
    """
    # A string seeds through its SHA-512, and random() is the same on every version and machine.
    draw = random.Random(f"rd-mvtec {protocol.images.version} {name}").random
    free = protocol.images.resize - protocol.size + 1
    return Placement(protocol.images.rotation * (2 * draw() - 1), int(draw() * free), int(draw() * free))
