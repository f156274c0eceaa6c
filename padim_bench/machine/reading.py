"""What files of ours are read with: JSON as strict as the standard, and errors in one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


def strict_json(raw: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises ValueError for whatever the standard does not have, which Python's own reader lets through: a name
    twice in one object, NaN, half characters; and for nesting without end.
    """
    import jiter

    try:
        return jiter.from_json(raw, allow_inf_nan=False, catch_duplicate_keys=True)
    except ValueError as error:
        raise ValueError(f"no strict JSON: {error}") from error


def in_one_line(error: ValidationError, whole: str = "") -> str:
    """The first thing that is wrong, by the member's place within ``whole``."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in ([whole] if whole else []) + [*first["loc"]])
    message = f"{first['msg'][:1].lower()}{first['msg'][1:]}"
    if first["type"] == "value_error":  # one of our own, which may know the place better
        message = str(first["ctx"]["error"])
        if message.startswith(f"{place}."):
            return message
    return f"{place}: {message}" if place else message


def why(error: Exception) -> str:
    """What is wrong with a file, without its name."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, ValueError) else repr(error)
