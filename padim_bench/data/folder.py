"""A dataset from plain folders: ``normal/``, ``anomalous/`` and, if there are any, ``masks/``."""

from __future__ import annotations

from pathlib import Path

from padim_bench.data.mvtec import check_root, find_masks, list_images
from padim_bench.data.samples import Category, Sample
from padim_bench.errors import PadimBenchError

HOLD_OUT = 5


def folder(root: Path | str) -> Category:
    """Normal and anomalous images in two folders.

    ``root/normal`` is trained on and ``root/anomalous`` tested on, with the images of
    ``root/normal_test``; without that folder every fifth normal image (by name) is held out for the
    test. ``root/masks``, where present, holds one mask per anomalous image, of the same stem.

    Raises:
        PadimBenchError: a folder is missing or empty, or a mask is missing.
    """
    root = check_root(Path(root))
    normal, anomalous = list_images(root / "normal"), list_images(root / "anomalous")
    for images, name in ((normal, "normal"), (anomalous, "anomalous")):
        if not images:
            raise PadimBenchError(f"no image in {root / name}: a folder dataset has normal/ and anomalous/ images")
    held_out = list_images(root / "normal_test")
    if not held_out:
        held_out = normal[HOLD_OUT - 1 :: HOLD_OUT]
        normal = [p for p in normal if p not in set(held_out)]
    masks = find_masks(root / "masks")
    has_masks = (root / "masks").is_dir()
    if has_masks and (missing := [p for p in anomalous if p.stem not in masks]):
        raise PadimBenchError(
            f"no mask for {missing[0]}: expected {root / 'masks' / (missing[0].stem + '.png')} "
            "(without any masks folder only image-level metrics are computed)"
        )
    test = [Sample(p, 0, "good") for p in held_out]
    test += [Sample(p, 1, "anomalous", masks.get(p.stem)) for p in anomalous]
    train = tuple(Sample(p, 0, "good") for p in normal)
    name = root.resolve().name
    return Category("folder", name, root, train, tuple(test), has_masks)
