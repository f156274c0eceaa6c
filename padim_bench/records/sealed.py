"""JSON files that carry a sha256 of the rest of their own text on their second line.

Of the text and not of the values: `sed 2d FILE | sha256sum` gives it too, and a file is whole or it is not,
whatever it says. Line ends alone may differ, since version control may change them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from padim_bench.machine.files import write_text
from padim_bench.machine.reading import strict_json

SCHEMA_VERSION = 3
_SEAL = re.compile(rb'\{\n "sha256": "([0-9a-f]{64})",\n')


class NotReadableError(ValueError):
    """What is wrong with a file, in one line without its name."""


class OtherSchemaError(ValueError):
    """A file of another version of this package; ``args`` has its schema."""


def sealed(text: str) -> str:
    """A JSON object of several lines with the digest put in."""
    assert text.startswith("{\n"), "only objects over several lines are sealed"
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return f'{{\n "sha256": "{digest}",\n{text[2:]}'


def write_sealed(path: Path, text: str) -> None:
    """Writes a JSON object, one line per member, whole or not at all. Raises as ``write_text`` does."""
    write_text(path, sealed(text + "\n"))


def read_sealed(path: Path, schema: int = SCHEMA_VERSION) -> dict[str, Any]:
    """The object as it was given to :func:`write_sealed`.

    Raises OSError, OtherSchemaError, or NotReadableError for what is damaged, edited or not JSON.
    """
    raw = path.read_bytes()
    raw = raw.replace(b"\r\n", b"\n") if b"\r" in raw else raw
    seal = _SEAL.match(raw)
    body = raw if seal is None else b"{\n" + raw[seal.end() :]
    if seal is not None and hashlib.sha256(body).hexdigest() != seal[1].decode():
        raise NotReadableError("its content is not what its sha256 is of: it was damaged or edited")
    try:
        found = strict_json(body)
    except ValueError as error:
        raise NotReadableError(str(error)) from error
    if not isinstance(found, Mapping):
        raise NotReadableError("it is no object")
    if type(found.get("schema")) is int and found["schema"] != schema:
        raise OtherSchemaError(found["schema"])
    if seal is None:
        raise NotReadableError("its second line is no sha256 of the rest")
    return dict(found)
