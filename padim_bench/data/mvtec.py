"""Datasets in the MVTec AD layout: ``category/{train,test,ground_truth}/defect/NNN.png``."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

from padim_bench.data.datasets import DATASETS
from padim_bench.data.listing import (
    IMAGE_SUFFIXES,
    LeftOut,
    entries,
    is_file,
    is_folder,
    list_images,
    spelled,
    subfolders,
    unspelled,
)
from padim_bench.data.samples import Category, Counts, Sample
from padim_bench.errors import DataWarning, PadimBenchError

NORMAL = "good"  # what the layout calls the folder of normal images
PARTS = ("train", "test", "ground_truth")
# What other people call it.
_NORMAL_WORDS = frozenset(
    {
        "good", "goods", "ok", "okay", "io", "normal", "normals", "nominal", "regular", "defectfree", "nodefect",
        "nodefects", "nondefective", "faultless", "flawless", "anomalyfree", "noanomaly", "nonanomalous", "clean",
        "pass", "passed", "healthy", "intact", "perfect", "correct", "negative", "negatives", "neg", "benign",
    }
)  # fmt: skip
_FILLERS = frozenset({"test", "train", "image", "images", "sample", "samples", "part", "parts"})


def looks_normal(name: str) -> bool:
    """Whether a folder's name is one of those that people give to normal images: Good, OK, no_defect, good_2."""
    words = [word for word in re.findall(r"[^\W\d_]+", name.casefold()) if word not in _FILLERS]
    return bool(words) and ("".join(words) in _NORMAL_WORDS or all(word in _NORMAL_WORDS for word in words))


def check_root(root: Path) -> Path:
    """``root`` if it is a readable directory. Raises PadimBenchError otherwise."""
    if is_folder(root):
        return root
    if is_file(root):
        raise PadimBenchError(f"{root} is not a directory: give the folder that holds the categories")
    raise PadimBenchError(f"no such directory: {root}: give the dataset's folder with --data or PADIM_BENCH_DATA")


def list_categories(root: Path, *, normal: Sequence[str] = ()) -> list[str]:
    """Names of the categories (folders with a ``train/good``) under ``root``, MVTec AD's order first.

    ``normal`` as in :func:`mvtec`. Names that are no Unicode are spelled as :func:`listing.spelled` does.
    A folder whose ``train`` has normal images by another name counts too, so that :func:`mvtec` can say so; one
    with a ``train`` without any is warned of (DataWarning).

    Raises PadimBenchError if ``root`` is no directory or holds no category.
    """
    names, other = list[str](), list[str]()
    for folder in subfolders(check_root(root)):
        if not is_folder(folder / "train"):
            continue
        of_train = [path.name for path in _trusted_subfolders(folder / "train")]
        wanted = any(_is_normal(name, normal) or looks_normal(name) for name in of_train)
        (names if wanted else other).append(spelled(folder.name))
    mend = "give the folder above the categories, or make a demo with 'padim-bench data demo --root DIR'"
    if not names:
        shown = "/".join(normal) or NORMAL
        raise PadimBenchError(f"{root} holds no category in MVTec layout (category/train/{shown}/*.png): {mend}")
    if other:
        _warn(f"{root}: no category, for want of a folder train/{NORMAL}: {', '.join(other)}")
    order = [name for dataset in DATASETS.values() if dataset.opener for name in dataset.kinds]
    return sorted(names, key=lambda n: (order.index(n) if n in order else len(order), n))


def mvtec(root: Path | str, category: str, *, dataset: str | None = None, normal: Sequence[str] | str = ()) -> Category:
    """One category of a dataset in MVTec AD layout.

    A category with no ``ground_truth`` folder at all has no masks and is evaluated at image level only. What lies
    there and is not read is warned of in one line (DataWarning), which is kept in ``notes``.

    Args:
        root: the folder above the categories.
        category: the folder's name.
        dataset: what the dataset is, if you know: "mvtec-ad" makes the paper's numbers stand beside yours. None: MVTec
            AD where the numbers of images are the published ones, else what ``root`` is called.
        normal: names of the folders, in ``train`` and ``test``, whose images are normal, in any case; none for "good".

    Raises:
        PadimBenchError: no such folder or category, no training or no test image, a missing mask, one that belongs to
            two images, or a test folder that is called as normal images are and is neither "good" nor named.
    """
    found, problems = open_category(Path(root), category, dataset=dataset, normal=normal)
    if problems:
        raise PadimBenchError(problems[0])
    for note in found.notes:
        _warn(f"{found.name}: {note}")
    return found


def open_category(
    root: Path, category: str, *, dataset: str | None = None, normal: Sequence[str] | str = ()
) -> tuple[Category, list[str]]:
    """:func:`mvtec`, and everything that is wrong with the category's folders instead of an error of the first.

    Raises PadimBenchError only if there is no such category.
    """
    normal = (normal,) if isinstance(normal, str) else tuple(normal)
    base = _category_folder(check_root(root), category)
    name = spelled(base.name)
    left_out, problems = LeftOut(base), list[str]()
    _sort_out(base, left_out)
    train = _train(base, normal, left_out, problems)
    test, has_masks = _test(base, normal, left_out, problems)
    if dataset is None:
        dataset = _dataset_name(base, Counts(len(train), len(test), sum(s.label for s in test)))
    kinds = DATASETS[dataset].kinds if dataset in DATASETS else {}
    if kinds and name not in kinds:
        problems.insert(0, f"{dataset} has no category {name!r}: leave the dataset's name out for {base}")
    notes = left_out.notes()
    if test and all(s.label for s in test):
        notes += (_no_normal(test, normal),)
    if normal:
        asked = sorted({s.image.parent.relative_to(base).as_posix() for s in (*train, *test) if not s.label})
        notes += (f"normal as asked for by name: {', '.join(map(spelled, asked))}",)
    kind = kinds.get(name, "")
    return Category(dataset, name, root, tuple(train), tuple(test), has_masks, kind, notes, normal), problems


def _warn(message: str) -> None:
    warnings.warn(DataWarning(message), stacklevel=3)


def _is_normal(name: str, normal: Sequence[str]) -> bool:
    """Names are compared whatever their case, as some file systems do; "good" alone is not, for it is nobody's word."""
    return name == NORMAL if not normal else spelled(name).casefold() in {n.casefold() for n in normal}


def _trusted_subfolders(folder: Path) -> list[Path]:
    """The subfolders, or none where the folder may not be read: beside the categories lies what is not ours."""
    try:
        return subfolders(folder)
    except PadimBenchError:
        return []


def _category_folder(root: Path, category: str) -> Path:
    for folder in (root / category, root / unspelled(category)):
        if is_folder(folder):
            # Where a file system takes bottle for Bottle, the folder's own name counts.
            alike = [p for p in subfolders(root) if p.name.casefold() == folder.name.casefold()]
            return next((p for p in alike if p.name != folder.name and p.samefile(folder)), folder)
    raise PadimBenchError(f"no category {category!r} in {root}: it holds {', '.join(list_categories(root))}")


def _sort_out(base: Path, left_out: LeftOut) -> None:
    """What lies beside the folders of images: images, and folders that the layout does not know."""
    for path in entries(base):
        part = next((base / part for part in PARTS if part == path.name.casefold()), None)
        if part is not None and is_folder(part) and is_folder(path) and part.samefile(path):
            for file in (p for p in entries(part) if not is_folder(p)):
                left_out.add(file, f"beside the folders of {part.name}")
        elif is_folder(path):
            left_out.add(path, f"none of {', '.join(PARTS)}")
        elif part is not None or path.suffix.lower() in IMAGE_SUFFIXES:
            left_out.add(path, "not in a folder of images")


def _train(base: Path, normal: Sequence[str], left_out: LeftOut, problems: list[str]) -> list[Sample]:
    samples: list[Sample] = []
    for folder in subfolders(base / "train"):
        if _is_normal(folder.name, normal):
            samples += [Sample(path, 0, NORMAL) for path in _images(folder, left_out, problems)]
        elif not normal and looks_normal(folder.name):
            problems.append(_looks_normal(folder, "is not trained on"))
        else:
            left_out.add(folder, "folder of train that is not of normal images")
    if not samples:
        place = base / "train" / (normal[0] if normal else NORMAL)
        problems.append(f"no training image in {place}: put the normal images there")
    return samples


def _test(base: Path, normal: Sequence[str], left_out: LeftOut, problems: list[str]) -> tuple[list[Sample], bool]:
    """The test samples, and whether there are masks."""
    truth, samples = base / "ground_truth", list[Sample]()
    has_masks = is_folder(truth)
    for folder in subfolders(base / "test"):
        images = _images(folder, left_out, problems)
        masks = list_images(truth / folder.name, left_out)
        if _is_normal(folder.name, normal):
            samples += [Sample(path, 0, NORMAL) for path in images]
            for mask in masks:
                left_out.add(mask, "mask of a normal image")
            continue
        if not normal and looks_normal(folder.name):
            problems.append(_looks_normal(folder, "is anomalous"))
            has_pairs = False  # a mask that is missing is not what is wrong
        else:
            has_pairs = has_masks
        pairs = pair_masks(images, masks, left_out, problems) if has_pairs else {}
        for path in images:
            if has_pairs and path not in pairs:
                problems.append(
                    f"no mask for {path}: expected {truth / folder.name / f'{path.stem}_mask.png'} (without any "
                    "ground_truth folder the category is evaluated at image level only)"
                )
            samples.append(Sample(path, 1, spelled(folder.name), pairs.get(path)))
    for folder in subfolders(truth):
        if not is_folder(base / "test" / folder.name):
            left_out.add(folder, "folder of masks without a folder of images")
    if not samples:
        problems.append(f"no test image in {base / 'test'}: put images into test/good and test/DEFECT")
    return samples, has_masks


def _images(folder: Path, left_out: LeftOut, problems: list[str]) -> list[Path]:
    """The images of a folder; masks that lie beside them are a problem, or they would be taken for images."""
    found = list_images(folder, left_out)
    stems = {path.stem for path in found}
    problems += [
        f"{path} is called as the mask of an image beside it: move it to ground_truth, where masks lie"
        for path in found
        if path.stem.endswith("_mask") and path.stem.removesuffix("_mask") in stems
    ]
    return found


def pair_masks(
    images: Sequence[Path], masks: Sequence[Path], left_out: LeftOut, problems: list[str]
) -> dict[Path, Path]:
    """The mask of each image that has one: ``NNN_mask.png`` as MVTec AD has it, or of the image's own stem.

    What is in doubt is added to ``problems``, masks without an image to ``left_out``.
    """
    by_stem: dict[str, Path] = {}
    for mask in masks:
        first = by_stem.setdefault(mask.stem.removesuffix("_mask"), mask)
        if first is not mask:
            problems.append(f"{first} and {mask.name} are masks of one image: delete one of them")
    of_stem: dict[str, Path] = {}
    for image in images:
        first = of_stem.setdefault(image.stem, image)
        if first is not image:
            problems.append(
                f"{first} and {image.name} would share a mask: rename one of them, and its mask, or delete it"
            )
    for stem, mask in by_stem.items():
        if stem not in of_stem:
            left_out.add(mask, "mask without an image")
    return {image: by_stem[image.stem] for image in images if image.stem in by_stem}


def _looks_normal(folder: Path, otherwise: str) -> str:
    """Neither a defect nor normal for sure: what to do about it."""
    normal = [NORMAL] * is_folder(folder.parent / NORMAL) + [spelled(folder.name)]
    shown = ",".join(name.replace(",", "\\,") for name in normal)
    return (
        f"{folder} is called as normal images are, but they lie in {folder.parent.name}/{NORMAL} and what is called "
        f"otherwise {otherwise}: rename it, or say what is normal by --normal {shown} (in Python normal={normal})"
    )


def _no_normal(test: Iterable[Sample], normal: Sequence[str]) -> str:
    wanted, found = "/".join(normal) or NORMAL, dict.fromkeys(s.defect for s in test)
    return (
        f"no normal test image in test/{wanted}, all are anomalous ({', '.join(found)}): --normal names the normal ones"
    )


def _dataset_name(base: Path, counts: Counts) -> str:
    """What a dataset is known to be by its content, or the name of its folder, which proves nothing."""
    name, root = spelled(base.name), base.parent
    for known in DATASETS.values():
        stamped = known.stamp and name in known.kinds and is_file(base / known.stamp)
        if stamped or known.counts.get(name) == counts:
            return known.name
    called = spelled(root.resolve().name) or "dataset"
    return f"{called} (folder)" if called in DATASETS and DATASETS[called].recorded else called
