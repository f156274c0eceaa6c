"""Lower triangular matrices of many positions: inverted by products, kept as trimmed blocks of rows.

A block of rows is cut behind its last non-zero column, which stores and multiplies little more than half
of the square and needs no unpacking.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

# Up to this side LAPACK's triangular solve is as fast as products.
_LEAF = 32


def triangular_inverse(factor: Tensor) -> Tensor:
    """Inverses of lower triangular (P, d, d), by halves: the corner below is -W22 L21 W11.

    Batched products reach several times the rate of a triangular solve with the identity.
    """
    if factor.shape[-1] <= _LEAF:
        return _solve_identity(factor)
    inverse = torch.zeros_like(factor)
    _invert(factor, inverse)
    return inverse


def _invert(factor: Tensor, inverse: Tensor) -> None:
    """Fills ``inverse``, whose upper triangle is zero. (A closure that calls itself would keep both alive.)"""
    size = factor.shape[-1]
    if size <= _LEAF:
        inverse.copy_(_solve_identity(factor))
        return
    middle = (size // 2 + 15) // 16 * 16  # whole vector registers
    upper, lower = slice(None, middle), slice(middle, None)
    _invert(factor[:, upper, upper], inverse[:, upper, upper])
    _invert(factor[:, lower, lower], inverse[:, lower, lower])
    corner = torch.bmm(factor[:, lower, upper], inverse[:, upper, upper])
    inverse[:, lower, upper] = torch.bmm(inverse[:, lower, lower], corner).neg_()


def _solve_identity(factor: Tensor) -> Tensor:
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    solution: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
    return solution


def row_blocks(d: int) -> Iterator[slice]:
    """Where blocks of rows lie. Larger blocks waste more above the diagonal but take fewer products."""
    block = 32 if d <= 128 else 64
    return (slice(start, min(start + block, d)) for start in range(0, d, block))


def shapes(d: int, prefix: str) -> dict[str, tuple[int, ...]]:
    """Of the blocks that :func:`trimmed` keeps of one triangle of side d."""
    return {f"{prefix}_{i:03d}": (rows.stop - rows.start, rows.stop) for i, rows in enumerate(row_blocks(d))}


def trimmed(triangle: Tensor, prefix: str) -> dict[str, Tensor]:
    """Blocks of rows of (P, d, d), by names that begin with ``prefix``."""
    blocks = enumerate(row_blocks(triangle.shape[-1]))
    return {f"{prefix}_{i:03d}": triangle[:, rows, : rows.stop].contiguous() for i, rows in blocks}


def blocks_of(state: Mapping[str, Tensor], prefix: str) -> Iterator[tuple[slice, Tensor]]:
    """The rows and values of each block that :func:`trimmed` named, from the first to the last."""
    start = 0
    for _, block in sorted((name, block) for name, block in state.items() if name.startswith(f"{prefix}_")):
        rows = slice(start, start + block.shape[1])
        yield rows, block
        start = rows.stop
