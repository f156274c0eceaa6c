"""Draws of training images: pinned, nested, and with replacement."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from padim_bench.data.drawn import Drawn


def test_draws_are_pinned() -> None:
    """Records are of them by these very rules: where this fails, all of them are of something else."""
    assert Drawn(4, 0).indices(10) == (0, 2, 6, 9)
    assert Drawn(4, 1).indices(10) == (0, 1, 2, 4)
    assert Drawn(None, 0, replaced=True).indices(10) == (2, 3, 4, 4, 4, 5, 5, 7, 7, 8)
    assert Drawn(3, 1, replaced=True).indices(10) == (1, 7, 8)


@given(n_images=st.integers(2, 400), data=st.data(), draw=st.integers(0, 99))
def test_a_draw_of_few_is_part_of_the_draw_of_more(n_images: int, data: st.DataObject, draw: int) -> None:
    more = data.draw(st.integers(2, n_images))
    fewer = data.draw(st.integers(1, more - 1))
    small, large = Drawn(fewer, draw).indices(n_images), Drawn(more, draw).indices(n_images)
    assert set(small) < set(large) <= set(range(n_images))
    assert (len(small), len(large)) == (fewer, more)
    assert list(large) == sorted(set(large))


@given(n_images=st.integers(1, 400), draw=st.integers(0, 99))
def test_a_resample_is_of_as_many_as_there_are(n_images: int, draw: int) -> None:
    found = Drawn(None, draw, replaced=True).indices(n_images)
    assert len(found) == n_images
    assert set(found) <= set(range(n_images))
    assert list(found) == sorted(found)


@pytest.mark.parametrize(
    ("drawn", "said"), [(Drawn(0), "n: 0"), (Drawn(3, -1), "draw: -1"), (Drawn(), "n: all"), (Drawn(3), None)]
)
def test_what_is_no_draw_says_why(drawn: Drawn, said: str | None) -> None:
    problem = drawn.problem()
    assert problem is None if said is None else problem is not None and problem.startswith(said)


def test_all_images_or_more_are_no_draw_of_few() -> None:
    assert [Drawn(n).fits(9) for n in (8, 9, 10)] == [True, False, False]
    assert Drawn(None, replaced=True).fits(1)
