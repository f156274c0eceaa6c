"""MVTec AD, the dataset of the paper's tables: its categories and how many images each has."""

from __future__ import annotations

from padim_bench.data.samples import Counts

MVTEC_TEXTURES = ("carpet", "grid", "leather", "tile", "wood")
MVTEC_OBJECTS = (
    "bottle", "cable", "capsule", "hazelnut", "metal_nut", "pill", "screw", "toothbrush", "transistor", "zipper",
)  # fmt: skip
MVTEC_KINDS = {**dict.fromkeys(MVTEC_TEXTURES, "texture"), **dict.fromkeys(MVTEC_OBJECTS, "object")}
MVTEC_AD: dict[str, Counts] = {
    "bottle": Counts(209, 83, 63),
    "cable": Counts(224, 150, 92),
    "capsule": Counts(219, 132, 109),
    "carpet": Counts(280, 117, 89),
    "grid": Counts(264, 78, 57),
    "hazelnut": Counts(391, 110, 70),
    "leather": Counts(245, 124, 92),
    "metal_nut": Counts(220, 115, 93),
    "pill": Counts(267, 167, 141),
    "screw": Counts(320, 160, 119),
    "tile": Counts(230, 117, 84),
    "toothbrush": Counts(60, 42, 30),
    "transistor": Counts(213, 100, 40),
    "wood": Counts(247, 79, 60),
    "zipper": Counts(240, 151, 119),
}
