"""Which images are meant by files and folders, and where what is written of each goes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from padim_bench.data.listing import IMAGE_SUFFIXES, LeftOut, entries, is_file, is_folder
from padim_bench.errors import PadimBenchError

MASKS = frozenset({"ground_truth", "masks"})  # folders of other datasets' masks, which are no images to look at


SCORES = "scores.csv"  # the table of results, and its columns
COLUMNS = ("image", "score", "over_threshold", "heat_map", "problem")


class Found(NamedTuple):
    """An image, and its place in a folder of results, without an ending."""

    image: Path
    place: PurePath


def find_images(given: Sequence[Path], out: Path | None = None) -> tuple[list[Found], list[str]]:
    """The images that ``given`` names, files as they are and folders searched below, each once, and notes.

    Folders are searched in the order of names; hidden files, masks' folders (:data:`MASKS`), links to folders, ``out``
    and earlier results are left out, as is what has no ending of an image, and an image's second name: a note counts
    and names them. Places mirror the layout below each folder; of places that would clash the later ones keep the
    image's ending (``a.jpg``), or get a number.

    Raises PadimBenchError for a path that is not there, a folder that cannot be read, no image at all, ``out`` being
    one of the folders, and a file that results would take the place of: an image, or one of no earlier call's.
    """
    notes, pairs, taken, seen, again = list[str](), list[Found](), set[str](), set[str](), list[Path]()
    where = None if out is None else os.path.realpath(out)
    for path in given:
        if is_folder(path):
            if where == os.path.realpath(path):
                raise PadimBenchError(f"{path} is searched for images, so that results need a folder of their own")
            left_out = LeftOut(path)
            found = [(image, image.relative_to(path)) for image in _below(path, where, left_out)]
            notes += [f"{path}: {line}" for line in left_out.notes()]
        elif is_file(path):
            found = [(path, Path(path.name))]
        else:
            raise PadimBenchError(f"no image and no folder {path}: check its name")
        for image, below in found:
            real = os.path.realpath(image)
            if real in seen:
                again.append(image)
                continue
            seen.add(real)
            pairs.append(Found(image, _free(below, taken)))
    if again:
        names = f"{again[0]}{' and ' + str(len(again) - 1) + ' more' if len(again) > 1 else ''}"
        notes.append(f"{names}: named twice, or a link to an image that is there already: each is taken once")
    if not pairs:
        raise PadimBenchError(f"no image found in {', '.join(map(str, given))}: {', '.join(sorted(IMAGE_SUFFIXES))}")
    if out is None:
        return pairs, notes
    earlier = _holds_results(out)
    for target in (out / SCORES, *(out / f"{pair.place}{suffix}" for pair in pairs for suffix in (".png", ".tiff"))):
        if os.path.realpath(target) in seen:
            raise PadimBenchError(f"the results would overwrite the image {target}: choose another folder for them")
        if not earlier and is_file(target) and target.stat().st_size:
            raise PadimBenchError(
                f"the results would overwrite {target}, which no earlier predict wrote: choose another folder for them"
            )
    return pairs, notes


def _below(folder: Path, out: str | None, left_out: LeftOut) -> Iterator[Path]:
    for path in entries(folder):
        if is_folder(path):
            if out is not None and os.path.realpath(path) == out:
                continue
            if path.is_symlink():
                left_out.add(path, "link to a folder")
            elif path.name in MASKS:
                left_out.add(path, "folder of masks")
            elif _holds_results(path):
                left_out.add(path, "folder of predict's results")
            else:
                yield from _below(path, out, left_out)
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            left_out.add(path, "no image format that is read")
        elif is_file(path):
            yield path
        else:
            left_out.add(path, "link to nothing" if path.is_symlink() else "no plain file")


def _holds_results(folder: Path) -> bool:
    """Whether an earlier call has written its table there."""
    try:
        with (folder / SCORES).open(encoding="utf-8") as table:
            return table.readline().rstrip("\n") == ",".join(COLUMNS)
    except (OSError, ValueError):
        return False


def _free(below: Path, taken: set[str]) -> PurePath:
    """A place that no image before has, also where systems take upper and lower case for the same."""
    place, number = below.with_suffix(""), 1
    while str(place).casefold() in taken:
        place = below if number == 1 else below.with_name(f"{below.name}-{number}")
        number += 1
    taken.add(str(place).casefold())
    return place
