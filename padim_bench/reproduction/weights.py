"""The weights of every architecture that a page is of: found once, under the spec's tag or the one that was named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError, WeightsNotFoundError
from padim_bench.padim.paper import named_layers
from padim_bench.padim.weights import ENVIRONMENT_VARIABLE, Weights, ends_before, resolve_weights, split_name

NO_WEIGHTS = "weights not available offline"
NOT_ASKED = "not asked for; name it with --backbones"


@dataclass(frozen=True)
class Member:
    """A model of a spec, as far as its weights go."""

    title: str
    arch: str
    tag: str
    stand_in_for: str = ""
    layers: str | list[str] = "paper"

    def lacks(self, weights: Weights) -> tuple[str, ...]:
        """Its layers that those weights end before."""
        named = named_layers(self.arch, self.layers) if isinstance(self.layers, str) else self.layers
        return ends_before(weights, named)


@dataclass
class FoundWeights:
    """The weights of every architecture, or why there are none; ``idle`` are those that need not stand in."""

    chosen: dict[str, Weights] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    idle: set[str] = field(default_factory=set)

    def absent(self, members: Iterable[Member]) -> dict[str, str]:
        """Models that cannot run, and why; a stand-in that is not needed is not missed."""
        found = {}
        for m in members:
            if m.arch in self.missing:
                found[m.title] = NO_WEIGHTS
            elif m.arch not in self.chosen and not m.stand_in_for:
                found[m.title] = NOT_ASKED
            elif m.arch in self.chosen and (lacking := m.lacks(self.chosen[m.arch])):
                found[m.title] = f"the weights at hand end before {lacking[0]}"
        return found

    def runs(self, members: Iterable[Member]) -> set[str]:
        """Titles of the models that run."""
        members = list(members)
        absent = self.absent(members)
        return {
            m.title
            for m in members
            if m.arch in self.chosen and m.title not in absent and not (m.stand_in_for and m.arch in self.idle)
        }


def members(spec: Mapping[str, Any]) -> list[Member]:
    """The models of a spec of any layout; one of a single architecture names it once."""
    shared = {"title": spec["title"], "arch": spec.get("arch", ""), "tag": spec.get("tag", "")}
    return [
        Member(
            **{name: one.get(name, shared.get(name, "")) for name in ("title", "arch", "tag", "stand_in_for")},
            layers=one.get("layers", "paper"),
        )
        for one in spec.get("models", [{}])
    ]


def find_weights(
    models: Sequence[Member],
    weights: str | Path | None,
    backbones: Sequence[str] | None,
    *,
    untrained_fallback: bool,
    needed: bool,
    on_message: Callable[[str], None],
) -> FoundWeights:
    """Weights of every architecture.

    Args:
        models: of all specs.
        weights: as for ``resolve_weights``, tried first under the spec's tag, then under the bare name.
        backbones: only these architectures (or ``arch.tag``, which replaces the spec's tag).
        untrained_fallback: where no weights can be had, take seeded untrained ones.
        needed: whether there is nothing to do without any.

    Raises:
        PadimBenchError: for a backbone that no model has.
        WeightsNotFoundError: where there are none at all, and some are ``needed``.
    """
    tags = _tags(models, backbones)
    found = FoundWeights()
    for model in models:
        if model.arch not in tags or model.arch in found.chosen or model.arch in found.missing:
            continue
        if model.stand_in_for and not backbones and _needs_no_stand_in(found.chosen.get(model.stand_in_for), weights):
            continue
        try:
            tag = tags[model.arch]
            found.chosen[model.arch] = _weights_for(model.arch, tag or model.tag, weights, strict=bool(tag))
        except WeightsNotFoundError as error:
            if untrained_fallback and not model.stand_in_for:
                on_message(f"{model.arch}: no weights at hand, so untrained random ones")
                found.chosen[model.arch] = resolve_weights(model.arch, "random")
            elif not model.stand_in_for or backbones:
                found.missing[model.arch] = str(error)
    for model in models:
        if model.stand_in_for and not backbones and (principal := found.chosen.get(model.stand_in_for)) is not None:
            own = found.chosen.get(model.arch)  # which other models may have asked for
            if _needs_no_stand_in(principal, weights) or (own is not None and not own.trained):
                found.idle.add(model.arch)
    if needed and not found.chosen:
        raise WeightsNotFoundError(next(iter(found.missing.values()), "no model of these tables matches --backbones"))
    for arch, why in found.missing.items():
        on_message(f"{arch}: left out, its weights are not available: {why}")
    return found


def _tags(models: Sequence[Member], backbones: Sequence[str] | None) -> dict[str, str]:
    """Architectures to run, with the tag that the user named, or "" for the specs' own."""
    known = {m.arch: "" for m in models}
    if backbones is None:
        return known
    tags = {}
    for name in backbones:
        arch, tag = split_name(name)
        if arch not in known:
            raise PadimBenchError(f"no table has a row for backbone {name!r}: choose from {', '.join(known)}")
        tags[arch] = tag or ""
    return tags


def _weights_for(arch: str, tag: str, weights: str | Path | None, *, strict: bool = False) -> Weights:
    """The tag's weights, or unless ``strict`` the file of the bare name, which is labelled as such."""
    if _untrained_by_name(weights):
        return resolve_weights(arch, weights)
    if weights is not None and Path(weights).is_file() and not Path(weights).name.startswith(f"{arch}."):
        raise WeightsNotFoundError(f"{weights} is not named after {arch}: give a directory with a file for each model")
    try:
        return resolve_weights(f"{arch}.{tag}", weights)
    except WeightsNotFoundError as no_tag:
        if strict:
            raise
        try:
            return resolve_weights(arch, weights)
        except WeightsNotFoundError:
            raise no_tag from None


def _untrained_by_name(weights: str | Path | None) -> bool:
    return str(weights or os.environ.get(ENVIRONMENT_VARIABLE)).partition(":")[0] == "random"


def _needs_no_stand_in(principal: Weights | None, weights: str | Path | None) -> bool:
    return principal is not None and (principal.trained or _untrained_by_name(weights))
