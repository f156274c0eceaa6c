"""A category's images and masks, decoded once, with a digest of every byte that was read."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim_bench.data.decoding import stored_size
from padim_bench.data.listing import spelled
from padim_bench.data.masks import read_mask
from padim_bench.data.notes import Notes
from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import file_digest, original_crop, prepare_mask, read_image
from padim_bench.errors import PadimBenchError
from padim_bench.protocols import Protocol

Masks = list[NDArray[np.bool_]]


@dataclass(frozen=True)
class SplitFacts:
    """What is known of a split besides its pixels; the fields are those of :class:`LoadedCategory`."""

    labels: NDArray[np.int64]
    split_digest: str
    image_sizes: tuple[str, ...]
    notes: tuple[str, ...] = ()


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

    @property
    def facts(self) -> SplitFacts:
        return SplitFacts(self.labels, self.split_digest, self.image_sizes, self.notes)


class CategoryReader:
    """Decodes a category's files, all or batch by batch and as often as asked, and knows what it has read.

    Args:
        category: whose files they are.
        protocol: how images and masks are prepared.
        threads: files read at a time.
    """

    def __init__(self, category: Category, protocol: Protocol, *, threads: int = 1) -> None:
        self.category, self.protocol, self.threads = category, protocol, max(1, threads)
        self.samples = (*category.train, *category.test)
        self.labels = np.array([sample.label for sample in category.test], dtype=np.int64)
        self._lines, self._sizes = [""] * len(self.samples), [""] * len(self.samples)
        self._notes = Notes()

    def read(self, i: int, protocol: Protocol | None = None) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
        """Sample ``i``, test after training: its image (3, S, S), and of a test image its mask, if there are masks.

        ``protocol``, of the same images, may ask for other masks than the reader's own.

        Raises:
            PadimBenchError: an unreadable image or mask, a mask of another size than its image, or files
                that changed since they were read before.
        """
        category, sample, protocol = self.category, self.samples[i], protocol or self.protocol
        name = sample_name(category, sample)
        pixels, size, digest = read_image(sample.image, protocol, name, self._notes)
        line, mask = _line(category, sample.image, sample.label, digest), None
        if category.has_masks and i >= len(category.train):
            mask, mask_line = _load_mask(sample, category, protocol, size, self._notes)
            line += mask_line
        if self._lines[i] not in {"", line}:
            raise PadimBenchError(f"{sample.image} or its mask was changed while it was in use: run again")
        self._lines[i], self._sizes[i] = line, _size(size)
        return pixels, mask

    def batches(
        self, part: str, batch_size: int, protocol: Protocol | None = None
    ) -> Generator[tuple[NDArray[np.uint8], Masks | None], None, None]:
        """Batches of a part, "train" or "test": images (B, 3, S, S), and masks of test images.

        The next batch is decoded while the caller works on this one; no more are held. Raises as :meth:`read`.
        """
        n_train = len(self.category.train)
        numbers = range(n_train) if part == "train" else range(n_train, len(self.samples))
        with_masks = part == "test" and self.category.has_masks
        starts = range(0, len(numbers), batch_size)
        pool = ThreadPoolExecutor(max_workers=self.threads)
        try:
            ahead: deque[list[Future[tuple[NDArray[np.uint8], NDArray[np.bool_] | None]]]] = deque()
            for start in (*starts, None):
                if start is not None:
                    ahead.append([pool.submit(self.read, i, protocol) for i in numbers[start : start + batch_size]])
                if ahead and (start is None or len(ahead) > 1):
                    read = [one.result() for one in ahead.popleft()]
                    masks = [mask for _, mask in read if mask is not None] if with_masks else None
                    yield np.stack([image for image, _ in read]), masks
        finally:  # also where the caller stops halfway
            pool.shutdown(cancel_futures=True)

    def facts(self) -> SplitFacts:
        """What is known of the whole split once it is read; what was not is read now."""
        for i, line in enumerate(self._lines):
            if not line:
                self.read(i)
        digest = _digest(self._lines, len(self.category.train))
        return SplitFacts(self.labels, digest, tuple(sorted(set(self._sizes))), self.notes())

    def notes(self) -> tuple[str, ...]:
        """Lines on how the files read so far were read that one should know of."""
        n_masks = sum(s.mask is not None for s in self.category.test)
        return self._notes.lines(bits=self.protocol.images.bits, n_masks=n_masks)


def load_category(
    category: Category,
    protocol: Protocol,
    *,
    threads: int = 1,
    on_image: Callable[[], None] = lambda: None,
) -> LoadedCategory:
    """Reads, hashes and decodes every image and mask of ``category``, ``threads`` files at a time.

    All of them are held; :class:`CategoryReader` goes through them batch by batch.

    Raises:
        PadimBenchError: an unreadable image or mask, or a mask of another size than its image.
    """
    reader = CategoryReader(category, protocol, threads=threads)
    size, n_train = protocol.size, len(category.train)
    images = np.empty((len(reader.samples), 3, size, size), dtype=np.uint8)
    masks: Masks = [np.empty(0, bool)] * len(category.test) if category.has_masks else []

    def load(i: int) -> None:
        images[i], mask = reader.read(i)
        if mask is not None:
            masks[i - n_train] = mask

    with ThreadPoolExecutor(max_workers=reader.threads) as pool:
        for _ in pool.map(load, range(len(reader.samples))):  # at a failure, map cancels what has not begun
            on_image()
    facts, train, test = reader.facts(), images[:n_train], images[n_train:]
    return LoadedCategory(
        category, protocol, train, test, facts.labels, masks or None, facts.split_digest, facts.image_sizes, facts.notes
    )


def mask_pixels(category: Category, protocol: Protocol) -> int:
    """Pixels of all masks of test images, also where there are none.

    Where the protocol compares at the masks' own size, that is of the images' headers; a file that cannot be read
    counts nothing, as whoever decodes it will say.
    """
    if protocol.masks.compare_at == "protocol":
        return len(category.test) * protocol.size**2
    total = 0
    for sample in category.test:
        with suppress(PadimBenchError):
            rows, columns = original_crop(stored_size(sample.image), protocol)
            total += (rows.stop - rows.start) * (columns.stop - columns.start)
    return total


def load_masks(category: Category, protocol: Protocol, *, threads: int = 1) -> Masks:
    """``LoadedCategory.masks`` alone, for another protocol of the same images. Raises as loading does."""

    def load(sample: Sample) -> NDArray[np.bool_]:
        stored = protocol.masks.compare_at == "masks" and sample.mask is None
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
        if protocol.masks.compare_at == "masks" and size is not None:
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
