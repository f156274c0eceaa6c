"""How positions are cut: every one exactly once, within the bytes asked for, with work left for all threads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from padim_bench.padim.tiling import MEASURED, Scoring, Tiling, slices

few = st.integers(1, 5000)
byte_counts = st.integers(1, 1 << 34)


@given(total=st.integers(0, 5000), step=few)
def test_slices_hold_every_position_once_and_in_order(total: int, step: int) -> None:
    cut = list(slices(total, step))
    assert [p for s in cut for p in range(total)[s]] == list(range(total))
    assert all(s.stop - s.start == step for s in cut[:-1])


@given(positions=few, n=st.integers(0, 5000), d=few, width=st.sampled_from([4, 8]), threads=st.integers(1, 64))
def test_a_fits_tiles_stay_within_their_bytes_and_leave_groups_for_all_threads(
    positions: int, n: int, d: int, width: int, threads: int
) -> None:
    tile = MEASURED.fit_tile(positions, n, d, width)
    assert 1 <= tile <= positions
    assert tile == 1 or tile * width * d * max(d, n) <= MEASURED.fit_bytes
    together = MEASURED.tiles_read(positions, tile, max(n, 1), d, threads)
    assert together >= 1
    if together > 1:
        assert together * tile <= MEASURED.read_positions
        assert together * tile * 4 * n * d <= MEASURED.read_bytes
        assert positions // (together * tile) >= 4 * threads


@given(
    positions=few, each=byte_counts, state=byte_counts, threads=st.integers(1, 64), widened=st.booleans(),
    products=st.booleans(),
)  # fmt: skip
def test_scoring_works_on_whole_tiles_within_their_bytes(
    positions: int, each: int, state: int, threads: int, widened: bool, products: bool
) -> None:
    cut = MEASURED.scoring(positions, each, state, threads, widened=widened, products=products)
    assert cut.together == (products and state <= MEASURED.together_bytes)
    assert 1 <= cut.tile <= positions
    room = (MEASURED.widened_bytes if widened else MEASURED.stored_bytes) * (threads if cut.together else 1)
    assert cut.tile == 1 or cut.tile * each <= room
    assert cut.group % cut.tile == 0
    assert cut.together or cut.tile <= -(-positions // (MEASURED.fewest_tiles * threads))
    assert cut.group == cut.tile or positions // cut.group >= 8 * threads


def test_the_papers_sizes_by_hand() -> None:
    positions = 56 * 56
    assert MEASURED.fit_tile(positions, 209, 550, 8) == 3  # of 2.4 MB of float64 in 8 MiB
    assert MEASURED.fit_tile(positions, 209, 100, 8) == 50
    assert MEASURED.tiles_read(positions, 3, 209, 550, 2) == 16
    each = 4 * (100 * 100 + 2 * 100)
    dense = MEASURED.scoring(positions, each, 4 * positions * 100 * 100, 2, widened=False, products=True)
    assert dense == Scoring(tile=3136, group=3136, together=True)  # 128 MB of them, in 134 for two threads
    half = 2 * (168_300 + 2 * 550)
    large = MEASURED.scoring(positions, half, 2 * positions * 168_300, 2, widened=False, products=True)
    assert large == Scoring(tile=198, group=198, together=False)  # of 339 kB in 64 MiB
    alone = MEASURED.scoring(positions, each, 4 * positions * 100 * 100, 2, widened=True, products=False)
    assert alone == Scoring(tile=154, group=154, together=False)


def test_a_tile_is_one_position_at_least_and_no_more_than_there_are() -> None:
    assert Tiling(fit_bytes=1).fit_tile(5, 9, 9, 8) == 1
    assert Tiling(fit_bytes=1 << 40).fit_tile(5, 9, 9, 8) == 5
    assert Tiling(read_bytes=1).tiles_read(3136, 3, 209, 550, 1) == 1
