"""``data verify``: what ``run`` would say of a dataset, all of it at once and before anything is computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from padim_bench.data.datasets import PAPER_DATASET
from padim_bench.data.decoding import stored_size
from padim_bench.data.folder import open_folder
from padim_bench.data.listing import is_folder, spelled, subfolders
from padim_bench.data.loading import load_category
from padim_bench.data.mvtec import check_root, open_category
from padim_bench.data.mvtec_ad import MVTEC_AD
from padim_bench.data.samples import Category, Counts, Sample
from padim_bench.errors import ONE_IMAGE, PadimBenchError
from padim_bench.machine.progress import Progress
from padim_bench.protocols import ImageChoices, Protocol

# Every file is read, decoded and prepared as by a run; the small size saves memory.
_PROTOCOL = Protocol("verify", ImageChoices(resize=32, crop=None))
_THREADS = min(32, (os.cpu_count() or 1) + 4)


@dataclass(frozen=True)
class CategoryReport:
    """What one category holds. ``expected`` None: of no name of MVTec AD's.

    ``problems`` are what a run would refuse, ``notes`` what it would say and go on.
    """

    name: str
    present: bool
    found: Counts
    expected: Counts | None
    problems: list[str]
    notes: list[str]

    @property
    def ok(self) -> bool:
        """No problem was found. An absent category has none."""
        return not self.problems


@dataclass(frozen=True)
class VerifyReport:
    """The categories of a tree: the fifteen of MVTec AD, then any other; or the one of plain folders."""

    root: Path
    categories: list[CategoryReport]

    @property
    def ok(self) -> bool:
        """Every category that is present is sound."""
        return all(category.ok for category in self.categories)

    @property
    def complete(self) -> bool:
        """The tree is sound and holds all of MVTec AD."""
        names = {c.name for c in self.categories if c.present and c.found == c.expected}
        # Without any ground_truth folder a category is evaluated at image level only, which is no fault of it.
        names |= {c.name for c in self.categories if c.expected and c.found == c.expected._replace(masks=0)}
        return self.ok and names >= MVTEC_AD.keys()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain values, for JSON."""
        categories = [
            asdict(category)
            | {
                "ok": category.ok,
                "found": category.found._asdict(),
                "expected": category.expected and category.expected._asdict(),
            }
            for category in self.categories
        ]
        return {"root": str(self.root), "ok": self.ok, "complete": self.complete, "categories": categories}


def verify(
    root: Path,
    *,
    layout: str = "mvtec",
    dataset: str | None = None,
    normal: Sequence[str] = (),
    deep: bool = True,
    progress: bool | None = None,
) -> VerifyReport:
    """Check every category of a tree, or plain folders, as a run would read it.

    Args:
        root: the folder above the categories, or that of plain folders.
        layout: "mvtec" or "folder".
        dataset, normal: as for ``mvtec``. Numbers of images that are not MVTec AD's are a problem if ``dataset`` is
            "mvtec-ad", or if any category of the tree has those of MVTec AD; otherwise a note.
        deep: decode every image and mask; without it only their headers are read.
        progress: True for a bar, False for nothing; None for a bar on a terminal, lines now and then elsewhere.

    Faults of the data are listed in the report. Raises PadimBenchError only where there is nothing to check.
    """
    root = Path(root)
    if layout == "folder":
        return VerifyReport(root, [_report(*open_folder(root), None, strict=False, deep=deep)])
    names = [spelled(path.name) for path in subfolders(check_root(root)) if is_folder(path / "train")]
    known = [name for name in MVTEC_AD if is_folder(root / name)]
    names = known + [name for name in names if name not in MVTEC_AD]
    if not names:
        raise PadimBenchError(f"{root} holds no category: expected folders such as {root / 'bottle/train/good'}")
    opened = {name: _open(root, name, dataset, normal) for name in names}
    strict = PAPER_DATASET in {dataset, *(c.dataset for c, _ in opened.values())}
    reports = {}
    with Progress(len(names), enabled=progress, unit="categories", stage="verifying") as bar:
        for name in names:
            bar.stage("verifying", name)
            reports[name] = _report(*opened[name], MVTEC_AD.get(name), strict=strict, deep=deep)
            bar.advance()
    absent = {n: CategoryReport(n, False, Counts(0, 0, 0), counts, [], []) for n, counts in MVTEC_AD.items()}
    return VerifyReport(root, list((absent | reports).values()))


def check_category(root: Path, name: str) -> CategoryReport:
    """A quick look at a category that is to be MVTec AD's: numbers of images, and the files' headers."""
    return _report(*_open(root, name, PAPER_DATASET, ()), MVTEC_AD[name], strict=True, deep=False)


def _open(root: Path, name: str, dataset: str | None, normal: Sequence[str]) -> tuple[Category, list[str]]:
    try:
        return open_category(root, name, dataset=dataset, normal=normal)
    except PadimBenchError as error:  # a folder that cannot be read
        return Category("", name, root, (), (), has_masks=False), [str(error)]


def _report(
    category: Category, problems: list[str], expected: Counts | None, *, strict: bool, deep: bool
) -> CategoryReport:
    masks = sum(sample.mask is not None for sample in category.test)
    found = Counts(len(category.train), len(category.test), masks)
    problems, notes = [*problems], [*category.notes]
    differing = _differing(category, found, expected)
    if strict:
        problems = differing + problems
    elif differing:
        notes.append(f"not MVTec AD's {category.name}, unless images are missing ({', '.join(differing)})")
    if len(category.train) == 1:
        notes.append(ONE_IMAGE)
    more, more_notes = (_decoded if deep else _headers)(category)
    return CategoryReport(category.name, True, found, expected, problems + more, notes + more_notes)


def _differing(category: Category, found: Counts, expected: Counts | None) -> list[str]:
    """Where a category has not as many images as MVTec AD's of its name."""
    if expected is None:
        return []
    return [
        f"{what}: {have} images, expected {want}"
        for what, have, want in zip(("train", "test", "ground_truth"), found, expected, strict=True)
        if have != want and (category.has_masks or what != "ground_truth")
    ]


def _decoded(category: Category) -> tuple[list[str], list[str]]:
    """Problems and notes of reading every file as a run does: all at once, and if that fails one by one."""
    samples = (*category.train, *category.test)
    if not samples:
        return [], []
    try:
        return [], list(load_category(category, _PROTOCOL, threads=_THREADS).notes)
    except PadimBenchError:
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(partial(_problem, category), samples))
        return [problem for problem in found if problem], []


def _problem(category: Category, sample: Sample) -> str:
    try:
        load_category(replace(category, train=(), test=(sample,)), _PROTOCOL)
    except PadimBenchError as error:
        return str(error)
    return ""


def _headers(category: Category) -> tuple[list[str], list[str]]:
    """Files that are no images, and masks of other sizes, by their headers alone."""
    with ThreadPoolExecutor(_THREADS) as pool:
        found = list(pool.map(_header_problem, (*category.train, *category.test)))
    return [problem for problem in found if problem], []


def _header_problem(sample: Sample) -> str:
    sizes = []
    for path in (sample.image, sample.mask):
        if path is None:
            continue
        try:
            sizes.append(sorted(stored_size(path)))  # whichever way it is turned
        except PadimBenchError as error:
            return str(error)
    return f"mask {sample.mask} is not of its image's size" if len(sizes) == 2 and sizes[0] != sizes[1] else ""
