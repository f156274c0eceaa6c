"""All values of all runs as one flat frame, a line for every run and metric."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from padim_bench.records.files import check_mergeable
from padim_bench.records.merged import read_evidence
from padim_bench.records.runs import RunRecord

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "dataset", "category", "model", "weights", "metric", "seed", "protocol", "strategy", "storage", "value", "status",
    "extras", "record", "machine",
)  # fmt: skip


def load_results(*folders: str | Path) -> pd.DataFrame:
    """The values of all runs in results folders, merged: a line for every run and metric.

    Args:
        folders: each with ``records/``, as ``padim-bench run`` and ``reproduce`` leave them. Of a run that several
            have, the first folder's record is taken.

    Returns:
        Columns dataset, category, model (as the paper would name it), weights (their label), metric, seed (of the
        reduction), protocol, strategy, storage, value (a fraction, or in the metric's own unit; NaN where it is
        undefined, and of runs that are invalid), status ("ok" or "invalid"), extras (what else was measured, joined by
        commas: a run with "pro_variants" may stand beside the same without), record (its id) and machine (GPU or
        processor, and threads).

    Raises:
        PadimBenchError: for a folder that is not there, has nothing, or a record that is not whole and sound, and where
            records differ in a category's split, a network's weights or the major version, as pages refuse it too.
    """
    evidence, _ = read_evidence([Path(folder) for folder in folders])
    check_mergeable(evidence.records)
    return values(evidence.records)


def values(records: Iterable[RunRecord]) -> pd.DataFrame:
    """The frame of :func:`load_results` of some records, in their order."""
    import pandas as pd

    from padim_bench.metrics.summary import METRICS

    rows = []
    for record in records:
        config, model = record.config, record.config.model
        for metric in METRICS if record.metrics is None else record.metrics:
            value = record.value(metric)
            rows.append(
                (
                    *(config.dataset, config.category, config.model_name, config.weights, metric, model.seed),
                    *(model.protocol.name, model.strategy, model.storage, float("nan") if value is None else value),
                    *(record.status, ",".join(config.extras), record.id, record.machine),
                )
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))
