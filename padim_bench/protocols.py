"""Protocols: every choice between an image file and a number that the paper leaves open.

The paper's sections III and IV-B fix some of them (256, crop 224, bicubic, sigma 4, epsilon 0.01);
the others differ between public implementations and explain part of the gaps between their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, get_args

from padim_bench.errors import PadimBenchError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
MapInterpolation = Literal["bilinear", "bicubic"]
Border = Literal["reflect", "mirror"]
ScoreFrom = Literal["smoothed", "raw"]
CompareAt = Literal["protocol", "masks"]
# How pydantic reads what was stored: no value is converted, and nothing is there that is not known here.
STORED_STRICTLY = {"extra": "forbid", "strict": True}


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
        compare_at: whether pixels are compared at ``size`` or at the resolution of the masks as stored.
        rotation: of Rd-MVTec AD (section IV-A): images turn by a random angle in +-``rotation`` degrees,
            and the crop is at random; 0 for neither.
        version: the seed of those draws.
        bits: of the values in images with more than 8 bits a channel, which are scaled from 0..2^bits - 1;
            None for 16. Images of 8 bits are as they are.
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
    compare_at: CompareAt = "protocol"
    rotation: float = 0.0
    version: int = 0
    source: str = ""
    bits: int | None = None

    __pydantic_config__: ClassVar = STORED_STRICTLY

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
            (self.compare_at, get_args(CompareAt)),
        ):
            if given not in known:
                raise PadimBenchError(f"protocol {self.name}: unknown {given!r}: choose from {', '.join(known)}")
        # Not merely > 0: with fewer images than dimensions epsilon alone makes the covariance invertible.
        if not 0 < self.epsilon < float("inf"):
            raise PadimBenchError(f"epsilon is {self.epsilon}: choose a positive number (the paper's is 0.01)")
        if not 0 <= self.sigma < float("inf"):
            raise PadimBenchError(f"sigma is {self.sigma}: choose 0 (no smoothing) or more")
        if not 0 <= self.rotation <= 180 or self.version < 0:
            raise PadimBenchError(
                f"rotation {self.rotation}, version {self.version}: choose 0 to 180 degrees and 0 or more"
            )
        if self.bits is not None and not 1 <= self.bits <= 31:
            raise PadimBenchError(f"bits is {self.bits}: choose 1 to 31, as 12 for a camera of 12 bits")
        if self.rotation and (self.crop is None or self.compare_at == "masks"):
            raise PadimBenchError(
                f"protocol {self.name}: turned images need a crop and masks of its size: leave compare_at at protocol"
            )

    @property
    def size(self) -> int:
        """Side in pixels of the images the backbone sees, and of maps and masks."""
        return self.resize if self.crop is None else self.crop

    @property
    def resolution(self) -> str:
        """The name of the resolution at which pixels are compared, such as ``paper-224``."""
        return f"{self.name}-{self.size if self.compare_at == 'protocol' else 'original'}"

    @property
    def image_choices(self) -> tuple[object, ...]:
        """What decides the pixels that the backbone sees: protocols that share it share features."""
        return self.resize, self.crop, self.image_interpolation, self.rotation, self.version, self.bits

    @property
    def mask_choices(self) -> tuple[object, ...]:
        """What decides the masks."""
        return self.resize, self.crop, self.mask_interpolation, self.rotation, self.version, self.compare_at

    def vary(self, **changes: Any) -> Protocol:
        """The same with some choices changed, which its name then tells; itself where nothing changes."""
        changed = {k: v for k, v in changes.items() if v != getattr(self, k)}
        if not changed:
            return self
        told = "".join(f"+{k}={v:g}" if isinstance(v, float) else f"+{k}={v}" for k, v in changed.items())
        return replace(self, name=f"{self.name}{told}", **changed)

    def to_dict(self) -> dict[str, Any]:
        """All fields; ``bits`` only where there are any, so that records and ids of before it stay as they were."""
        fields = dict(vars(self))
        if self.bits is None:
            del fields["bits"]
        return fields


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            "paper",
            source="arXiv:2011.08785, sections III and IV-B; scipy border, as published reproductions",
        ),
        Protocol(
            "paper-stc",
            crop=None,
            source="arXiv:2011.08785, section IV-B, for ShanghaiTech Campus: resized to 256x256, no crop",
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


def rd_mvtec_protocol(version: int) -> Protocol:
    """The paper's protocol over one version of Rd-MVTec AD (sections IV-A and V-C)."""
    source = "paper; rotation about the centre before the crop, black where nothing was, drawn by random.Random"
    return replace(PROTOCOLS["paper"], name=f"rd-mvtec-v{version}", rotation=10.0, version=version, source=source)


def get_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name (or the one given). Raises PadimBenchError for an unknown name."""
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise PadimBenchError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]
