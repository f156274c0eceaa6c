"""Dimensionality reduction of patch embeddings (section III-A and V-A), in one registry.

The paper's is a random selection of channels, compared with PCA in its Table II. Two alternatives of
later work and of ours ask whether the lottery can be had without its spread.

To add one, write its ``make`` and enter it in ``REDUCTIONS``: it is then listed, run, recorded and tabled.
Nothing here imports torch before an embedding is made, since tables ask what a reduction is called.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from padim_bench.errors import PadimBenchError

if TYPE_CHECKING:
    from torch import Tensor

    from padim_bench.padim.embedding import PatchEmbedding

# Channels kept, as indices into the concatenation of all layers, and what they are projected onto (None: nothing).
Selection = tuple[tuple[int, ...], "Tensor | None"]
# Of (channels of each layer, D, seed, principal components of the training embeddings or None).
Make = Callable[[Sequence[int], int, int, "Tensor | None"], Selection]


@dataclass(frozen=True)
class Reduction:
    """One way to make D dimensions of all channels.

    Attributes:
        name: as in ``PaDiM(reduction=...)``.
        summary: what it keeps, for listings.
        label: what a model's name says before D, as in R18-Rd100.
        phrase: what a table says of a model, with D as ``{kept}`` and the number of channels as ``{all}``.
        make: (channels of each layer, D, seed, components) -> channels kept, and what they are projected onto.
        drawn: whether it depends on the seed.
        learned: whether it needs the principal components of all training embeddings.
        projects: whether it gives directions of all channels, not some of the channels.
        keeps_all: whether it keeps every channel as it is, whatever D was asked for.
    """

    name: str
    summary: str
    label: str
    phrase: str
    make: Make
    drawn: bool = False
    learned: bool = False
    projects: bool = False
    keeps_all: bool = False

    @property
    def needs_all_channels(self) -> bool:
        """Whether every channel of the backbone is read, however many dimensions are kept."""
        return self.projects or self.keeps_all


def check_reduction(reduction: str, n_channels: int, n_features: int | None, seed: int) -> None:
    """Raises PadimBenchError for an unknown name, a seed below 0, or ``n_features`` outside 1..n_channels."""
    from padim_bench.padim.embedding import check_draw

    if reduction not in REDUCTIONS:
        raise PadimBenchError(f"unknown reduction {reduction!r}: choose one of {', '.join(REDUCTIONS)}")
    check_draw(n_channels, n_features, seed)


def reduced_embedding(
    layer_channels: tuple[int, ...],
    layer_grids: tuple[tuple[int, int], ...],
    reduction: str = "random",
    n_features: int | None = None,
    seed: int = 0,
    components: Tensor | None = None,
) -> PatchEmbedding:
    """The patch embedding of a reduction.

    Args:
        layer_channels: channels of each layer.
        layer_grids: (h, w) of each layer.
        reduction: a name in ``REDUCTIONS``.
        n_features: D; None for as many as there are channels.
        seed: of the draw.
        components: where the reduction is learned, the (C, C) result of ``projection.principal_components``; its
            first D rows are used.

    Raises:
        PadimBenchError: as :func:`check_reduction` does.
    """
    from padim_bench.padim.embedding import PatchEmbedding

    total = sum(layer_channels)
    check_reduction(reduction, total, n_features, seed)
    chosen = REDUCTIONS[reduction]
    if n_features is None and not chosen.projects:  # in their order, not in that of a draw
        return PatchEmbedding(layer_channels, layer_grids, tuple(range(total)))
    channels, projection = chosen.make(layer_channels, n_features or total, seed, components)
    return PatchEmbedding(layer_channels, layer_grids, channels, projection)


def draw_stratified(layer_channels: Sequence[int], n_features: int, seed: int) -> tuple[int, ...]:
    """Channels drawn from each layer in proportion to its size, whole numbers by largest remainder.

    For R18 at 100: 14, 29 and 57 of 64, 128 and 256. Indices are into the concatenation of all layers.

    Raises PadimBenchError as :func:`draw_channels` does.
    """
    from padim_bench.padim.embedding import check_draw

    total = sum(layer_channels)
    check_draw(total, n_features, seed)
    shares = [n_features * n // total for n in layer_channels]
    by_remainder = sorted(range(len(shares)), key=lambda i: (-(n_features * layer_channels[i] % total), i))
    for i in by_remainder[: n_features - sum(shares)]:
        shares[i] += 1
    draw, kept, first = random.Random(seed), [], 0
    for n, share in zip(layer_channels, shares, strict=True):
        kept += draw.sample(range(first, first + n), share)
        first += n
    return tuple(kept)


def _random(layer_channels: Sequence[int], n_features: int, seed: int, _: Tensor | None) -> Selection:
    from padim_bench.padim.embedding import draw_channels

    return draw_channels(sum(layer_channels), n_features, seed), None


def _none(layer_channels: Sequence[int], _n_features: int, _seed: int, _: Tensor | None) -> Selection:
    return tuple(range(sum(layer_channels))), None


def _stratified(layer_channels: Sequence[int], n_features: int, seed: int, _: Tensor | None) -> Selection:
    return draw_stratified(layer_channels, n_features, seed), None


def _semi_orthogonal(layer_channels: Sequence[int], n_features: int, seed: int, _: Tensor | None) -> Selection:
    from padim_bench.padim.projection import draw_directions

    total = sum(layer_channels)
    return tuple(range(total)), draw_directions(total, n_features, seed)


def _pca(layer_channels: Sequence[int], n_features: int, _seed: int, components: Tensor | None) -> Selection:
    assert components is not None
    return tuple(range(sum(layer_channels))), components[:n_features]


WHOLE = "none"  # what a reduction is called that was asked to keep all channels
REDUCTIONS: dict[str, Reduction] = {
    r.name: r
    for r in (
        Reduction(
            "random",
            "channels drawn without replacement (the paper's)",
            label="Rd",
            phrase="{kept} random of {all} channels",
            make=_random,
            drawn=True,
        ),
        Reduction(WHOLE, "all channels", label="", phrase="all {all} channels", make=_none, keeps_all=True),
        Reduction(
            "stratified",
            "channels drawn at random, from each layer in proportion to its channels",
            label="St",
            phrase="{kept} of {all} channels, random within each layer",
            make=_stratified,
            drawn=True,
        ),
        Reduction(
            "semi-orthogonal",
            "projection onto random orthonormal directions (Kim et al., arXiv:2105.14737)",
            label="SO",
            phrase="{kept} random orthonormal directions of {all}",
            make=_semi_orthogonal,
            drawn=True,
            projects=True,
        ),
        Reduction(
            "pca",
            "projection onto the principal components of all training embeddings, positions pooled, not whitened",
            label="PCA",
            phrase="{kept} principal components of {all} channels, fitted in one pass over all training embeddings of "
            "the category, positions pooled, not whitened",
            make=_pca,
            learned=True,
            projects=True,
        ),
    )
}
