"""How positions are cut into tiles and spread over threads, and the measured reasons: integers in, integers out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


def slices(total: int, step: int) -> Iterator[slice]:
    """``total`` positions in order, ``step`` at a time; the last may be fewer."""
    return (slice(start, min(start + step, total)) for start in range(0, total, step))


@dataclass(frozen=True)
class Scoring:
    """How distances are computed.

    Attributes:
        tile: positions worked on at a time.
        group: positions, whole tiles, whose features are gathered at once by one thread.
        together: whether torch's own threads share each tile, instead of a thread to a group.
    """

    tile: int
    group: int
    together: bool


@dataclass(frozen=True)
class Tiling:
    """The sizes that decide; the defaults were the fastest on the machines that were measured.

    No value depends on them beyond the rounding of float32.

    Attributes:
        fit_bytes: of one tile's matrices when fitting, which so stay inside the cache.
        read_positions: read together when fitting: of layers left as views, runs of a few lines of memory.
        read_bytes: that these may take.
        widened_bytes: of one tile when scoring with a state that is widened first: it stays inside the cache.
        stored_bytes: of one tile of a state that is applied as it was stored: it passes through once, and larger
            tiles are fewer calls (550 dimensions, one image, bfloat16, an Intel Xeon: 62 ms in tiles of 64 MB, 123 of
            16, 213 of 4, where reading takes 36).
        fewest_tiles: to a thread of its own, so that the last one to end does not keep the others waiting long.
        scored_tiles: whose features are gathered at once when scoring.
        together_bytes: of a whole state up to which torch's own threads, still awake from the backbone, share each
            tile: a third to two thirds of the time of a pool, on whose cores they spin. Past it other load would
            hold up their many barriers.

    At 100 dimensions and one image an Intel Xeon took 10.7 ms where an AMD EPYC took 2.7: not for its threads or tiles,
    and not for the map (0.1 ms), but for MKL's order of factors, see ``strategies/products.py``.
    """

    fit_bytes: int = 8 << 20
    read_positions: int = 48
    read_bytes: int = 32 << 20
    widened_bytes: int = 6 << 20
    stored_bytes: int = 64 << 20
    fewest_tiles: int = 4
    scored_tiles: int = 8
    together_bytes: int = 256 << 20

    def fit_tile(self, positions: int, n: int, d: int, width: int) -> int:
        """Positions to a tile when fitting to n images in d dimensions, in numbers of ``width`` bytes."""
        return max(1, min(positions, self.fit_bytes // (max(d * d, n * d) * width)))

    def tiles_read(self, positions: int, tile: int, n: int, d: int, threads: int) -> int:
        """Tiles whose features are read together, where enough such groups are left for all threads."""
        fair = positions // (4 * tile * threads)
        bytes_each = 4 * n * d  # features are float32 as a rule
        return max(1, min(self.read_positions // tile, fair, self.read_bytes // (tile * bytes_each)))

    def scoring(
        self,
        positions: int,
        bytes_each: int,
        state_bytes: int,
        threads: int,
        *,
        widened: bool,
        products: bool,
    ) -> Scoring:
        """How all positions are scored.

        Args:
            positions: how many.
            bytes_each: that one position takes while it is worked on: its state as applied, and its embeddings.
            state_bytes: of all positions, as stored.
            threads: of torch.
            widened: whether the state is stored in a narrower dtype than it is applied in.
            products: whether it is applied by large products alone.
        """
        together = products and state_bytes <= self.together_bytes
        tile_bytes = (self.widened_bytes if widened else self.stored_bytes) * (threads if together else 1)
        tile = min(positions, max(1, tile_bytes // bytes_each))
        if not together:
            tile = min(tile, -(-positions // (self.fewest_tiles * threads)))
        group = tile * max(1, min(self.scored_tiles, positions // (8 * tile * threads)))
        return Scoring(tile, group, together)


MEASURED = Tiling()
