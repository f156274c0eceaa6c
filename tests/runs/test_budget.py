"""How the memory limit is shared: nothing is folded in vain, and the limit is kept wherever it can be."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from padim_bench.padim.footprint import told
from padim_bench.padim.sharing import Cost, share

costs = st.lists(
    st.builds(
        lambda n, each, moments, least: Cost(n * each, moments, min(n, least) * each),
        n=st.integers(2, 5000),
        each=st.integers(1, 1000),
        moments=st.integers(1, 10**6),
        least=st.integers(1, 64),
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(costs=costs, limit=st.integers(-1000, 10**7))
def test_the_limit_is_kept_where_it_can_be_and_nothing_is_folded_in_vain(costs: list[Cost], limit: int) -> None:
    rooms, used = share(costs, limit)
    least = sum(min(cost.held, cost.folded) for cost in costs)
    assert least <= used <= max(limit, least)
    assert used == sum(
        cost.held if room is None else cost.moments + room for cost, room in zip(costs, rooms, strict=True)
    )
    for cost, room in zip(costs, rooms, strict=True):
        if room is not None:
            assert cost.least <= room
            assert cost.folded < cost.held
    if sum(cost.held for cost in costs) <= limit:
        assert rooms == [None] * len(costs)


def test_what_is_left_is_room_for_features() -> None:
    few, many = Cost(held=100, moments=50, least=10), Cost(held=1000, moments=50, least=10)
    assert share([few, many], 2000) == ([None, None], 1100)
    assert share([few, many], 400) == ([None, 250], 400)
    assert share([many, many], 400) == ([150, 150], 400)
    assert share([many, many], 0) == ([10, 10], 120)


def test_bytes_are_told_in_binary_units() -> None:
    assert [told(n) for n in (2 << 30, 3 << 29, 500_000_000)] == ["2.0 GiB", "1.5 GiB", "477 MiB"]
    assert [told(n) for n in (1010 << 20, 3 << 19, 1)] == ["1010 MiB", "1.5 MiB", "1 bytes"]
