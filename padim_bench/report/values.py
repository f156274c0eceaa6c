"""The values of a page, as it shows them: lines of the flat frame, the one way from runs to a page of accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from padim_bench.metrics.resampling import ends
from padim_bench.records.frame import metric_of, values
from padim_bench.records.runs import RunRecord

if TYPE_CHECKING:
    import pandas as pd


def shown_values(runs: Mapping[str, Sequence[RunRecord]], metrics: Iterable[str]) -> pd.DataFrame:
    """The lines of some metrics, of every run under the title that it stands under.

    Args:
        runs: by title, in the page's order.
        metrics: as the frame calls them.

    Returns:
        The columns of :func:`~padim_bench.records.frame.load_results`, their numbers in the unit of tables (percent),
        title, and resampled: an array of the metric's values over resampled test images, None where there are none.
    """
    import pandas as pd

    frames = [values(records).assign(title=title) for title, records in runs.items()]
    frame = pd.concat(frames or [values([]).assign(title="")])
    frame = frame[frame.metric.isin(list(metrics))].reset_index(drop=True)
    for column in ("value", "error_bound", "low", "high"):
        frame[column] = [metric_of(name).shown(x) for name, x in zip(frame.metric, frame[column], strict=True)]
    drawn = {record.id: record.extra.resampled or {} for of_title in runs.values() for record in of_title}
    frame["resampled"] = pd.Series(
        [
            metric_of(name).scale * np.array(drawn[record][name]) if name in drawn[record] else None
            for record, name in zip(frame.record, frame.metric, strict=True)
        ],
        dtype=object,
    )
    return frame


def mean_interval(drawn: Iterable[Sequence[NDArray[np.float64] | None]]) -> tuple[float, float] | None:
    """The 95 % interval over test images of a mean over categories, each of which is a mean over replicates.

    Args:
        drawn: for each category, the resampled values of each replicate, which share their resamples: what the mean
            over replicates of a resample gives. Categories are resampled apart from each other.

    Returns:
        Its ends; None where there is nothing, or a run has no resampled values.
    """
    means = []
    for of_category in drawn:
        known = [one for one in of_category if one is not None]
        if not known or len(known) < len(of_category):
            return None
        means.append(np.mean(known, axis=0))
    if not means:
        return None
    return ends(np.mean(means, axis=0))
