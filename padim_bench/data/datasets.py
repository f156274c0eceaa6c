"""Every dataset that is known by name, in one registry.

To add one, write a file with what is known of it and how it is opened, and enter it in ``DATASETS``: it is then
listed, opened by ``--dataset``, recognised by its numbers of images, and tables know how many categories it has.
Readers of images are imported when they are called: they ask this registry what a folder is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from padim_bench.data.mvtec_ad import MVTEC_AD, MVTEC_KINDS
from padim_bench.data.samples import Category, Counts, Dataset, Opener
from padim_bench.protocols import get_protocol, rd_mvtec_protocol

PAPER_DATASET, PAPER_SCENES = "mvtec-ad", "stc"  # of all the paper's tables but one, and of that one
# The dataset that padim_bench.demo draws.
DEMO_CATEGORIES: dict[str, str] = {
    "weave": "texture",
    "terrazzo": "texture",
    "gear": "object",
    "resistor": "object",
}


def mvtec_layout(dataset: str | None = None) -> Opener:
    """Opens folders in MVTec AD layout as ``dataset``; None for whatever each is recognised as."""

    def opened(root: Path, categories: Sequence[str] | None, normal: Sequence[str]) -> list[Category]:
        from padim_bench.data.mvtec import list_categories, mvtec

        names = list_categories(root, normal=normal) if categories is None else categories
        return [mvtec(root, name, dataset=dataset, normal=normal) for name in names]

    return opened


def _folder(root: Path, _categories: Sequence[str] | None, _normal: Sequence[str]) -> list[Category]:
    from padim_bench.data.folder import folder

    return [folder(root)]


DATASETS: dict[str, Dataset] = {
    d.name: d
    for d in (
        Dataset(
            PAPER_DATASET,
            "MVTec AD",
            "MVTec AD: {categories}; known by its numbers of images, or --dataset mvtec-ad says so",
            kinds=MVTEC_KINDS,
            counts=MVTEC_AD,
            opener=mvtec_layout(PAPER_DATASET),
        ),
        Dataset(
            "demo",
            "the demo dataset",
            "drawn, for trying things out: {categories}",
            kinds=DEMO_CATEGORIES,
            opener=mvtec_layout("demo"),
            stamp="demo.json",
            warning="demo data, not MVTec AD",
        ),
        Dataset(
            "mvtec",
            "a dataset in MVTec AD layout",
            "any dataset in MVTec AD layout (--dataset mvtec, the default)",
            opener=mvtec_layout(),
            recorded=False,
        ),
        Dataset(
            "folder",
            "plain folders",
            "normal/, anomalous/ and optionally normal_test/ and masks/ (--dataset folder)",
            opener=_folder,
            single=True,
        ),
        Dataset(
            PAPER_SCENES,
            "ShanghaiTech Campus",
            "ShanghaiTech Campus, for table4 (--stc): scenes {categories}; scene 13 has no test clip",
            kinds={f"{scene:02d}": "scene" for scene in range(1, 13)},
            members="scenes",
            protocol=lambda _: get_protocol("paper-stc"),
        ),
        Dataset(
            "demo-stc",
            "the demo scenes",
            "drawn, in the layout of ShanghaiTech Campus: scenes {categories}",
            kinds={"01": "scene", "02": "scene"},
            members="scenes",
            stamp="demo.json",
            warning="demo data",
            protocol=lambda _: get_protocol("paper-stc"),
        ),
        Dataset(
            "rd-mvtec",
            "Rd-MVTec AD",
            "MVTec AD turned and cropped at random, a version a seed, for table6",
            kinds=MVTEC_KINDS,
            recorded=False,
            protocol=rd_mvtec_protocol,
        ),
    )
}


def official_split(category: Category) -> bool | None:
    """Whether a category has as many images as the published one; None for a dataset without published numbers."""
    known = DATASETS.get(category.dataset)
    if known is None or not known.counts:
        return None
    counts = Counts(len(category.train), len(category.test), sum(s.label for s in category.test))
    return known.counts.get(category.name) == counts
