"""The one small shape that every dataset takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Sample:
    """One image of a dataset.

    ``label`` is 0 for a normal image and 1 for an anomalous one. ``mask`` is the path of the
    ground truth of an anomalous image (None for normal images, and where a category has no
    masks at all).
    """

    image: Path
    label: int
    defect: str
    mask: Path | None = None


@dataclass(frozen=True)
class Category:
    """The training and test samples of one category. ``has_masks`` False: image level only.

    ``notes`` are lines on what was left out when the folders were listed, each of which was warned of (DataWarning).
    ``normal`` are the names of the folders of normal images, where the user gave them.
    """

    dataset: str
    name: str
    root: Path
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    has_masks: bool
    kind: str = ""  # "texture", "object" or unknown ("")
    notes: tuple[str, ...] = ()
    normal: tuple[str, ...] = ()
