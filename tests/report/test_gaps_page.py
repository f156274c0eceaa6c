"""The gaps report: how far public sources are from each other and from ours, held to the values it shows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

GAPS = pd.read_csv(Path(__file__).parents[2] / "results/tables/gaps.csv")
PUBLISHED = GAPS[GAPS.section == "published"]


@pytest.mark.parametrize("metric", ["image_auroc", "pixel_auroc", "pro"])
def test_disagreement_is_the_mean_absolute_difference_of_the_published_values(metric: str) -> None:
    shown = GAPS[(GAPS.section == "disagreement") & (GAPS.model == "R18-Rd100") & (GAPS.metric == metric)]
    published = PUBLISHED[(PUBLISHED.model == "R18-Rd100") & (PUBLISHED.metric == metric)]
    assert set(shown.category) == {"grid", "bottle", "capsule", "pill", "screw", "transistor"}
    for category, rows in published.groupby("category"):
        values = rows.set_index("row").value
        theirs = values[~values.index.str.startswith("ours: ")].to_numpy()
        found = shown[shown.category == category].set_index("row").value
        pairs = np.abs(theirs[:, None] - theirs)[np.triu_indices(len(theirs), 1)]
        assert found["between public sources"] == pytest.approx(pairs.mean(), abs=1e-4)
        for name in values.index[values.index.str.startswith("ours: ")]:
            assert found[f"public sources from {name}"] == pytest.approx(np.abs(theirs - values[name]).mean(), abs=1e-4)


def test_the_sources_added_last_are_in_it() -> None:
    shown = set(PUBLISHED[PUBLISHED.model == "R18-Rd100"].row) | set(PUBLISHED[PUBLISHED.model == "WR50-Rd550"].row)
    assert {"IM-IAD", "ultranity", "ultranity, elsewhere", "taeksuu", "MindSpore"} <= shown
