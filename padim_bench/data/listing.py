"""What lies in a folder and is anyone's own, and how its names are written: the one place where folders are listed."""

from __future__ import annotations

import os
import re
from pathlib import Path

from padim_bench.errors import PadimBenchError

# What systems leave behind without a dot before it, in lower case: such names are found in any case.
_LEFT_BEHIND = frozenset(
    {
        "thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found", "__macosx", "icon\r", "@eadir", "#recycle",
        "#snapshot", "$recycle.bin", "system volume information", "recycler",
    }
)  # fmt: skip


def is_ours(name: str) -> bool:
    """Whether a name is one that people give: not hidden (``._x``, ``.DS_Store``), nor left behind by a system."""
    return not name.startswith(".") and name.casefold() not in _LEFT_BEHIND


def entries(folder: Path) -> list[Path]:
    """What lies directly in ``folder`` and is ours, sorted by name; empty if there is no such folder.

    Raises PadimBenchError, naming the folder, when it cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if is_ours(path.name))
    except FileNotFoundError:
        return []
    except NotADirectoryError as error:
        raise PadimBenchError(f"{folder} is not a directory: move the file of that name away") from error
    except OSError as error:
        raise PadimBenchError(f"cannot read {folder}: {error.strerror}: check its permissions") from error


def subfolders(folder: Path) -> list[Path]:
    """The folders among :func:`entries`. Raises as it does."""
    return [path for path in entries(folder) if is_folder(path)]


def is_folder(path: Path) -> bool:
    """Whether there is a folder, or a link to one; False where that cannot be found out (``Path.is_dir`` raises)."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """:func:`is_folder` of plain files: False for dangling links, pipes and devices."""
    return os.path.isfile(path)  # noqa: PTH113


# Names.

_ESCAPE = re.compile(r"\\x(?=5c|[89a-f][0-9a-f])")
_ESCAPED = re.compile(rb"\\x(5c|[89a-f][0-9a-f])")


def spelled(name: str | Path) -> str:
    """A file name as valid Unicode, for digests, records and people: the same under every locale.

    Bytes that are no UTF-8 become ``\\xff``; a name that is valid stays as it is, unless it holds such an escape
    itself, whose backslash is then escaped. :func:`unspelled` gives the name back.
    """
    content = os.fsencode(name)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        # Backslashes are plain ASCII, so that they can be escaped before the rest is decoded.
        content = _ESCAPED.sub(rb"\\x5cx\1", content)
        return content.decode("utf-8", "backslashreplace")
    return _ESCAPE.sub(r"\\x5cx", text)


def unspelled(text: str) -> str:
    """The file name that :func:`spelled` wrote as ``text``, as the system's calls take it."""
    content = text.encode("utf-8", "surrogateescape")
    return os.fsdecode(_ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), content))


def printable(text: str) -> str:
    """``text`` in valid Unicode: parts of file names that are none are written as :func:`spelled` writes them."""
    if text.isascii():
        return text
    escaped = re.sub("[\udc80-\udcff]", lambda found: f"\\x{ord(found[0]) - 0xDC00:02x}", text)
    return escaped.encode("utf-8", "backslashreplace").decode("utf-8")


# Images.

# Of ``decoding.IMAGE_FORMATS``.
IMAGE_SUFFIXES = frozenset(
    {
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif",
        ".pbm", ".pgm", ".ppm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".avif", ".avifs",
        ".tga", ".icb", ".vda", ".vst", ".pcx", ".sgi", ".rgb", ".rgba", ".bw", ".qoi",
    }
)  # fmt: skip
_NAMED = 3  # of each reason, in a note


class LeftOut:
    """What was found below ``base`` and is not read, by reason."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._found: dict[str, list[str]] = {}

    def add(self, path: Path, why: str) -> None:
        """``why`` says what the file or folder is: "mask without an image"."""
        name = spelled(path.relative_to(self._base).as_posix())
        if is_folder(path):
            inside = count_images(path)
            name += f"/ with {inside} image{'' if inside == 1 else 's'}"
        self._found.setdefault(why, []).append(name)

    def notes(self) -> tuple[str, ...]:
        """One line that counts and names them; none if there is nothing to say."""
        if not self._found:
            return ()
        parts = []
        for why, names in self._found.items():
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            parts.append(f"{why}: {len(names)} ({', '.join(names[:_NAMED])}{more})")
        return (f"left out {sum(map(len, self._found.values()))}: {'; '.join(parts)}",)


def list_images(folder: Path, left_out: LeftOut | None = None) -> list[Path]:
    """The image files directly in ``folder``, sorted by name; what else lies there is added to ``left_out``.

    Raises PadimBenchError if the folder cannot be read; one that is not there holds nothing.
    """
    found = []
    for path in entries(folder):
        if is_folder(path):
            why = "folder in a folder of images"
        elif path.suffix.lower() not in IMAGE_SUFFIXES:
            why = "no image format that is read"
        elif is_file(path):
            found.append(path)
            continue
        else:
            why = "link to nothing" if path.is_symlink() else "no plain file"
        if left_out is not None:
            left_out.add(path, why)
    return found


def count_images(folder: Path) -> int:
    """How many image files lie in ``folder`` and in the folders below it; links to folders are not followed."""
    return sum(
        is_ours(name) and Path(name).suffix.lower() in IMAGE_SUFFIXES
        for _, _, names in os.walk(folder)
        for name in names
    )
