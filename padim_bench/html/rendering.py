"""Renders a page from its template: whatever a name holds is text, and needs nothing from anywhere."""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from padim_bench.machine.console import printable

_SHARED = Path(__file__).parent  # of styles, which templates include


def render(template: Path, **values: Any) -> str:
    """The page. All that is not marked as safe is escaped; a value that the template lacks raises."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, _SHARED], encoding="utf-8"), autoescape=True,
        undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    return environment.get_template(template.name).render(**values)


def _shown(value: Any) -> Any:
    """Text as it can be printed; what is markup already stays."""
    return printable(value, keep="\n") if isinstance(value, str) and not isinstance(value, Markup) else value


class Anchors:
    """Names of places in the page, each given once: of letters, digits, hyphens and underscores."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = taken

    def new(self, *parts: str) -> str:
        name = "-".join(filter(None, (re.sub(r"[^\w]+", "-", printable(part).lower()).strip("-") for part in parts)))
        free = (name if n == 1 else f"{name}-{n}" for n in count(1))
        anchor = next(one for one in free if one not in self.taken)
        self.taken.add(anchor)
        return anchor
