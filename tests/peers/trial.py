"""No real work: what takes as long as its contender's options say, to try out the suite itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def inputs(size: dict[str, Any]) -> dict[str, Any]:
    return size


def build(options: dict[str, Any], given: dict[str, Any]) -> Callable[[], Any]:
    return lambda: time.sleep(options["seconds"])


def compare(value: Any, options: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    return {"max_abs": 0.0, "max_rel": 0.0, "right": True}
