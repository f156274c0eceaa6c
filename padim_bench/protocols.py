"""Protocols: every choice between an image file and a number that the paper leaves open.

The paper's sections III and IV-B fix some of them (256, crop 224, bicubic, sigma 4, epsilon 0.01);
the others differ between public implementations and explain part of the gaps between their numbers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from padim_bench.errors import PadimBenchError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
MapInterpolation = Literal["bilinear", "bicubic"]
Border = Literal["reflect", "mirror"]
ScoreFrom = Literal["smoothed", "raw"]


@dataclass(frozen=True)
class Protocol:
    """How images are prepared and how distances become anomaly maps and image scores.

    Attributes:
        name: what tables and records call it.
        resize: side in pixels that the whole image is resized to (aspect ratio not kept).
        crop: side of the centre crop after resizing; None for no crop.
        image_interpolation: filter for images (with antialiasing, as PIL does).
        mask_interpolation: filter for ground-truth masks.
        map_interpolation: filter from the grid of distances to pixels.
        sigma: standard deviation of the Gaussian filter on maps, in pixels; 0 for none.
        border: "reflect" repeats the edge pixel (scipy's mode of that name); "mirror" does not
            (torch's "reflect" padding).
        score_from: whether the image score is the maximum of the smoothed or of the raw map.
        epsilon: added to every diagonal entry of the covariance (equation 1).
        source: where the choices come from.
    """

    name: str
    resize: int = 256
    crop: int | None = 224
    image_interpolation: Interpolation = "bicubic"
    mask_interpolation: Interpolation = "nearest"
    map_interpolation: MapInterpolation = "bicubic"
    sigma: float = 4.0
    border: Border = "reflect"
    score_from: ScoreFrom = "smoothed"
    epsilon: float = 0.01
    source: str = ""

    def __post_init__(self) -> None:
        if self.resize < 1 or (self.crop is not None and not 1 <= self.crop <= self.resize):
            raise PadimBenchError(
                f"protocol {self.name}: crop {self.crop} does not fit resize {self.resize}: choose crop <= resize"
            )
        for given, known in (
            (self.image_interpolation, get_args(Interpolation)),
            (self.mask_interpolation, get_args(Interpolation)),
            (self.map_interpolation, get_args(MapInterpolation)),
            (self.border, get_args(Border)),
            (self.score_from, get_args(ScoreFrom)),
        ):
            if given not in known:
                raise PadimBenchError(f"protocol {self.name}: unknown {given!r}: choose from {', '.join(known)}")
        # Not merely > 0: with fewer images than dimensions epsilon alone makes the covariance invertible.
        if not 0 < self.epsilon < float("inf"):
            raise PadimBenchError(f"epsilon is {self.epsilon}: choose a positive number (the paper's is 0.01)")
        if not 0 <= self.sigma < float("inf"):
            raise PadimBenchError(f"sigma is {self.sigma}: choose 0 (no smoothing) or more")

    @property
    def size(self) -> int:
        """Side in pixels of the images the backbone sees, and of maps and masks."""
        return self.resize if self.crop is None else self.crop

    @property
    def resolution(self) -> str:
        """The name of the resolution at which pixels are compared, such as ``paper-224``."""
        return f"{self.name}-{self.size}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            "paper",
            source="arXiv:2011.08785, sections III and IV-B; scipy border, as published reproductions",
        ),
        Protocol(
            "anomalib",
            crop=None,
            image_interpolation="bilinear",
            map_interpolation="bilinear",
            border="mirror",
            epsilon=0.01 + 1e-5,
            source="anomalib 2: 256 without crop, bilinear images and maps, a further 1e-5 on the diagonal",
        ),
        Protocol(
            "xiahaifeng1995",
            image_interpolation="lanczos",
            map_interpolation="bilinear",
            source="the most popular public script: Lanczos images, bilinear maps, seed 1024",
        ),
    )
}


def get_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name (or the one given). Raises PadimBenchError for an unknown name."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise PadimBenchError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]
