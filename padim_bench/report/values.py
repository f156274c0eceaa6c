"""The values of a page, as it shows them: lines of the flat frame, the one way from runs to a page of accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

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
        The columns of :func:`~padim_bench.records.frame.load_results`, value and error_bound in the unit of tables
        (percent), and title.
    """
    import pandas as pd

    frames = [values(records).assign(title=title) for title, records in runs.items()]
    frame = pd.concat(frames or [values([]).assign(title="")])
    frame = frame[frame.metric.isin(list(metrics))].reset_index(drop=True)
    for column in ("value", "error_bound"):
        frame[column] = [metric_of(name).shown(x) for name, x in zip(frame.metric, frame[column], strict=True)]
    return frame
