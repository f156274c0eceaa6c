"""What words on the command line may be: names, whole numbers, sizes; and bad ones as one line on standard error."""

from __future__ import annotations

import argparse
import re
from typing import Any, Literal, NoReturn, TypeAlias

from padim_bench.errors import PadimBenchError

# What ``add_subparsers`` returns has no public name.
Commands: TypeAlias = "argparse._SubParsersAction[Parser]"
# More than any machine has threads, images, channels or time for; and what every generator takes for a seed.
LARGEST, LARGEST_SEED = 1_000_000, 2**63 - 1
LARGEST_SIDE = 1 << 14  # of images as prepared, in pixels


class Parser(argparse.ArgumentParser):
    """Bad input is one line on standard error, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        raise PadimBenchError(f"{message}: see '{self.prog} --help'")


def add_option(parser: argparse.ArgumentParser, name: str, *older: str, **more: Any) -> None:
    """Adds an option that is accepted by ``older`` spellings too; help and errors show ``name`` alone."""
    action = parser.add_argument(name, *older, **more)
    action.option_strings = [name]  # the parser knows them all by now; this is what it shows


def names(text: str) -> list[str]:
    """The parts between commas; a comma after a backslash is part of a name."""
    parts = (part.replace("\\,", ",").strip() for part in re.split(r"(?<!\\),", text))
    return [part for part in parts if part]


def some_names(text: str) -> list[str]:
    """As :func:`names`, and at least one."""
    if not (parts := names(text)):
        raise argparse.ArgumentTypeError(f"{text!r} names nothing")
    return parts


def _whole(text: str, least: int, most: int) -> int:
    """A whole number in plain digits: int() would take 1_0, and digits of other scripts."""
    if not re.fullmatch(r"-?[0-9]+", text.strip()):
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not a whole number")
    if len(text.strip()) > 20 or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not between {least} and {most}")
    return int(text)


def positive(text: str) -> int:
    return _whole(text, 1, LARGEST)


def side(text: str) -> int:
    """Of an image, in pixels."""
    return _whole(text, 1, LARGEST_SIDE)


def crop(text: str) -> int | Literal["none"]:
    """A side, or "none"."""
    return "none" if text == "none" else side(text)


def seed(text: str) -> int:
    return _whole(text, 0, LARGEST_SEED)


def real(text: str) -> float:
    try:
        if not text.isascii() or "_" in text:
            raise ValueError
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{_shown(text)} is not a number") from None


def size_in_bytes(text: str) -> int:
    """A size as 1500000, 500MB or 2GiB."""
    units = {"": 1} | {f"{p}{b}": n for i, p in enumerate("kmgt", 1) for b, n in (("", 1000**i), ("b", 1000**i),
                                                                                 ("ib", 1024**i))}  # fmt: skip
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        value = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a size as 500MB or 2GiB") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 byte or more")
    return value


def features(text: str) -> list[int | None]:
    """Numbers of channels kept, None for "all"."""
    return [None if part == "all" else positive(part) for part in some_names(text)]


def train_images(text: str) -> list[int | str]:
    """Numbers of training images, and "all" or "bootstrap"."""
    return [part if part in {"all", "bootstrap"} else positive(part) for part in some_names(text)]


def sizes(text: str) -> list[int]:
    return [positive(part) for part in some_names(text)]


def seeds(text: str) -> list[int]:
    return [seed(part) for part in some_names(text)]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:30]}... ({len(text)} characters)")
