"""Datasets in the MVTec AD layout: ``category/{train,test,ground_truth}/defect/NNN.png``."""

from __future__ import annotations

from pathlib import Path

from padim_bench.data.demo import DEMO_CATEGORIES
from padim_bench.data.samples import Category, Sample
from padim_bench.errors import PadimBenchError

MVTEC_TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
MVTEC_OBJECTS = (
    "bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw", "toothbrush", "transistor", "zipper",
)  # fmt: skip
KINDS: dict[str, str] = {
    **dict.fromkeys(MVTEC_TEXTURES, "texture"),
    **dict.fromkeys(MVTEC_OBJECTS, "object"),
    **DEMO_CATEGORIES,
}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise PadimBenchError(f"cannot read {folder}: {error.strerror}: check its permissions") from error


def list_images(folder: Path) -> list[Path]:
    """The image files directly in ``folder``, sorted by name; empty if there is no such folder."""
    if not folder.is_dir():
        return []
    found = (p for p in _entries(folder) if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    return sorted(p for p in found if p.is_file())


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in _entries(folder) if p.is_dir() and not p.name.startswith("."))


def check_root(root: Path) -> Path:
    """``root`` if it is a readable directory. Raises PadimBenchError otherwise."""
    if not root.exists():
        raise PadimBenchError(f"no such directory: {root}: give the dataset's folder with --data or PADIM_BENCH_DATA")
    if not root.is_dir():
        raise PadimBenchError(f"{root} is not a directory: give the folder that holds the categories")
    return root


def list_categories(root: Path) -> list[str]:
    """Names of the categories (folders with a ``train/good``) under ``root``, MVTec AD's order first.

    Raises PadimBenchError if ``root`` is no directory or holds no category.
    """
    names = [p.name for p in _subfolders(check_root(root)) if (p / "train" / "good").is_dir()]
    if not names:
        raise PadimBenchError(
            f"{root} holds no category in MVTec layout (category/train/good/*.png): "
            "give the folder above the categories, or make a demo with 'padim-bench data demo --root DIR'"
        )
    order = list(KINDS)
    return sorted(names, key=lambda n: (order.index(n) if n in KINDS else len(order), n))


def _dataset_name(root: Path, category: str) -> str:
    if category in DEMO_CATEGORIES:
        return "demo"
    return "mvtec-ad" if category in KINDS else root.resolve().name


def find_masks(folder: Path) -> dict[str, Path]:
    """Masks by the stem of their image: ``NNN_mask.png`` as MVTec AD has it, or the image's own name."""
    return {path.stem.removesuffix("_mask"): path for path in list_images(folder)}


def mvtec(root: Path | str, category: str) -> Category:
    """One category of a dataset in MVTec AD layout.

    A category with no ``ground_truth`` folder at all has no masks and is evaluated at image level only.

    Raises:
        PadimBenchError: no such folder or category, no training or no test image, or a missing mask.
    """
    root = Path(root)
    base = check_root(root) / category
    if not base.is_dir():
        present = ", ".join(list_categories(root))
        raise PadimBenchError(f"no category {category!r} in {root}: it holds {present}")
    train = tuple(Sample(p, 0, "good") for p in list_images(base / "train" / "good"))
    if not train:
        raise PadimBenchError(f"no training image in {base / 'train' / 'good'}: put the normal images there")
    has_masks = (base / "ground_truth").is_dir()
    test: list[Sample] = []
    for folder in _subfolders(base / "test") if (base / "test").is_dir() else []:
        masks = find_masks(base / "ground_truth" / folder.name)
        for path in list_images(folder):
            if folder.name == "good":
                test.append(Sample(path, 0, "good"))
                continue
            mask = masks.get(path.stem)
            if has_masks and mask is None:
                wanted = base / "ground_truth" / folder.name / f"{path.stem}_mask.png"
                raise PadimBenchError(
                    f"no mask for {path}: expected {wanted} (without any ground_truth folder the "
                    "category is evaluated at image level only)"
                )
            test.append(Sample(path, 1, folder.name, mask))
    if not test:
        raise PadimBenchError(f"no test image in {base / 'test'}: put images into test/good and test/DEFECT")
    name = _dataset_name(root, category)
    return Category(name, category, root, train, tuple(test), has_masks, KINDS.get(category, ""))
