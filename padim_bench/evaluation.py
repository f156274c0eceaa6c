"""Metrics of a fitted model over one category."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from padim_bench.data.loading import CategoryReader, mask_pixels
from padim_bench.data.notes import Notes
from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import read_image
from padim_bench.errors import DataWarning, PadimBenchError
from padim_bench.maps.saving import MapWriter, SaveMaps
from padim_bench.metrics.resampling import PixelCounts, resampled
from padim_bench.metrics.summary import Evidence, Histograms, compute_metrics, metrics_of
from padim_bench.protocols import Protocol, get_protocol

if TYPE_CHECKING:
    from torch import Tensor

    from padim_bench.padim.model import PaDiM


def load_images(
    samples: Sequence[Sample], protocol: str | Protocol = "paper", batch_size: int = 8, *, threads: int | None = None
) -> Iterator[Tensor]:
    """Batches (B, 3, S, S) of uint8 RGB images, prepared as the protocol says, for ``PaDiM.fit``.

    The next batch is decoded while the caller works on this one.

    Args:
        samples: as ``category.train``.
        protocol: preset or :class:`Protocol`; S is its size.
        batch_size: B, of the last batch fewer.
        threads: files decoded at a time; None for as many as torch has threads.

    Raises:
        PadimBenchError: naming the file, for an image that cannot be read; a protocol that turns images.
    """
    return _Batches(_decoded(samples, get_protocol(protocol), batch_size, threads), -(-len(samples) // batch_size))


class _Batches(Iterator["Tensor"]):
    """Batches that say how many are left, so that a fit knows whether it can hold them."""

    def __init__(self, batches: Generator[Tensor, None, None], n: int) -> None:
        self._batches, self._left = batches, n

    def __next__(self) -> Tensor:
        batch = next(self._batches)
        self._left -= 1
        return batch

    def __length_hint__(self) -> int:
        return self._left

    def close(self) -> None:
        """Ends the decoding that is ahead."""
        self._batches.close()


def _decoded(
    samples: Sequence[Sample], chosen: Protocol, batch_size: int, threads: int | None
) -> Generator[Tensor, None, None]:
    import torch

    if chosen.images.rotation:
        raise PadimBenchError("load_images knows no dataset root, which Rd-MVTec AD draws by: use load_category")

    notes = Notes()

    def decode(sample: Sample) -> NDArray[np.uint8]:
        return read_image(sample.image, chosen, notes=notes)[0]

    pool = ThreadPoolExecutor(max_workers=torch.get_num_threads() if threads is None else max(1, threads))
    try:
        ahead: deque[list[Future[NDArray[np.uint8]]]] = deque()
        for start in range(0, len(samples), batch_size):
            ahead.append([pool.submit(decode, sample) for sample in samples[start : start + batch_size]])
            if len(ahead) > 1:
                yield torch.from_numpy(np.stack([image.result() for image in ahead.popleft()]))
        for batch in ahead:
            yield torch.from_numpy(np.stack([image.result() for image in batch]))
        _warn(notes.lines(bits=chosen.images.bits))
    finally:  # also where the caller stops halfway
        pool.shutdown(cancel_futures=True)


def evaluate(
    model: PaDiM, category: Category, *, batch_size: int = 8, save: SaveMaps | None = None
) -> dict[str, float]:
    """Scores the test images of ``category``, decoded batch by batch, and returns :func:`compute_metrics` of them.

    Args:
        model: a fitted one.
        category: whose test images are scored.
        batch_size: images at a time.
        save: where their anomaly maps are written as well; None for nowhere.

    Returns:
        All metrics by name, as fractions; NaN where undefined. Where maps and masks would pass the model's
        ``memory_limit``, pixel metrics come from histograms (:class:`Maps`), with a warning that gives their error
        bounds.

    Raises:
        PadimBenchError: the model is not fitted, or was fitted on images of another size; an image or a mask that
            cannot be read; maps that cannot be written.
    """
    import torch

    protocol = model.config.protocol
    reader = CategoryReader(category, protocol, threads=torch.get_num_threads())
    pixels = mask_pixels(category, protocol) if category.has_masks else 0
    maps, scores = Maps(protocol, exact=BYTES_PER_PIXEL * pixels <= model.memory_limit), []
    writer = None if save is None else MapWriter(save, category, protocol)
    with closing(reader.batches("test", batch_size)) as batches:
        for images, masks in batches:
            found, maxima = model.score(torch.from_numpy(images))
            maps.add(found.cpu(), masks)
            if writer is not None:
                writer.add(found.cpu())
            scores.append(maxima.cpu())
    if writer is not None:
        writer.finish(torch.cat(scores).numpy())
    _warn(reader.notes())
    metrics, bounds = maps.metrics(reader.labels, torch.cat(scores).numpy())
    if bounds:
        told = ", ".join(f"{name} within {bound:.1e}" for name, bound in bounds.items())
        warnings.warn(f"{category.name}: too many pixels to hold, metrics are from histograms: {told}", stacklevel=2)
    return metrics


# What exact pixel metrics hold of a pixel: map, mask, copies of both in a row, those of anomaly-free pixels, sorted.
BYTES_PER_PIXEL = 16


class Maps:
    """Anomaly maps and masks of test images, for the metrics of all of them.

    Args:
        protocol: at which resolution they are compared.
        exact: hold them; else pixels are counted into :class:`Histograms`, which do not grow, and pixel metrics have
            an error bound.
    """

    def __init__(self, protocol: Protocol, *, exact: bool = True) -> None:
        self.protocol, self.exact = protocol, exact
        self.maps: list[NDArray[np.float32]] = []
        self.masks: list[NDArray[np.bool_]] = []
        self._histograms = None if exact else Histograms()
        self._evidence: Evidence | None = None

    def add(self, maps: Tensor, masks: Sequence[NDArray[np.bool_]] | None) -> None:
        """Adds maps (B, S, S) and their masks; None where the category has none, of which nothing is kept."""
        if masks is None:
            return
        for one, mask in zip(maps, masks, strict=True):
            # One by one: a mask of its own size may have hundreds of times the pixels of a map.
            (score_map,) = maps_at([mask], one[None], self.protocol)
            if self._histograms is None:
                self.maps.append(score_map)
                self.masks.append(mask)
            else:
                self._histograms.update(score_map, mask)

    def metrics(
        self, labels: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """:func:`compute_metrics` of all that was added, and the error bounds of those that are not exact."""
        if self._histograms is None:
            self._evidence = Evidence(labels, scores, *((self.masks, self.maps) if self.masks else (None, None)))
            return metrics_of(self._evidence), {}
        found = self._histograms.metrics()
        metrics = compute_metrics(labels, scores) | {k: v.value for k, v in found.items()}
        return metrics, {k: v.error_bound for k, v in found.items()}

    def resampled(
        self, labels: NDArray[np.int64], scores: NDArray[np.float32], split_digest: str
    ) -> dict[str, NDArray[np.float64]]:
        """Metrics of resampled test images (:mod:`~padim_bench.metrics.resampling`), after :meth:`metrics`.

        Of pixel metrics those of maps that are held: histograms of every image would grow with them.
        """
        if self._evidence is None or not self._evidence.has_pixels:
            return resampled(labels, scores, split_digest, None)
        pixels, own = PixelCounts(), iter(self._evidence.own_pro.tolist())
        for score_map, mask in zip(self.maps, self.masks, strict=True):
            pixels.add(score_map, mask, next(own) if mask.any() else None)
        return resampled(labels, scores, split_digest, pixels)


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        warnings.warn(line, DataWarning, stacklevel=3)


def maps_at(masks: Sequence[NDArray[np.bool_]] | None, maps: Tensor, protocol: Protocol) -> list[NDArray[np.float32]]:
    """Maps (n, S, S) as one array each, resized to their masks where the protocol compares at those."""
    from padim_bench.padim.anomaly_map import resized_map

    if masks is None or protocol.masks.compare_at == "protocol":
        return list(maps.numpy())
    return [
        resized_map(one, (mask.shape[0], mask.shape[1]), protocol.maps.interpolation)
        for one, mask in zip(maps, masks, strict=True)
    ]
