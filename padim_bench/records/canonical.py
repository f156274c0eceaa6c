"""How dataclasses become JSON: whole for a record, and without defaults for its id."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any


def plain(value: Any) -> Any:
    """JSON values of dataclasses, all the way down; an optional member that is None by default is left out if it is."""
    if is_dataclass(value):
        kept = ((f, getattr(value, f.name)) for f in fields(value))
        return {f.name: plain(v) for f, v in kept if not (v is None and f.default is None)}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return {k: plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def chosen(value: Any) -> Any:
    """As :func:`plain`, of what is not as by default: a member that is added later changes nothing of it.

    Members that take no part in comparisons, such as prose, are left out.
    """
    if not is_dataclass(value):
        return plain(value)
    found = {}
    for f in fields(value):
        own = getattr(value, f.name)
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if f.compare and (default is MISSING or own != default):
            found[f.name] = chosen(own)
    return found
