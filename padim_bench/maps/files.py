"""One anomaly map, one file: written as MVTec's evaluation code reads it; TIFF and npy of anybody's read back."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from padim_bench.data.decoding import check_size
from padim_bench.data.listing import entries, is_file, subfolders, unspelled
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.machine.files import write_bytes

MAP_SUFFIXES = (".tiff", ".tif", ".npy")
_NAMED = 3  # of several files, in a message


def write_map(path: Path, score_map: NDArray[np.float32]) -> None:
    """Writes a map (H, W) as a float32 TIFF, uncompressed, whole or not at all.

    Raises PadimBenchError, naming the file, where it cannot be written.
    """
    import tifffile

    content = io.BytesIO()
    tifffile.imwrite(
        content, np.ascontiguousarray(score_map, dtype=np.float32), photometric="minisblack", metadata=None
    )
    write_bytes(path, content.getvalue())


def read_map(path: Path) -> NDArray[np.float32]:
    """The map (H, W) in a TIFF or npy file of numbers of any type, as float32; axes of length 1 around it are dropped.

    Raises PadimBenchError, naming the file, for one that cannot be read, of another shape, of several pages, with
    NaN, or with values that are infinite or become so in float32.
    """
    with _refusals(path):
        found = _read_npy(path) if path.suffix.lower() == ".npy" else _read_tiff(path)
    if found.dtype.kind not in "uif":
        raise PadimBenchError(f"{path} holds {found.dtype}, no numbers of a map: write float32")
    with np.errstate(over="ignore"):
        score_map = found.astype(np.float32)
    if np.isnan(score_map).any():
        raise PadimBenchError(
            f"{path} has NaN, in {np.count_nonzero(np.isnan(score_map))} pixels: give every one a score"
        )
    if np.isinf(score_map).any():
        raise PadimBenchError(f"{path} has infinite values, or such as float32 does not hold: scale or cut them")
    return score_map


def _read_npy(path: Path) -> NDArray[Any]:
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)  # of its header alone, until its shape is known
    _check_shape(mapped.shape, path)
    return np.array(mapped).reshape(_shape(mapped.shape))


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    with _quiet(), tifffile.TiffFile(path) as file:
        if (pages := len(file.pages)) != 1:
            raise PadimBenchError(f"{path} has {pages} pages: write a file of one page for every map")
        page = file.pages[0]
        _check_shape(page.shape, path)
        found: NDArray[Any] = page.asarray()
    return found.reshape(_shape(found.shape))


def _check_shape(shape: tuple[int, ...], path: Path) -> None:
    found = _shape(shape)
    if len(found) != 2 or 0 in found:
        raise PadimBenchError(
            f"{path} has shape {'x'.join(map(str, shape)) or 'of one number'}: a map is height x width"
        )
    check_size((found[1], found[0]), path)


def _shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without axes of length 1 before and after height and width."""
    while len(shape) > 2 and 1 in (shape[0], shape[-1]):
        shape = shape[1:] if shape[0] == 1 else shape[:-1]
    return shape


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Whatever a reader raises of a file is PadimBenchError, one line that names it."""
    try:
        yield
    except PadimBenchError:
        raise
    except OSError as error:
        why = error.strerror or " ".join(str(error).split())
        raise PadimBenchError(f"cannot read {path} ({why[:200]}): check the file, or write it again") from error
    except Exception as error:  # decoders raise nearly everything on damaged files
        why = " ".join(f"{error}".split()) or type(error).__name__
        if path.suffix.lower() == ".npy" and "pickle" in why:  # NumPy says how to load it unsafely
            why = "no array of numbers"
        raise PadimBenchError(f"{path} is no readable map ({why[:200]}): write it again as float32 TIFF") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that tifffile logs of odd files: those that it cannot read are errors."""
    logger = logging.getLogger("tifffile")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def map_names(category: Category) -> list[str]:
    """Where the map of every test image lies below the category's own folder of maps, without suffix: ``test/cut/000``.

    Raises PadimBenchError for images whose maps would have one name.
    """
    found: dict[str, Path] = {}
    for sample in category.test:
        name = f"test/{sample.image.parent.name}/{sample.image.stem}"
        if found.setdefault(name, sample.image) is not sample.image:
            raise PadimBenchError(
                f"{found[name]} and {sample.image.name} would share a map: rename one of them, and its mask"
            )
    return list(found)


def category_folder(folder: Path, category: Category) -> Path:
    """Where a category's maps lie below a folder of maps."""
    return folder / unspelled(category.name)


def find_maps(folder: Path, category: Category) -> list[Path]:
    """The file of every test image's map, in order.

    Raises PadimBenchError that names the first of those that are missing, that are of no test image, or that are two
    of one image.
    """
    base, names = category_folder(folder, category), map_names(category)
    found: dict[str, Path] = {}
    for part in subfolders(base / "test"):
        for path in entries(part):
            if path.suffix.lower() not in MAP_SUFFIXES or not is_file(path):
                continue
            name = f"test/{part.name}/{path.stem}"
            if (first := found.setdefault(name, path)) is not path:
                raise PadimBenchError(f"{first} and {path.name} are maps of one image: delete one of them")
    if missing := [name for name in names if name not in found]:
        raise PadimBenchError(
            f"no map for {len(missing)} of {len(names)} test images of {category.name}: "
            f"{_several([f'{base / name}.tiff' for name in missing])}, or as .tif or .npy"
        )
    known = set(names)
    if extra := [path for name, path in found.items() if name not in known]:
        raise PadimBenchError(
            f"{_several([str(path) for path in extra])}: of no test image of {category.name} in {category.root}: "
            "move away what is not of these images"
        )
    return [found[name] for name in names]


def _several(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
