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
# Of all images and masks of the six categories that the published records are of, which are stored at 256x256; of the
# other nine categories only the numbers of images are known.
PUBLISHED_SPLITS: dict[str, str] = {
    "bottle": "9ec7f174041d6cf1d707fcb1ee89fa74ecc56b267c1ed6ccf4f416ec323b1c3f",
    "capsule": "d8af3601a809ff3b19cd0095eaf1a5886a9fab3b1d708358813c8cfc5e627e90",
    "grid": "69bdecc65f163b7eadece671f8bf25b6ddf52d939786ae3c5b304a60c01ed697",
    "pill": "8400e2cee185697b8885bce54ba70d9da1bfa26f89730cca19ef7d20742d72b0",
    "screw": "05b793b9889f7fb62383d75536f848bb696e1c94581e95d0201e25b3ef434285",
    "transistor": "6d2aaeb88ee4fa1736c336ee7798e6af0c0bd2c234aba9df8075510dfcc3d680",
}
