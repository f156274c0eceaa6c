"""The few small shapes that every dataset takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from padim_bench.errors import PadimBenchError

if TYPE_CHECKING:
    from padim_bench.protocols import Protocol


class Counts(NamedTuple):
    """How many training images, test images and masks (one for every anomalous test image) a category holds."""

    train: int
    test: int
    masks: int


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


# Of (root, categories by name or None for all, names of the folders of normal images).
Opener = Callable[[Path, Sequence[str] | None, Sequence[str]], list[Category]]


@dataclass(frozen=True)
class Dataset:
    """What is known of a dataset, or of a layout of folders.

    Attributes:
        name: as in records, and as ``--dataset`` takes it.
        title: as people call it.
        summary: for listings, with the names of its categories as ``{categories}``.
        kinds: "texture", "object" or "scene" by category, in order; empty where categories may be called anything.
        counts: the official numbers of images by category, by which a folder is recognised.
        opener: (root, categories or None for all, names of the folders of normal images) -> categories; None for what
            ``--dataset`` does not open.
        single: whether its folder is one category.
        members: what its parts are called.
        stamp: a file in a folder that shows it to be of this dataset; "" for none.
        warning: what stands in every title; "" for nothing.
        recorded: whether records have its name: those of a layout have their folder's, of a variant the original's.
        protocol: of a version of its images, whatever the command's; None for the command's.
    """

    name: str
    title: str
    summary: str
    kinds: Mapping[str, str] = field(default_factory=dict)
    counts: Mapping[str, Counts] = field(default_factory=dict)
    opener: Opener | None = None
    single: bool = False
    members: str = "categories"
    stamp: str = ""
    warning: str = ""
    recorded: bool = True
    protocol: Callable[[int], Protocol] | None = None

    def full(self, group: str) -> int:
        """How many categories it has of a kind, or of all of them."""
        return sum(group in {"all", kind} for kind in self.kinds.values())

    def open(self, root: Path, categories: Sequence[str] | None = None, normal: Sequence[str] = ()) -> list[Category]:
        """Its categories below ``root``, all or those named. Raises PadimBenchError as its reader does."""
        if self.opener is None:
            raise PadimBenchError(f"{self.title} is not opened by its name: see 'padim-bench list datasets'")
        return self.opener(root, categories, normal)
