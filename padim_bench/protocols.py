"""Protocols: every choice between an image file and a number that the paper leaves open.

The paper's sections III and IV-B fix some of them (256, crop 224, bicubic, sigma 4, epsilon 0.01);
the others differ between public implementations and explain part of the gaps between their numbers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, ClassVar, Literal, get_args

from padim_bench.errors import PadimBenchError

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
MapInterpolation = Literal["bilinear", "bicubic"]
Border = Literal["reflect", "mirror"]
ScoreFrom = Literal["smoothed", "raw"]
CompareAt = Literal["protocol", "masks"]
# How pydantic reads what was stored: no value is converted, and nothing is there that is not known here.
STORED_STRICTLY = {"extra": "forbid", "strict": True}


def _as_float(choices: object, name: str) -> None:
    """2 is 2.0: a choice is the same, and so are ids, however the number was written."""
    value = getattr(choices, name)
    if type(value) is int:
        object.__setattr__(choices, name, float(value))


@dataclass(frozen=True)
class ImageChoices:
    """What decides the pixels that the backbone sees: protocols that share it share decoded images and features.

    Attributes:
        resize: side in pixels that the whole image is resized to (aspect ratio not kept).
        crop: side of the centre crop after resizing; None for no crop.
        interpolation: filter for images (with antialiasing, as PIL does).
        rotation: of Rd-MVTec AD (section IV-A): images turn by a random angle in +-``rotation`` degrees,
            and the crop is at random; 0 for neither.
        version: the seed of those draws.
        bits: of the values in images with more than 8 bits a channel, which are scaled from 0..2^bits - 1;
            None for 16. Images of 8 bits are as they are.
    """

    resize: int = 256
    crop: int | None = 224
    interpolation: Interpolation = "bicubic"
    rotation: float = 0.0
    version: int = 0
    bits: int | None = None

    __pydantic_config__: ClassVar = STORED_STRICTLY

    def __post_init__(self) -> None:
        _as_float(self, "rotation")

    @property
    def size(self) -> int:
        """Side in pixels of the prepared image."""
        return self.resize if self.crop is None else self.crop


@dataclass(frozen=True)
class MaskChoices:
    """What decides the masks beside where images are cut.

    Attributes:
        interpolation: filter for ground-truth masks.
        compare_at: whether pixels are compared at the protocol's size or at the resolution of the masks as stored.
    """

    interpolation: Interpolation = "nearest"
    compare_at: CompareAt = "protocol"

    __pydantic_config__: ClassVar = STORED_STRICTLY


@dataclass(frozen=True)
class MapChoices:
    """What becomes of distances (section III-C).

    Attributes:
        interpolation: filter from the grid of distances to pixels.
        sigma: standard deviation of the Gaussian filter on maps, in pixels; 0 for none.
        border: "reflect" repeats the edge pixel (scipy's mode of that name); "mirror" does not
            (torch's "reflect" padding).
        score_from: whether the image score is the maximum of the smoothed or of the raw map.
    """

    interpolation: MapInterpolation = "bicubic"
    sigma: float = 4.0
    border: Border = "reflect"
    score_from: ScoreFrom = "smoothed"

    __pydantic_config__: ClassVar = STORED_STRICTLY

    def __post_init__(self) -> None:
        _as_float(self, "sigma")


@dataclass(frozen=True)
class Protocol:
    """How images are prepared and how distances become anomaly maps and image scores.

    Attributes:
        name: what tables and records call it.
        images, masks, maps: the choices of each.
        epsilon: added to every diagonal entry of the covariance (equation 1).
        source: where the choices come from.
    """

    name: str
    images: ImageChoices = ImageChoices()
    masks: MaskChoices = MaskChoices()
    maps: MapChoices = MapChoices()
    epsilon: float = 0.01
    source: str = field(default="", compare=False)  # prose

    __pydantic_config__: ClassVar = STORED_STRICTLY

    def __post_init__(self) -> None:
        _as_float(self, "epsilon")
        images, masks, maps = self.images, self.masks, self.maps
        if images.resize < 1 or (images.crop is not None and not 1 <= images.crop <= images.resize):
            raise PadimBenchError(
                f"protocol {self.name}: crop {images.crop} does not fit resize {images.resize}: choose crop <= resize"
            )
        for given, known in (
            (images.interpolation, get_args(Interpolation)),
            (masks.interpolation, get_args(Interpolation)),
            (maps.interpolation, get_args(MapInterpolation)),
            (maps.border, get_args(Border)),
            (maps.score_from, get_args(ScoreFrom)),
            (masks.compare_at, get_args(CompareAt)),
        ):
            if given not in known:
                raise PadimBenchError(f"protocol {self.name}: unknown {given!r}: choose from {', '.join(known)}")
        # Not merely > 0: with fewer images than dimensions epsilon alone makes the covariance invertible.
        if not 0 < self.epsilon < float("inf"):
            raise PadimBenchError(f"epsilon is {self.epsilon}: choose a positive number (the paper's is 0.01)")
        if not 0 <= maps.sigma < float("inf"):
            raise PadimBenchError(f"sigma is {maps.sigma}: choose 0 (no smoothing) or more")
        if not 0 <= images.rotation <= 180 or images.version < 0:
            raise PadimBenchError(
                f"rotation {images.rotation}, version {images.version}: choose 0 to 180 degrees and 0 or more"
            )
        if images.bits is not None and not 1 <= images.bits <= 31:
            raise PadimBenchError(f"bits is {images.bits}: choose 1 to 31, as 12 for a camera of 12 bits")
        if images.rotation and (images.crop is None or masks.compare_at == "masks"):
            raise PadimBenchError(
                f"protocol {self.name}: turned images need a crop and masks of its size: leave compare_at at protocol"
            )

    @classmethod
    def of(cls, name: str, *, source: str = "", **choices: Any) -> Protocol:
        """A protocol of that name, with choices by the names of :data:`CHOICES`, as ``crop=None, sigma=2``."""
        return replace(cls("paper").vary(**choices), name=name, source=source)

    @property
    def size(self) -> int:
        """Side in pixels of the images the backbone sees, and of maps and masks."""
        return self.images.size

    @property
    def title(self) -> str:
        """The name as people read it: ``paper, resize 512, crop 448`` where records have ``+`` and ``=``."""
        told = re.findall(_TOLD, self.name)
        parts = [f"{name.replace('_', ' ')} {'none' if value == 'None' else value}" for name, value in told]
        return ", ".join([re.split(_TOLD, self.name)[0], *parts])

    @property
    def of_another_size(self) -> bool:
        """Whether it is a preset at another size, as its name tells."""
        return any(name in {"resize", "crop"} for name, _ in re.findall(_TOLD, self.name))

    @property
    def resolution(self) -> str:
        """The name of the resolution at which pixels are compared, such as ``paper-224``."""
        return f"{self.name}-{self.size if self.masks.compare_at == 'protocol' else 'original'}"

    @property
    def mask_choices(self) -> tuple[object, ...]:
        """What decides the masks: their own choices, and where images are cut."""
        images = self.images
        return images.resize, images.crop, images.rotation, images.version, self.masks

    def choice(self, name: str) -> Any:
        """The value of one of :data:`CHOICES`. Raises PadimBenchError for another name."""
        if name not in CHOICES:
            raise PadimBenchError(f"no choice of a protocol is called {name!r}: choose from {', '.join(CHOICES)}")
        return attrgetter(CHOICES[name])(self)

    def vary(self, **changes: Any) -> Protocol:
        """The same with some of :data:`CHOICES` changed, which its name then tells; itself where nothing changes.

        What is changed back to the preset's is told no more, so that the preset itself comes out where all is.
        Raises PadimBenchError for another name, and for values that no protocol can have.
        """
        changed = {k: v for k, v in changes.items() if v != self.choice(k)}
        if not changed:
            return self
        parts: dict[str, dict[str, Any]] = {}
        for name, value in changed.items():
            part, _, field = CHOICES[name].rpartition(".")
            parts.setdefault(part, {})[field] = value
        whole = parts.pop("", {})
        varied = replace(
            self, **whole, **{part: replace(getattr(self, part), **values) for part, values in parts.items()}
        )
        start = re.split(_TOLD, self.name)[0]
        preset = PROTOCOLS.get(start)
        names = list(dict.fromkeys([*(name for name, _ in re.findall(_TOLD, self.name)), *changed]))
        if preset is None:  # somebody's own, of which it is not known what it was
            start, names = self.name, list(changed)
        else:
            names = [name for name in names if varied.choice(name) != preset.choice(name)]
        if "resize" in names:  # one size has one name, in whatever order it was given
            names.sort(key=list(CHOICES).index)
        varied = replace(varied, name=start + "".join(f"+{name}={_shown(varied.choice(name))}" for name in names))
        return preset if preset is not None and varied == preset else varied

    def sized(self, resize: int | None = None, crop: int | Literal["none"] | None = None) -> Protocol:
        """The same at another size; itself at its own.

        Args:
            resize: side in pixels that images are resized to; None for this protocol's. Alone, it keeps the part of
                the image that is seen: the crop grows with it, as from 256 and 224 to 512 and 448, to the pixel that
                leaves as much on either side.
            crop: side of the centre crop, or "none"; None for this protocol's, which is fitted to ``resize``.

        Raises PadimBenchError for sides below 1 and for a crop that is larger than the image.
        """
        given = self.images.resize if resize is None else resize
        if given < 1 or (isinstance(crop, int) and crop < 1):
            raise PadimBenchError(f"resize {given}, crop {crop}: choose sides of 1 pixel or more")
        side: int | None = None
        if isinstance(crop, int):
            if crop > given:
                raise PadimBenchError(
                    f"crop {crop} is larger than the image, which protocol {self.title} resizes to {given} pixels: "
                    f"choose a smaller crop, or a resize of {crop} or more"
                )
            side = crop
        elif crop is None and self.images.crop is not None:
            ratio = self.images.crop / self.images.resize
            side = given if resize is None else given - 2 * round(given * (1 - ratio) / 2)
            side = self.images.crop if resize is None else side
        return self.vary(resize=given, crop=None if side == given and not self.images.rotation else side)


# Of what a name tells of a choice: what stands before and after "=".
_TOLD = r"\+(\w+)=(-?[\d.]+(?:e[+-]?\d+)?|\w+)"


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


# Every choice by one name, as options, the names of varied protocols and the ablation call it, and where it lies.
CHOICES: dict[str, str] = {
    "resize": "images.resize",
    "crop": "images.crop",
    "image_interpolation": "images.interpolation",
    "mask_interpolation": "masks.interpolation",
    "map_interpolation": "maps.interpolation",
    "sigma": "maps.sigma",
    "border": "maps.border",
    "score_from": "maps.score_from",
    "epsilon": "epsilon",
    "compare_at": "masks.compare_at",
    "rotation": "images.rotation",
    "version": "images.version",
    "bits": "images.bits",
}


PROTOCOLS: dict[str, Protocol] = {
    p.name: p
    for p in (
        Protocol(
            "paper",
            source="arXiv:2011.08785, sections III and IV-B; scipy border, as published reproductions",
        ),
        Protocol(
            "paper-stc",
            images=ImageChoices(crop=None),
            source="arXiv:2011.08785, section IV-B, for ShanghaiTech Campus: resized to 256x256, no crop",
        ),
        Protocol(
            "anomalib",
            images=ImageChoices(crop=None, interpolation="bilinear"),
            maps=MapChoices(interpolation="bilinear", border="mirror"),
            epsilon=0.01 + 1e-5,
            source="anomalib 2: 256 without crop, bilinear images and maps, a further 1e-5 on the diagonal",
        ),
        Protocol(
            "xiahaifeng1995",
            images=ImageChoices(interpolation="lanczos"),
            maps=MapChoices(interpolation="bilinear"),
            source="the most popular public script: Lanczos images, bilinear maps, seed 1024",
        ),
    )
}


def rd_mvtec_protocol(version: int) -> Protocol:
    """The paper's protocol over one version of Rd-MVTec AD (sections IV-A and V-C)."""
    source = "paper; rotation about the centre before the crop, black where nothing was, drawn by random.Random"
    return Protocol(f"rd-mvtec-v{version}", ImageChoices(rotation=10.0, version=version), source=source)


def get_protocol(protocol: str | Protocol) -> Protocol:
    """The protocol of that name (or the one given), a preset or as :meth:`Protocol.vary` names one.

    Raises PadimBenchError for an unknown name, and for choices that there are not.
    """
    if isinstance(protocol, Protocol):
        return protocol
    start, told = re.split(_TOLD, protocol)[0], re.findall(_TOLD, protocol)
    if start not in PROTOCOLS or protocol != start + "".join(f"+{name}={text}" for name, text in told):
        raise PadimBenchError(f"unknown protocol {protocol!r}: choose one of {', '.join(PROTOCOLS)}")
    preset = PROTOCOLS[start]
    return preset.vary(**{name: _read(name, text, type(preset.choice(name))) for name, text in told})


def _read(name: str, text: str, kind: type) -> Any:
    """A choice as a name tells it. Raises PadimBenchError for what is no value of it."""
    try:
        if name in {"crop", "bits"}:
            return None if text == "None" else int(text)
        return kind(text)
    except ValueError as error:
        raise PadimBenchError(f"{name} is {text!r}: write a number") from error
