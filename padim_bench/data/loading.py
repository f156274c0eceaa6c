"""A category's images and masks, decoded once, with a digest of every byte that was read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim_bench.data.listing import spelled
from padim_bench.data.masks import read_mask
from padim_bench.data.notes import Notes
from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import file_digest, original_crop, prepare_mask, read_image
from padim_bench.errors import PadimBenchError
from padim_bench.protocols import Protocol

Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True)
class LoadedCategory:
    """The decoded split of one category under one protocol.

    Attributes:
        train, test: (n, 3, S, S) uint8 RGB.
        labels: (n_test,) 0 normal, 1 anomalous.
        masks: n_test bool arrays (S, S), or of the sizes as stored where the protocol compares there;
            None where the category has no ground truth.
        image_sizes: distinct sizes of the images as stored, as "900x900", sorted.
        split_digest: sha256 over the names and contents of all images and masks.
        notes: lines on how files were read that one should know of: masks that were cut, values that may be lost.
    """

    category: Category
    protocol: Protocol
    train: NDArray[np.uint8]
    test: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: Masks | None
    split_digest: str
    image_sizes: tuple[str, ...]
    notes: tuple[str, ...] = ()


def load_category(
    category: Category,
    protocol: Protocol,
    *,
    threads: int = 1,
    on_image: Callable[[], None] = lambda: None,
) -> LoadedCategory:
    """Reads, hashes and decodes every image and mask of ``category``, ``threads`` files at a time.

    Raises:
        PadimBenchError: an unreadable image or mask, or a mask of another size than its image.
    """
    samples = (*category.train, *category.test)
    size, n_train = protocol.size, len(category.train)
    images = np.empty((len(samples), 3, size, size), dtype=np.uint8)
    masks: Masks = [np.empty(0, bool)] * len(category.test) if category.has_masks else []
    lines, sizes, notes = [""] * len(samples), [""] * len(samples), Notes()

    def load(i: int) -> None:
        sample = samples[i]
        images[i], size, digest = read_image(sample.image, protocol, sample_name(category, sample), notes)
        lines[i], sizes[i] = _line(category, sample.image, sample.label, digest), _size(size)
        if masks and i >= n_train:
            masks[i - n_train], line = _load_mask(sample, category, protocol, size, notes)
            lines[i] += line

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        for _ in pool.map(load, range(len(samples))):  # at a failure, map cancels what has not begun
            on_image()
    labels = np.array([s.label for s in category.test], dtype=np.int64)
    digest, distinct = _digest(lines, n_train), tuple(sorted(set(sizes)))
    train, test = images[:n_train], images[n_train:]
    said = notes.lines(bits=protocol.bits, n_masks=sum(s.mask is not None for s in category.test))
    return LoadedCategory(category, protocol, train, test, labels, masks or None, digest, distinct, said)


def load_masks(category: Category, protocol: Protocol, *, threads: int = 1) -> Masks:
    """``LoadedCategory.masks`` alone, for another protocol of the same images. Raises as loading does."""

    def load(sample: Sample) -> NDArray[np.bool_]:
        stored = protocol.compare_at == "masks" and sample.mask is None
        size = read_image(sample.image, protocol, sample_name(category, sample))[1] if stored else None
        return _load_mask(sample, category, protocol, size, Notes())[0]

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        return list(pool.map(load, category.test))


def split_digest(category: Category, *, threads: int = 1) -> str:
    """``LoadedCategory.split_digest`` without decoding anything. Raises PadimBenchError as loading does."""

    def line(sample: Sample) -> str:
        mask = "" if sample.mask is None else _line(category, sample.mask, "", file_digest(sample.mask))
        return _line(category, sample.image, sample.label, file_digest(sample.image)) + mask

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        return _digest(list(pool.map(line, (*category.train, *category.test))), len(category.train))


def _line(category: Category, path: Path, label: int | str, digest: str) -> str:
    return f"{_name(category, path)} {label} {digest}\n"


def _digest(lines: list[str], n_train: int) -> str:
    ordered = [*sorted(lines[:n_train]), "test\n", *sorted(lines[n_train:])]
    return hashlib.sha256("".join(ordered).encode()).hexdigest()


def sample_name(category: Category, sample: Sample) -> str:
    """The path of a sample's image below its dataset's root, in valid Unicode and with slashes on every system."""
    return _name(category, sample.image)


def _name(category: Category, path: Path) -> str:
    return spelled(path.relative_to(category.root).as_posix())


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _load_mask(
    sample: Sample, category: Category, protocol: Protocol, size: tuple[int, int] | None, notes: Notes
) -> tuple[NDArray[np.bool_], str]:
    """A sample's mask, all False for a normal image of ``size``, and its line of the digest."""
    if sample.mask is None:
        if protocol.compare_at == "masks" and size is not None:
            rows, columns = original_crop(size, protocol)
            return np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=bool), ""
        return np.zeros((protocol.size, protocol.size), dtype=bool), ""
    mask, digest = read_mask(sample.mask, notes)
    found = (mask.shape[1], mask.shape[0])
    if size is not None and found != size:
        raise PadimBenchError(
            f"mask {sample.mask} is {_size(found)} but its image {sample.image.name} is {_size(size)}: "
            "export the mask at the image's size"
        )
    _note_share(mask, sample, notes)
    return prepare_mask(mask, protocol, sample_name(category, sample)), _line(category, sample.mask, "", digest)


def _note_share(mask: NDArray[np.bool_], sample: Sample, notes: Notes) -> None:
    """Of masks that are empty, cover the whole picture or more than half of it."""
    assert sample.mask is not None
    anomalous = np.count_nonzero(mask)
    if anomalous == 0:
        notes.add("empty mask", sample.image)
    elif anomalous == mask.size:
        notes.add("full mask", sample.mask)
    elif anomalous * 2 > mask.size:
        notes.add("large mask", sample.mask)
