"""All values of all runs as one flat frame, a line for every run and metric: what pages of accuracy are made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from padim_bench.data.drawn import Drawn
from padim_bench.metrics.resampling import interval
from padim_bench.metrics.summary import METRICS, Metric
from padim_bench.records.files import check_mergeable
from padim_bench.records.merged import read_evidence
from padim_bench.records.runs import RunRecord

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    "dataset", "category", "kind", "model", "layers", "weights", "backbone_dtype", "seed", "protocol", "strategy",
    "storage", "trained", "n_trained", "draw", "metric", "value", "error_bound", "low", "high", "status", "extras",
    "state_bytes", "residual", "record", "machine",
)  # fmt: skip
NUMBERS = ("value", "error_bound", "low", "high", "state_bytes", "residual")


def load_results(*folders: str | Path) -> pd.DataFrame:
    """The values of all runs in results folders, merged: a line for every run and metric.

    Args:
        folders: each with ``records/``, as ``padim-bench run`` and ``reproduce`` leave them. Of a run that several
            have, the first folder's record is taken.

    Returns:
        What was run: columns dataset, category, kind (of the category: "texture", "object", ...), model (as the paper
        would name it), layers (joined by +), weights (their label), backbone_dtype, seed (of the reduction), protocol,
        strategy, storage, trained ("all", or of which images of the training set: "drawn", each once at most, or
        "bootstrap", with replacement), n_trained (how many) and draw (the number of the draw; 0 of all).

        What came out: metric (a name in ``METRICS``, or "pro: NAME" of a deviating definition of it), value (a
        fraction, or in the metric's own unit; NaN where it is undefined, and of runs that are invalid) and error_bound
        (how far the value may be off, in its unit: 0 where it is exact; NaN where it is from histograms and not known),
        low and high (ends of the 95 % interval over resampled test images; NaN where a run has none of that metric).

        Of the run, and so the same in all its lines: status ("ok" or "invalid"), extras (what else was measured,
        joined by commas: a run with "pro_variants" may stand beside the same without), state_bytes (of the strategy's
        state) and residual (largest relative error of squared distances against float64), both NaN of invalid runs,
        record (its id) and machine (GPU or processor, and threads).

    Raises:
        PadimBenchError: for a folder that is not there, has nothing, or a record that is not whole and sound, and where
            records differ in a category's split, a network's weights or the major version, as pages refuse it too.
    """
    evidence, _ = read_evidence([Path(folder) for folder in folders])
    check_mergeable(evidence.records)
    return values(evidence.records)


def values(records: Iterable[RunRecord]) -> pd.DataFrame:
    """The frame of :func:`load_results` of some records, in their order; each has a line for every metric."""
    import pandas as pd

    rows, records = [], list(records)
    intervals = _intervals(records)
    for record in records:
        dataset, config, model = record.dataset, record.config, record.config.model
        run = (
            *(dataset.name, dataset.category, dataset.kind, config.model_name, "+".join(config.layers)),
            *(config.weights, model.backbone_dtype, model.seed, model.protocol.name, model.strategy, model.storage),
            *_trained(config.trained, dataset.n_train),
        )
        of_run = record.status, ",".join(config.extras), record.state_bytes, record.residual, record.id, record.machine
        bounds = record.extra.error_bounds or {}
        found = dict.fromkeys(METRICS) | (record.metrics or {})
        found |= {variant("pro", name): value for name, value in (record.extra.pro_variants or {}).items()}
        for metric, value in found.items():
            low, high = intervals.get((record.id, metric), (None, None))
            rows.append((*run, metric, value, bounds.get(metric, 0.0), low, high, *of_run))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(dict.fromkeys(NUMBERS, float))


def _intervals(records: Sequence[RunRecord]) -> dict[tuple[str, str], tuple[float, float]]:
    """The 95 % interval of each metric that a run has resampled, by the run's id and the metric."""
    drawn = {(r.id, metric): values for r in records for metric, values in (r.extra.resampled or {}).items()}
    if not drawn:
        return {}
    low, high = interval(np.array(list(drawn.values())))
    return dict(zip(drawn, zip(low.tolist(), high.tolist(), strict=True), strict=True))


def _trained(drawn: Drawn | None, n_train: int) -> tuple[str, int, int]:
    if drawn is None:
        return "all", n_train, 0
    return "bootstrap" if drawn.replaced else "drawn", drawn.count(n_train), drawn.draw


def variant(metric: str, name: str) -> str:
    """What the frame calls a metric by a deviating definition of that name."""
    return f"{metric}: {name}"


def metric_of(name: str) -> Metric:
    """The registry's metric that one in the frame is, or is a variant of."""
    return METRICS[name.partition(": ")[0]]
