"""What one should know of how a category's files were read: gathered file by file, said in a line a kind."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from padim_bench.data.listing import spelled

Kind = Literal["soft mask", "classes", "alpha", "full mask", "large mask", "empty mask", "pages", "exif", "wide"]

# Of one file, and of several.
_LINES: dict[Kind, tuple[str, str]] = {
    "soft mask": (
        "mask has many grey levels (lossy or anti-aliased), cut at half its maximum",
        "masks have many grey levels (lossy or anti-aliased), cut at half their maximum",
    ),
    "classes": (
        "mask has several classes, of which all but 0 (black) count as anomalous",
        "masks have several classes, of which all but 0 (black) count as anomalous",
    ),
    "alpha": ("mask was read from its alpha channel", "masks were read from their alpha channels"),
    "full mask": ("mask covers its whole picture", "masks cover their whole pictures"),
    "empty mask": (
        "image is anomalous but has a mask without any anomalous pixel",
        "images are anomalous but have masks without any anomalous pixel",
    ),
    "pages": (
        "file has several pages or frames, of which the first was read",
        "files have several pages or frames, of which the first was read",
    ),
    "exif": (
        "file has EXIF data that cannot be read, and was taken as upright",
        "files have EXIF data that cannot be read, and were taken as upright",
    ),
}
_CAMERA_BITS = (8, 10, 12, 14)


class Notes:
    """Gathers facts on files from any number of threads; a file that is read twice counts once."""

    def __init__(self) -> None:
        self._found: dict[Kind, dict[Path, int]] = {}

    def add(self, kind: Kind, path: Path, value: int = 0) -> None:
        """That ``kind`` is true of a file. ``value`` is the largest of a "wide" one (more than 8 bits a channel)."""
        self._found.setdefault(kind, {})[path] = value

    def lines(self, *, bits: int | None = None, n_masks: int = 0, fitted: bool = False) -> tuple[str, ...]:
        """A line a kind, with the number of files and the first of them.

        ``bits`` are the protocol's; of ``n_masks`` all must be large for a line on them (they may be inverted).
        Of a model that is ``fitted``, bits were chosen with its fit.
        """
        found = []
        for kind, (one, several) in _LINES.items():
            if paths := self._found.get(kind):
                found.append(f"{len(paths)} {one if len(paths) == 1 else several}: {_first(paths)}")
        large = self._found.get("large mask", {})
        if large and len(large) == n_masks:
            found.append(f"every mask covers more than half of its picture (is black the anomaly?): {_first(large)}")
        return (*found, *_on_range(self._found.get("wide", {}), bits, fitted))


def _first(paths: dict[Path, int]) -> str:
    first = min(paths)
    return spelled(f"{first.parent.name}/{first.name}")


def _on_range(wide: dict[Path, int], bits: int | None, fitted: bool) -> list[str]:
    """That most of 16 bits is left unused, as cameras of 10 and 12 bits leave it, or that ``bits`` meets no file."""
    if bits is not None:
        whose = "the model's " if fitted else ""
        return [] if wide else [f"{whose}--bits {bits} changed nothing: no image has more than 8 bits a channel"]
    largest = max(wide.values(), default=65535)
    if largest >= 1 << max(_CAMERA_BITS):
        return []
    camera = next(b for b in _CAMERA_BITS if largest < 1 << b)
    levels = (largest * 255 + 32767) // 65535 + 1
    images = "image has values" if len(wide) == 1 else "images have values"
    return [
        f"{len(wide)} 16-bit {images} of {largest} at most, of which scaling from 0..65535 keeps {levels} of 256 "
        f"levels: {'fit again with' if fitted else 'give'} --bits {camera} if they are of {camera} bits: {_first(wide)}"
    ]
