"""Draws the gallery of one category: two passes over its maps, one image at a time, and the page that shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from padim_bench.data.datasets import DATASETS
from padim_bench.data.listing import spelled
from padim_bench.data.masks import read_mask
from padim_bench.data.notes import Notes
from padim_bench.data.samples import Category, Sample
from padim_bench.data.transforms import decode_image, read_bytes
from padim_bench.gallery.folder import PAGE, Summary, link, shown_metric
from padim_bench.gallery.verdicts import Verdict, best_threshold, f1_at, order, verdicts
from padim_bench.html.rendering import Anchors, render
from padim_bench.machine.files import make_folder, write_text
from padim_bench.maps.files import find_maps, map_names, read_map
from padim_bench.metrics.summary import headline
from padim_bench.protocols import Protocol
from padim_bench.using.heat import Scale, colour_stops, heat_map, outlined, picture_of, write_picture

LARGEST = 512  # of the longer side of a picture, in pixels
CONTOUR = (0, 230, 118)  # of masks: a green that no heat map has
_TEMPLATE = Path(__file__).with_name("gallery.html.jinja")
_JPEG = {"quality": 88, "subsampling": 0}  # lines of one pixel keep their colour
_HEADINGS: dict[Verdict, tuple[str, str]] = {
    "missed": ("Missed", "anomalous, and under the threshold: the lowest score first"),
    "false alarm": ("False alarms", "normal, and over the threshold: the highest score first"),
    "right": ("Right", "the highest score first"),
    "unjudged": ("All", "the highest score first"),
}


@dataclass(frozen=True)
class Scored:
    """The test images of a category, with what scored them.

    Attributes:
        category: whose test images they are.
        maps: folder of the maps ``CATEGORY/test/DEFECT/IMAGE.tiff`` (or .tif, .npy), (H, W) each.
        scores: (n,) of the test images, in order.
        metrics: all that is known of ``METRICS``; NaN or None where undefined.
        protocol: says which part of an image its map is of, and how images of more than 8 bits are read.
        scored_by: what an image's score is, as the page says it.
        model: what made the maps; "" where that is not known.
        facts: lines about it.
        warnings: what no reader may miss.
    """

    category: Category
    maps: Path
    scores: NDArray[np.float32]
    metrics: Mapping[str, float | None]
    protocol: Protocol
    scored_by: str
    model: str = ""
    facts: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def draw(
    scored: Scored,
    base: Path,
    *,
    up: str = "..",
    notes: Notes | None = None,
    on_image: Callable[[], None] = lambda: None,
) -> Summary:
    """Writes ``base/index.html``, its pictures beside it, and last its summary, which is returned.

    Args:
        scored: what is drawn.
        base: the page's folder; what lies there of an earlier time is written over.
        up: from there to the folder of the index.
        notes: told of how images were read.
        on_image: called after each image that is drawn.

    Raises:
        PadimBenchError: maps that are missing, of no test image, with NaN or unreadable; images and masks that cannot
            be read; a folder that cannot be written.
    """
    category, scores = scored.category, scored.scores
    labels = np.array([sample.label for sample in category.test], dtype=np.int64)
    paths = find_maps(scored.maps, category)
    places = [PurePath(name).relative_to("test") for name in map_names(category)]
    seen = [_seen(read_map(path)) for path in paths]  # the first pass, for one scale of colours
    threshold, sizes = best_threshold(labels, scores), list[tuple[int, int]]()
    # Of scores that are the maxima of their maps it is one of the maps too.
    over = threshold if np.allclose([one.largest for one in seen], scores, rtol=0.02, atol=0) else None
    scale = _scale(seen, labels, over)
    for sample, path, place in zip(category.test, paths, places, strict=True):
        sizes.append(_draw_image(scored.protocol, base, sample, path, place, scale, over, notes))
        on_image()
    found = verdicts(labels, scores, threshold)
    page = _page(scored, labels, found, threshold, scale, over=over, sizes=sizes, places=places, up=up)
    write_text(base / PAGE, page)
    summary = Summary(
        category.name,
        category.dataset,
        scored.model,
        len(labels),
        int(labels.sum()),
        None if threshold is None else found.count("missed"),
        None if threshold is None else found.count("false alarm"),
        threshold,
        {name: _defined(scored.metrics.get(name)) for name in headline()},
        scored.warnings,
        link(_picture("heat", places[int(scores.argmax())])),
    )
    summary.write(base)
    return summary


class _Seen(NamedTuple):
    """What the first pass keeps of a map."""

    usual: float  # what one pixel in a hundred is above
    largest: float


def _seen(score_map: NDArray[np.float32]) -> _Seen:
    return _Seen(float(np.quantile(score_map, 0.99)), float(score_map.max()))


def _scale(seen: Sequence[_Seen], labels: NDArray[np.int64], threshold: float | None) -> Scale:
    """From what is usual in normal images to as far above the threshold as it is above that.

    Without a threshold of the maps' own, or one that is usual, to what anomalous images reach. Without one of the
    classes all images are of both.
    """
    usual = np.median([one.usual for one, label in zip(seen, labels, strict=True) if not label or labels.all()])
    if threshold is not None and threshold > usual:
        return Scale(float(usual), float(2 * threshold - usual))
    largest = np.median([one.largest for one, label in zip(seen, labels, strict=True) if label or not labels.any()])
    if largest <= usual:
        largest = max(one.largest for one in seen)
    return Scale(float(usual), float(largest if largest > usual else usual + max(abs(usual), 1.0)))


def _draw_image(
    protocol: Protocol,
    base: Path,
    sample: Sample,
    path: Path,
    place: PurePath,
    scale: Scale,
    threshold: float | None,
    notes: Notes | None,
) -> tuple[int, int]:
    """The pictures of one image; their (width, height)."""
    content = read_bytes(sample.image)
    with ExitStack() as turn:
        picture = picture_of(decode_image(content, sample.image, protocol, notes, turn=turn), LARGEST)
    drawn = {"image": Image.fromarray(picture)}
    if sample.mask is not None:
        drawn["mask"] = outlined(picture, read_mask(sample.mask, notes)[0], CONTOUR)
    # What reaches the threshold is over it, as of scores.
    over = None if threshold is None else float(np.nextafter(np.float32(threshold), np.float32(-np.inf)))
    drawn["heat"] = heat_map(picture, read_map(path), protocol, scale, over)
    for kind, one in drawn.items():
        make_folder((base / _picture(kind, place)).parent)
        write_picture(base / _picture(kind, place), one, **_JPEG)
    return drawn["image"].size


def _picture(kind: str, place: PurePath) -> PurePath:
    """The file of a picture below the page's folder: its name is the image's, whatever dots are in it."""
    return PurePath(kind, place.parent, f"{place.name}.jpg")


def _page(
    scored: Scored,
    labels: NDArray[np.int64],
    found: Sequence[Verdict],
    threshold: float | None,
    scale: Scale,
    *,
    over: float | None,
    sizes: Sequence[tuple[int, int]],
    places: Sequence[PurePath],
    up: str,
) -> str:
    category, scores = scored.category, scored.scores
    anchors = Anchors({"choose", "verdict", "defect", "shown", *(_anchor(verdict) for verdict in _HEADINGS)})
    low, high = float(scores.min()), float(scores.max())
    images: list[dict[str, Any]] = []
    for i, (sample, place) in enumerate(zip(category.test, places, strict=True)):
        kinds = ["image", *(["mask"] if sample.mask is not None else []), "heat"]
        images.append(
            {
                "id": anchors.new(*place.parts),
                "name": spelled(f"{sample.image.parent.name}/{sample.image.name}"),
                "defect": _defect(sample),
                "anomalous": bool(sample.label),
                "score": f"{scores[i]:.4g}",
                "at": 100 * (float(scores[i]) - low) / (high - low) if high > low else 50.0,
                "verdict": found[i],
                "pictures": {kind: link(_picture(kind, place)) for kind in kinds},
                "width": sizes[i][0],
                "height": sizes[i][1],
            }
        )
    looked_at = [images[i] for i in order(found, scores)]
    groups = [
        {"id": _anchor(verdict), "heading": heading, "says": says, "images": of}
        for verdict, (heading, says) in _HEADINGS.items()
        if (of := [one for one in looked_at if one["verdict"] == verdict])
    ]
    defects = dict.fromkeys(_defect(sample) for sample in category.test)
    f1 = None if threshold is None else f"{100 * f1_at(labels, scores, threshold):.1f} %"
    return render(
        _TEMPLATE,
        category=category.name,
        up=up,
        model=scored.model,
        facts=scored.facts,
        warnings=scored.warnings,
        scored_by=scored.scored_by,
        metrics=[(m.title, shown_metric(name, _defined(scored.metrics.get(name)))) for name, m in headline().items()],
        n_images=len(images),
        n_anomalous=int(labels.sum()),
        missing="anomalous" if not labels.any() else "normal",
        threshold=None if threshold is None else f"{threshold:.4g}",
        at=None if threshold is None or high <= low else 100 * (threshold - low) / (high - low),
        f1=f1,
        found={verdict: found.count(verdict) for verdict in _HEADINGS},
        has_masks=category.has_masks,
        cropped=scored.protocol.images.crop not in {None, scored.protocol.images.resize},
        outlined=over is not None,
        middle=over is not None and over > scale.low,
        scale=[f"{value:.3g}" for value in scale],
        stops=colour_stops(),
        contour=CONTOUR,
        groups=groups,
        dots=images,
        defects={name: sum(_defect(sample) == name for sample in category.test) for name in defects},
        low=f"{low:.3g}",
        high=f"{high:.3g}",
    )


def _anchor(verdict: Verdict) -> str:
    return f"all-{verdict.replace(' ', '-')}"


def _defect(sample: Sample) -> str:
    return spelled(sample.defect)


def _defined(value: float | None) -> float | None:
    return None if value is None or value != value else float(value)  # noqa: PLR0124 - NaN


def warnings_of(category: Category) -> tuple[str, ...]:
    """What no reader of a page with these images may miss."""
    known = DATASETS.get(category.dataset)
    return (known.warning,) if known is not None and known.warning else ()
