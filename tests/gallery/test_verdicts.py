"""The threshold of a gallery is the best there is, and what it gets wrong stands first."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from padim_bench.gallery.verdicts import best_threshold, f1_at, order, verdicts

images = st.lists(st.tuples(st.booleans(), st.integers(-3, 6)), min_size=1, max_size=25)


def brute_f1(labels: list[bool], over: list[bool]) -> float:
    right = sum(a and b for a, b in zip(labels, over, strict=True))
    return 0.0 if right == 0 else 2 * right / (sum(labels) + sum(over))


@given(pairs=images)
def test_no_other_threshold_has_a_larger_f1(pairs: list[tuple[bool, int]]) -> None:
    labels, scores = [y for y, _ in pairs], [s for _, s in pairs]
    assume(any(labels) and not all(labels))
    n, s = np.array(labels, dtype=np.int64), np.array(scores, dtype=np.float32)
    found = best_threshold(n, s)
    assert found is not None
    every = {t: brute_f1(labels, [one >= t for one in scores]) for t in {*scores, 7}}
    assert f1_at(n, s, found) == pytest.approx(max(every.values()))
    assert found == max(t for t, f1 in every.items() if f1 == max(every.values()))
    told = verdicts(n, s, found)
    for y, one, verdict in zip(labels, scores, told, strict=True):
        assert verdict == ("right" if y == (one >= found) else "missed" if y else "false alarm")
    # Wrong ones first, and the worst of them before the others.
    looked_at = [(told[i], scores[i]) for i in order(told, s)]
    groups = [[score for verdict, score in looked_at if verdict == name] for name in ("missed", "false alarm", "right")]
    assert [score for _, score in looked_at] == [score for group in groups for score in group]
    assert groups == [sorted(groups[0]), *(sorted(group, reverse=True) for group in groups[1:])]


def test_images_of_one_class_are_not_judged() -> None:
    for label in (0, 1):
        labels, scores = np.full(3, label), np.array([1, 3, 2], dtype=np.float32)
        assert best_threshold(labels, scores) is None
        assert verdicts(labels, scores, None) == ["unjudged"] * 3
        assert order(["unjudged"] * 3, scores) == [1, 2, 0]
