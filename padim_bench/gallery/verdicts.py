"""Which test images the best threshold of their scores gets wrong, and in which order people look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from padim_bench.metrics.summary import f1_thresholds

Verdict = Literal["missed", "false alarm", "right", "unjudged"]


def best_threshold(labels: NDArray[np.int64], scores: NDArray[np.float32]) -> float | None:
    """The score from which on images count as anomalous so that F1 over these very images is largest.

    The highest of them if it is so at several; None where one of the classes, 0 normal and 1 anomalous, is missing.
    """
    return f1_thresholds(labels, scores).get("image_f1_threshold")


def f1_at(labels: NDArray[np.int64], scores: NDArray[np.float32], threshold: float) -> float:
    """F1 of the anomalous images where those that score ``threshold`` or more count as anomalous."""
    over = scores >= threshold
    return 2 * float((over & (labels == 1)).sum()) / float(over.sum() + labels.sum())


def verdicts(labels: NDArray[np.int64], scores: NDArray[np.float32], threshold: float | None) -> list[Verdict]:
    """Of each image; "unjudged" without a threshold."""
    if threshold is None:
        return ["unjudged"] * len(labels)
    names: dict[tuple[bool, bool], Verdict] = {(True, False): "missed", (False, True): "false alarm"}
    return [names.get(pair, "right") for pair in zip(labels == 1, (scores >= threshold).tolist(), strict=True)]


def order(found: Sequence[Verdict], scores: NDArray[np.float32]) -> list[int]:
    """Numbers of images as people look at them: missed ones, the lowest score first; false alarms, the highest first;
    and the rest, the highest first. Of equal scores those come first that came first.
    """
    first = {"missed": 0, "false alarm": 1}

    def place(i: int) -> tuple[int, float]:
        return first.get(found[i], 2), float(scores[i] if found[i] == "missed" else -scores[i])

    return sorted(range(len(found)), key=place)
