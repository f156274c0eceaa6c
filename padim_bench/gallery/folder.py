"""A folder of galleries: what shows it to be ours, what every page says in short, and the index of them all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar
from urllib.parse import quote

from padim_bench.data.listing import entries, is_file, subfolders
from padim_bench.errors import PadimBenchError
from padim_bench.html.rendering import render
from padim_bench.machine.files import check_writable, make_folder, write_text
from padim_bench.machine.reading import in_one_line, strict_json, why
from padim_bench.metrics.summary import headline

PAGE, SUMMARY = "index.html", "summary.json"
_STAMP = "gallery.json"  # in a folder that is ours
_FORMAT = 1
_TEMPLATE = Path(__file__).with_name("index.html.jinja")


@dataclass(frozen=True)
class Summary:
    """What the index tells of a category's page.

    Attributes:
        category, dataset: of the images.
        model: what made the maps; "" where that is not known.
        n_images, n_anomalous: of the test split.
        missed, false_alarms: anomalous images under the threshold, and normal ones over it; None without one.
        threshold: of image scores, as :func:`~padim_bench.gallery.verdicts.best_threshold` has it.
        metrics: those of tables, in [0, 1]; None where undefined.
        warnings: what no reader may miss.
        cover: address of a picture, from the page's folder.
    """

    category: str
    dataset: str
    model: str
    n_images: int
    n_anomalous: int
    missed: int | None
    false_alarms: int | None
    threshold: float | None
    metrics: dict[str, float | None]
    warnings: tuple[str, ...]
    cover: str

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    def write(self, base: Path) -> None:
        """Into the page's folder, once the page is there. Raises PadimBenchError where it cannot be written."""
        write_text(base / SUMMARY, json.dumps(asdict(self), ensure_ascii=True, indent=1) + "\n")

    @classmethod
    def read(cls, base: Path) -> Summary:
        """Of the page's folder. Raises PadimBenchError, naming the file, for one that is no summary."""
        from pydantic import TypeAdapter, ValidationError

        path = base / SUMMARY
        try:
            found = TypeAdapter(cls).validate_python(strict_json(path.read_bytes()))
        except ValidationError as error:
            raise _spoiled(path, in_one_line(error)) from error
        except (OSError, ValueError) as error:
            raise _spoiled(path, why(error)) from error
        return found


def _spoiled(path: Path, reason: str) -> PadimBenchError:
    return PadimBenchError(f"{path} is no summary of a gallery ({reason}): delete it, and draw its category again")


def open_gallery(folder: Path) -> None:
    """Makes a folder for galleries, or takes one that is; of what lies in any other nothing is touched.

    Raises PadimBenchError for a folder that holds something else, and for one that cannot be written.
    """
    check_gallery(folder)
    make_folder(folder)
    write_text(folder / _STAMP, json.dumps({"format": _FORMAT, "made_by": "padim-bench"}) + "\n")


def check_gallery(folder: Path) -> None:
    """Raises as :func:`open_gallery` does, and writes nothing."""
    check_writable(folder)
    if is_file(folder / _STAMP):
        try:
            stamp = strict_json((folder / _STAMP).read_bytes())
        except (OSError, ValueError):
            stamp = None
        if stamp == {"format": _FORMAT, "made_by": "padim-bench"}:
            return
    if found := entries(folder):
        raise PadimBenchError(
            f"{folder} is no gallery of this version and holds {found[0].name}: give a new folder, or an empty one"
        )


@contextmanager
def indexed(folder: Path) -> Iterator[None]:
    """Pages are drawn into a folder of galleries: its index has them all afterwards, also where that fails halfway."""
    try:
        yield
    except (PadimBenchError, KeyboardInterrupt):
        if is_file(folder / _STAMP):
            with suppress(PadimBenchError):  # what was raised says more
                write_index(folder)
        raise
    write_index(folder)


def link(path: PurePath) -> str:
    """The relative address of a file, as it stands in a page: every name is quoted, whatever its bytes are."""
    return quote(os.fsencode(path.as_posix()))


def pages(folder: Path) -> list[Path]:
    """The folders of all finished pages: of categories, or of categories below a folder of each model's."""
    found = list[Path]()
    for one in subfolders(folder):
        found += [base for base in (one, *subfolders(one)) if is_file(base / SUMMARY) and is_file(base / PAGE)]
    return found


def write_index(folder: Path) -> None:
    """Writes the index of all pages that the folder holds, category by category.

    Raises PadimBenchError for a spoiled summary, and where it cannot be written.
    """
    shown = [(base.relative_to(folder), Summary.read(base)) for base in pages(folder)]
    shown.sort(key=lambda one: (one[1].category, one[1].model, one[0]))
    rows = [
        {
            "page": link(base / PAGE),
            "cover": f"{link(base)}/{about.cover}",
            "about": about,
            "values": [shown_metric(name, about.metrics.get(name)) for name in headline()],
        }
        for base, about in shown
    ]
    text = render(
        _TEMPLATE,
        rows=rows,
        metrics=[metric.title for metric in headline().values()],
        models=list(dict.fromkeys(about.model for _, about in shown if about.model)),
        warnings=list(dict.fromkeys(line for _, about in shown for line in about.warnings)),
    )
    write_text(folder / PAGE, text)


def shown_metric(name: str, value: float | None) -> str:
    """As pages have it: "98.1 %"; a dash where it is undefined."""
    metric = headline()[name]
    return "\N{EN DASH}" if value is None else f"{metric.shown(value):.1f} {metric.unit}"
