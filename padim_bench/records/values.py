"""What a number or a text in a record may be, in one word each."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any

from pydantic import BaseModel, Field, PlainValidator, create_model

from padim_bench.metrics.summary import METRICS, Metric

_ROUNDING = 1e-9  # may take a ratio of sums so little past its ends

Number = Annotated[float, Field(allow_inf_nan=False)]
# Of a metric from histograms; undefined where the metric is.
Bound = Annotated[float, Field(ge=0, le=1e12)]
# Of seconds and rates no more than any machine can tell; divided by and drawn on log axes are positive ones.
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Positive = Annotated[float, Field(ge=1e-12, le=1e12)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
AtLeastOne = Annotated[int, Field(ge=1, lt=1 << 63)]
Peak = AtLeastOne | None  # not measured where the system does not tell
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Text = Annotated[str, Field(min_length=1)]


def _check_metrics(values: Any) -> Any:
    """Each known metric within its range, any other a number, or null where it is undefined."""
    _metrics_model(tuple(METRICS.values())).model_validate(values, strict=True)
    if odd := [name for name, value in values.items() if value is not None and type(value) not in {int, float}]:
        raise ValueError(f"{odd[0]}: not a number")
    return values


@cache
def _metrics_model(metrics: tuple[Metric, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for m in metrics:
        within = Annotated[float, Field(ge=m.low - _ROUNDING, le=m.high + _ROUNDING)] | None
        fields[m.name] = (within, ...) if m.required else (within, None)
    return create_model("Metrics", **fields)


Metrics = Annotated[dict[str, float | None], PlainValidator(_check_metrics)]
