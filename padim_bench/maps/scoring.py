"""Maps in: every metric of anybody's anomaly maps, with intervals over test images, in the very way of our own runs."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from padim_bench.data.loading import load_masks, mask_pixels, sample_name, split_digest
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.maps.files import find_maps, read_map
from padim_bench.metrics.resampling import interval
from padim_bench.metrics.summary import METRICS
from padim_bench.protocols import MapInterpolation, Protocol, get_protocol

STORED = Protocol.of("as stored", crop=None, compare_at="masks", source="masks as they lie in their files")
MEMORY_LIMIT = 2 << 30


@dataclass(frozen=True)
class MapScores:
    """What the maps of one category are worth.

    Attributes:
        category: its name.
        n_images, n_anomalous: of the test split.
        split_digest: sha256 over its files, which resamples are drawn by.
        scores: image scores by the image's path below the dataset's root.
        metrics: all of ``METRICS``, those of the paper in [0, 1]; NaN where undefined.
        error_bounds: of those that are from histograms.
        resampled: metrics of 200 resampled test splits, as records of runs have them.
    """

    category: str
    n_images: int
    n_anomalous: int
    split_digest: str
    scores: dict[str, float]
    metrics: dict[str, float]
    error_bounds: dict[str, float] = field(default_factory=dict)
    resampled: dict[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals over test images, of the metrics that are resampled; those undefined are left out."""
        found = {n: interval(v) for n, v in self.resampled.items() if n in METRICS and np.isfinite(v).all()}
        return {name: (float(low), float(high)) for name, (low, high) in found.items()}


def score_maps(
    folder: Path | str,
    category: Category,
    *,
    protocol: str | Protocol | None = None,
    resize: MapInterpolation | None = None,
    scores: Mapping[str, float] | None = None,
    memory_limit: int = MEMORY_LIMIT,
    threads: int = 1,
) -> MapScores:
    """Every metric of the maps ``folder/CATEGORY/test/DEFECT/IMAGE.tiff`` (or .tif, .npy) of a category's test images.

    Maps are (H, W) numbers, compared in float32, of the size of their masks.

    Args:
        folder: of the maps, of any method.
        category: whose test images they are of.
        protocol: prepares the masks, as where maps were saved at a protocol's size; None for masks as stored.
        resize: filter by which maps of another size are resized to their masks; None refuses them.
        scores: image scores by the image's path below the dataset's root; None for the maximum of each map.
        memory_limit: in bytes; where maps and masks would pass it, pixel metrics come from histograms, within
            ``error_bounds``, and have no intervals.
        threads: files hashed at a time.

    Raises:
        PadimBenchError: maps that are missing, of no test image, of another size than their mask, with NaN or
            unreadable; masks that are; scores that are missing.
    """
    chosen = STORED if protocol is None else get_protocol(protocol)
    paths = find_maps(Path(folder), category)
    names = [sample_name(category, sample) for sample in category.test]
    if scores is not None and (lacking := [name for name in names if name not in scores]):
        raise PadimBenchError(f"no score of {lacking[0]}, one of {len(lacking)} of {len(names)} test images: add them")

    import torch

    from padim_bench.evaluation import BYTES_PER_PIXEL, Maps

    pixels = mask_pixels(category, chosen) if category.has_masks else 0
    maps, maxima = Maps(chosen, exact=BYTES_PER_PIXEL * pixels <= memory_limit), []
    for sample, path in zip(category.test, paths, strict=True):
        score_map, masks = read_map(path), None
        maxima.append(score_map.max())
        if category.has_masks:
            masks = load_masks(replace(category, test=(sample,)), chosen)
            score_map = _fitted(score_map, masks[0].shape, resize, path)
        maps.add(torch.from_numpy(score_map)[None], masks)
    labels = np.array([sample.label for sample in category.test], dtype=np.int64)
    found = np.array(maxima if scores is None else [scores[name] for name in names], dtype=np.float32)
    metrics, bounds = maps.metrics(labels, found)
    digest = split_digest(category, threads=threads)
    return MapScores(
        category.name,
        len(names),
        int(labels.sum()),
        digest,
        dict(zip(names, found.tolist(), strict=True)),
        metrics,
        bounds,
        maps.resampled(labels, found, digest),
    )


def _fitted(
    score_map: NDArray[np.float32], shape: Sequence[int], resize: MapInterpolation | None, path: Path
) -> NDArray[np.float32]:
    """The map at its mask's shape."""
    import torch

    from padim_bench.padim.anomaly_map import resized_map

    rows, columns = shape
    if score_map.shape == (rows, columns):
        return score_map
    if resize is None:
        height, width = score_map.shape
        raise PadimBenchError(
            f"{path} is {width}x{height} but its mask is {columns}x{rows}: write maps at the masks' size, name the "
            "--protocol whose masks they were made for, or let --resize resize them"
        )
    return resized_map(torch.from_numpy(score_map), (rows, columns), resize)


def read_scores(paths: Sequence[Path]) -> dict[str, float]:
    """Image scores from CSV files with the columns ``image`` (its path below the dataset's root) and ``score``.

    Raises PadimBenchError that names the file, and the line, of what cannot be read, is no number or stands twice.
    """
    found: dict[str, float] = {}
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                rows = csv.DictReader(file)
                if not {"image", "score"} <= set(rows.fieldnames or ()):
                    raise PadimBenchError(f"{path} has no columns image and score: name them in its first line")
                for row in rows:
                    name, value = row["image"], _number(row["score"])
                    where = f"{path}, line {rows.line_num}"
                    if value is None:
                        raise PadimBenchError(f"{where}: score {row['score']!r} is no finite number: correct it")
                    if name in found:
                        raise PadimBenchError(f"{where}: {name} has a score already: delete one of them")
                    found[name] = value
        except OSError as error:
            raise PadimBenchError(f"cannot read {path}: {error.strerror}: check the file") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise PadimBenchError(f"{path} is no CSV in UTF-8 ({error}): write image,score") from error
    return found


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def check_scores(scores: Mapping[str, float], scored: Sequence[Category], others: Sequence[str]) -> None:
    """Raises PadimBenchError for scores of what is no test image; ``others`` are categories that may have some."""
    known = {sample_name(category, sample) for category in scored for sample in category.test}
    if extra := [name for name in scores if name not in known and name.partition("/")[0] not in set(others)]:
        raise PadimBenchError(
            f"the scores have {extra[0]}, one of {len(extra)} that are no test image of "
            f"{', '.join(category.name for category in scored)}: name images by their path below the dataset, as "
            f"{min(known)}"
        )
