"""A category's images and masks, decoded once, with a digest of every byte that was read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import file_digest, prepare_image, prepare_mask, read_image
from padim_bench.errors import PadimBenchError
from padim_bench.protocols import Protocol


@dataclass(frozen=True)
class LoadedCategory:
    """The decoded split of one category under one protocol.

    Attributes:
        train, test: (n, 3, S, S) uint8 RGB.
        labels: (n_test,) 0 normal, 1 anomalous.
        masks: (n_test, S, S) bool, or None where the category has no ground truth.
        image_sizes: distinct sizes of the images as stored, as "900x900", sorted.
        split_digest: sha256 over the names and contents of all images and masks.
    """

    category: Category
    protocol: Protocol
    train: NDArray[np.uint8]
    test: NDArray[np.uint8]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_] | None
    split_digest: str
    image_sizes: tuple[str, ...]


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
    masks = np.zeros((len(category.test), size, size), dtype=bool) if category.has_masks else None
    lines, sizes = [""] * len(samples), [""] * len(samples)

    def load(i: int) -> None:
        target = None if masks is None or i < n_train else masks[i - n_train]
        images[i], lines[i], sizes[i] = _load_sample(samples[i], category, protocol, target)

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        for _ in pool.map(load, range(len(samples))):  # at a failure, map cancels what has not begun
            on_image()
    labels = np.array([s.label for s in category.test], dtype=np.int64)
    digest, distinct = _digest(lines, n_train), tuple(sorted(set(sizes)))
    return LoadedCategory(category, protocol, images[:n_train], images[n_train:], labels, masks, digest, distinct)


def split_digest(category: Category, *, threads: int = 1) -> str:
    """``LoadedCategory.split_digest`` without decoding anything. Raises PadimBenchError as loading does."""

    def line(sample: Sample) -> str:
        mask = "" if sample.mask is None else _line(category, sample.mask, "", file_digest(sample.mask))
        return _line(category, sample.image, sample.label, file_digest(sample.image)) + mask

    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        return _digest(list(pool.map(line, (*category.train, *category.test))), len(category.train))


def _line(category: Category, path: Path, label: int | str, digest: str) -> str:
    return f"{path.relative_to(category.root).as_posix()} {label} {digest}\n"


def _digest(lines: list[str], n_train: int) -> str:
    ordered = [*sorted(lines[:n_train]), "test\n", *sorted(lines[n_train:])]
    return hashlib.sha256("".join(ordered).encode()).hexdigest()


def _load_sample(
    sample: Sample, category: Category, protocol: Protocol, mask_out: NDArray[np.bool_] | None
) -> tuple[NDArray[np.uint8], str, str]:
    image, digest = read_image(sample.image)
    line = _line(category, sample.image, sample.label, digest)
    if mask_out is not None and sample.mask is not None:
        mask, digest = read_image(sample.mask, is_mask=True)
        if mask.size != image.size:
            raise PadimBenchError(
                f"mask {sample.mask} is {mask.width}x{mask.height} but its image {sample.image.name} is "
                f"{image.width}x{image.height}: export the mask at the image's size"
            )
        mask_out[:] = prepare_mask(mask, protocol)
        line += _line(category, sample.mask, "", digest)
    return prepare_image(image, protocol), line, f"{image.width}x{image.height}"
