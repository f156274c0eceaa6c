"""What of a page is made, between ``<!-- made: NAME -->`` and ``<!-- end -->``; all else is written by hand."""

from __future__ import annotations

import re
from collections.abc import Callable

from padim_bench.errors import PadimBenchError

BLOCK = re.compile(r"<!-- made: (.+?) -->\n.*?<!-- end -->", re.DOTALL)


def block(name: str, text: str) -> str:
    """A made part."""
    return f"<!-- made: {name} -->\n{text.strip()}\n<!-- end -->"


def names(page: str) -> list[str]:
    """What the made parts of a page are called, in order."""
    return BLOCK.findall(page)


def remade(page: str, make: Callable[[str], str]) -> str:
    """The page with every made part as ``make`` of its name gives it now.

    Raises PadimBenchError for a part that is begun and not ended.
    """
    if page.count("<!-- made: ") != len(names(page)) or page.count("<!-- end -->") != len(names(page)):
        raise PadimBenchError("a made part is begun and not ended, or ended and not begun")
    return BLOCK.sub(lambda found: block(found[1], make(found[1])), page)
