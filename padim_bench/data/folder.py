"""A dataset from plain folders: ``normal/``, ``anomalous/`` and, if there are any, ``masks/``."""

from __future__ import annotations

import warnings
from pathlib import Path

from padim_bench.data.listing import LeftOut, entries, is_folder, list_images, spelled
from padim_bench.data.mvtec import check_root, pair_masks
from padim_bench.data.samples import Category, Sample
from padim_bench.errors import DataWarning, PadimBenchError

HOLD_OUT = 5
FOLDERS = ("normal", "normal_test", "anomalous", "masks")


def folder(root: Path | str) -> Category:
    """Normal and anomalous images in two folders.

    ``root/normal`` is trained on and ``root/anomalous`` tested on, with the images of
    ``root/normal_test``; without that folder every fifth normal image (by name) is held out for the
    test. ``root/masks``, where present, holds one mask per anomalous image, of the same stem.

    What lies in these folders and is not read is warned of in one line (DataWarning), which is kept in ``notes``.

    Args:
        root: the folder that holds them, after which the category is called.

    Raises:
        PadimBenchError: a folder is missing or empty, or a mask is missing or belongs to two images.
    """
    found, problems = open_folder(Path(root))
    if problems:
        raise PadimBenchError(problems[0])
    for note in found.notes:
        warnings.warn(DataWarning(f"{found.name}: {note}"), stacklevel=2)
    return found


def open_folder(root: Path) -> tuple[Category, list[str]]:
    """:func:`folder`, and everything that is wrong with its folders. Raises PadimBenchError if there is no root."""
    left_out, problems = LeftOut(check_root(root)), list[str]()
    normal, anomalous, held_out = (
        list_images(root / name, left_out) for name in ("normal", "anomalous", "normal_test")
    )
    problems += [
        f"no image in {root / name}: a folder dataset has normal/ and anomalous/ images"
        for images, name in ((normal, "normal"), (anomalous, "anomalous"))
        if not images
    ]
    for path in entries(root):
        if is_folder(path) and path.name not in FOLDERS:
            left_out.add(path, f"none of {', '.join(FOLDERS)}")
    if not held_out:
        held_out = normal[HOLD_OUT - 1 :: HOLD_OUT]
        normal = [p for p in normal if p not in set(held_out)]
    has_masks = is_folder(root / "masks")
    masks = pair_masks(anomalous, list_images(root / "masks", left_out), left_out, problems) if has_masks else {}
    problems += [
        f"no mask for {path}: expected {root / 'masks' / (path.stem + '.png')} "
        "(without any masks folder only image-level metrics are computed)"
        for path in anomalous
        if has_masks and path not in masks
    ]
    test = [Sample(p, 0, "good") for p in held_out]
    test += [Sample(p, 1, "anomalous", masks.get(p)) for p in anomalous]
    train = tuple(Sample(p, 0, "good") for p in normal)
    name = spelled(root.resolve().name) or "dataset"
    return Category("folder", name, root, train, tuple(test), has_masks, notes=left_out.notes()), problems
