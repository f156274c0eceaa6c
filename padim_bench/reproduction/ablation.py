"""The ablation of the gaps report: from one protocol preset to another, one choice at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from padim_bench.errors import PadimBenchError
from padim_bench.protocols import Protocol, get_protocol

# In the order in which a walk takes them.
CHOICES = (
    "crop", "image_interpolation", "mask_interpolation", "map_interpolation", "epsilon", "sigma", "border",
    "score_from", "compare_at",
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """A protocol on the way from one preset to another, and what sets it apart from the one before."""

    title: str
    protocol: Protocol


def walk(start: str, end: str) -> list[Step]:
    """From one preset to another, one choice at a time; the two ends are the presets themselves.

    Raises PadimBenchError if they differ in a field that no step changes.
    """
    first, last = get_protocol(start), get_protocol(end)
    differing = [name for name in CHOICES if first.choice(name) != last.choice(name)]
    if _choices(first.vary(**{name: last.choice(name) for name in differing})) != _choices(last):
        raise PadimBenchError(f"presets {start} and {end} differ in a field that the ablation does not know")
    steps, here = [Step(start, first)], first
    for i, name in enumerate(differing):
        value = last.choice(name)
        told = f"{name.replace('_', ' ')} {'none' if value is None else value}"
        here = here.vary(**{name: value})
        if i < len(differing) - 1:
            steps.append(Step(f"+ {told}", here))
            continue
        steps.append(Step(f"+ {told} = {end}", last))
    return steps


def alone(spec: Mapping[str, Any]) -> list[Step]:
    """Each choice of the spec changed alone, from ``paper``."""
    steps = []
    for choice in spec["choices"]:
        changes = {k: (None if v == "none" else v) for k, v in choice.items() if k != "title"}
        steps.append(Step(choice["title"], get_protocol("paper").vary(**changes)))
    return steps


def gap_protocols(spec: Mapping[str, Any]) -> list[Protocol]:
    """All that the ablation runs, each once; presets first."""
    steps = [step.protocol for one in spec["walks"] for step in walk(one["from"], one["to"])]
    steps += [step.protocol for step in alone(spec)]
    return list(dict.fromkeys([*map(get_protocol, spec["presets"]), *steps]))


def _choices(protocol: Protocol) -> dict[str, Any]:
    return {k: v for k, v in asdict(protocol).items() if k not in {"name", "source"}}
