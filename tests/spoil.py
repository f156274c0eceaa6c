"""Spoils files and JSON values at random, from a seed: what disks, editors and people do to them."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from padim_bench import PadimBenchError

# What a member may be turned into: other types, numbers out of every range, text that breaks pages.
OTHERS: list[Any] = [
    None, True, False, 0, -1, 1, 2.5, -0.5, 1e308, 10**30, 10**200, "", "x", "a|b\nc", "\u2028", [], {}, [[]], [None],
    {"x": None}, "9" * 5000, float("1e-320"), "../../x", "ok", "invalid",
]  # fmt: skip


def flipped(raw: bytes, draw: random.Random) -> bytes:
    """With one bit turned over."""
    at = draw.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every member of every object and list below ``value``, as (container, key)."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from places(item)


def edited(value: dict[str, Any], draw: random.Random) -> dict[str, Any]:
    """With one member deleted, renamed, doubled or turned into something else. Members of long lists seldom."""
    value = copy.deepcopy(value)
    found = [(c, k) for c, k in places(value) if not (isinstance(k, int) and k > 2)]
    container, key = draw.choice(found)
    how = draw.choice(("delete", "rename", "other", "other", "other"))
    if how == "delete":
        del container[key]
    elif how == "rename" and isinstance(container, dict):
        container[f"{key}_"] = container.pop(key)
    else:
        container[key] = draw.choice([one for one in OTHERS if repr(one) != repr(container[key])])
    return value


def ruined(raw: bytes) -> list[bytes]:
    """What is no such file any more."""
    text = raw.decode()
    return [
        b"",
        b"null",
        b"[]",
        b"{}",
        raw[: len(raw) // 2],
        raw + raw,
        b"\xef\xbb\xbf" + raw,
        raw.decode().encode("utf-16"),
        b"\x00" * len(raw),
        b"[" * 200_000,
        b'{"schema": ' * 100_000,
        text.replace("0.", "NaN, 0.", 1).encode(),
        text.replace(": 1", ": 1" + "0" * 5000, 1).encode(),
        text.replace('"schema"', '"schema": 2,\n "schema"', 1).encode(),
        text.replace("s", "\\ud800", 1).encode(),
        raw.replace(b"e", b"\xe9", 1),
        b"\0\5\26\7\0\2\0\0Mac OS X        ",
    ]


def outcomes(cases: dict[str, Callable[[], Any]], expected: Any, *named: str, changes: bool = False) -> Counter[str]:
    """How each case ends: "same" as expected, "refused" in one line with one of ``named``, or "changed", if allowed.

    Fails on anything else, and names the case.
    """
    counts: Counter[str] = Counter()
    for name, case in cases.items():
        try:
            found = case()
        except PadimBenchError as error:
            message = str(error)
            assert "\n" not in message, f"{name}: {message}"
            assert any(n in message for n in named), f"{name}: {message}"
            counts["refused"] += 1
        except Exception as error:
            raise AssertionError(f"{name}: {error!r}") from error
        else:
            assert changes or found == expected, f"{name}: read, and differs"
            counts["same" if found == expected else "changed"] += 1
    return counts


def spoilt(path: Path, content: bytes, then: Callable[[], Any]) -> Callable[[], Any]:
    """What ``then`` gives while the file has other content."""

    def case() -> Any:
        before = path.read_bytes()
        path.write_bytes(content)
        try:
            return then()
        finally:
            path.write_bytes(before)

    return case
