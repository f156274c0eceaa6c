"""Bytes of a model that no machine decides (Table VIII): the paper's arithmetic, and what strategies store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from padim_bench.errors import PadimBenchError
from padim_bench.machine.environment import environment
from padim_bench.records.costs import AnalyticRow, SizesRecord, StoredRow
from padim_bench.records.facts import Environment

if TYPE_CHECKING:
    from padim_bench.padim.embedding import PatchEmbedding

TRAINING_FEATURES = "training-features"


@dataclass(frozen=True)
class AnalyticRule:
    """One reading of "CNN and Gaussian parameters, in float32" (section V-D).

    Attributes:
        key: its name.
        title: as in a table.
        with_cnn: whether all parameters of the CNN count, its classifier included.
        unit_bytes, unit: what a figure is counted in.
    """

    key: str
    title: str
    with_cnn: bool
    unit_bytes: int
    unit: str


def analytic_rules() -> tuple[AnalyticRule, ...]:
    """The readings that explain at least one printed figure; none explains all."""
    return (
        AnalyticRule("gaussians", "Gaussians", with_cnn=False, unit_bytes=10**9, unit="GB"),
        AnalyticRule("gaussians+cnn", "Gaussians + full CNN", with_cnn=True, unit_bytes=10**9, unit="GB"),
        AnalyticRule("gaussians+cnn-binary", "Gaussians + full CNN", with_cnn=True, unit_bytes=1 << 30, unit="GiB"),
    )


def analytic_bytes(arch_params: int, positions: int, d: int, rule: AnalyticRule) -> int:
    """Float32 bytes of ``positions`` means and dense inverse covariances of ``d`` dimensions, by a rule.

    ``arch_params`` is the number of parameters of the whole CNN, from :func:`full_parameters`.
    """
    return 4 * (positions * (d + d * d) + (arch_params if rule.with_cnn else 0))


@cache
def full_parameters(arch: str) -> int:
    """Parameters of a timm architecture, classifier included; nothing is allocated."""
    from padim_bench.padim.layers import empty_model

    return sum(p.numel() for p in empty_model(arch).parameters())


def analytic_figures(models: Iterable[Mapping[str, Any]], datasets: Sequence[Mapping[str, Any]]) -> list[AnalyticRow]:
    """Every rule for every model on every dataset's grid, for the table.

    Args:
        models: with "title", "arch" and "n_features".
        datasets: with "title" and "grid", the side of the grid of positions.
    """
    rows = []
    for model in models:
        for dataset in datasets:
            for rule in analytic_rules():
                size = analytic_bytes(full_parameters(model["arch"]), dataset["grid"] ** 2, model["n_features"], rule)
                rows.append(
                    AnalyticRow(
                        model=model["title"],
                        dataset=dataset["title"],
                        grid=dataset["grid"],
                        rule=rule.key,
                        rule_title=rule.title,
                        unit=rule.unit,
                        bytes=size,
                        value=size / rule.unit_bytes,
                    )
                )
    return rows


def whole_embedding(rival: Mapping[str, Any], protocol: str) -> PatchEmbedding:
    """All channels of a rival's layers, for a protocol's images; of the networks whose maps the registry knows.

    Args:
        rival: with "arch", and "layers" where they are not the paper's.
        protocol: a preset's name.
    """
    from padim_bench.padim.layers import layer_names
    from padim_bench.padim.paper import known_maps
    from padim_bench.padim.reduction import WHOLE, reduced_embedding
    from padim_bench.protocols import get_protocol

    names = layer_names(rival["arch"], rival.get("layers", "paper"))
    known = known_maps(rival["arch"], names, get_protocol(protocol).size)
    if known is None:
        raise PadimBenchError(f"{rival['arch']}: not one of the paper's networks, whose bytes are computed")
    return reduced_embedding(*known, WHOLE)


def training_features(rivals: Iterable[Mapping[str, Any]], datasets: Sequence[Mapping[str, Any]]) -> list[AnalyticRow]:
    """Float32 bytes of three layers' feature maps of all training images, which a nearest-neighbour method keeps.

    Args:
        rivals: with "title", "arch", "layers".
        datasets: with "title", "grid", "protocol" and "n_train", the mean number of training images.
    """
    from padim_bench.baselines.spade import POSITIONS_LAYERS
    from padim_bench.padim.reduction import WHOLE, reduced_embedding
    from padim_bench.padim.sharing import selected_bytes

    rows = []
    for rival in rivals:
        for dataset in datasets:
            whole, first = whole_embedding(rival, dataset["protocol"]), slice(POSITIONS_LAYERS)
            of_positions = reduced_embedding(whole.layer_channels[first], whole.layer_grids[first], WHOLE)
            size = dataset["n_train"] * selected_bytes(of_positions)
            rows.append(
                AnalyticRow(
                    model=rival["title"],
                    dataset=dataset["title"],
                    grid=dataset["grid"],
                    rule=TRAINING_FEATURES,
                    rule_title="Training features",
                    unit="GB",
                    bytes=size,
                    value=size / 10**9,
                    n_train=dataset["n_train"],
                )
            )
    return rows


def held_by_rivals(
    rivals: Iterable[Mapping[str, Any]], dataset: Mapping[str, Any], counts: Sequence[int]
) -> list[StoredRow]:
    """What each rival's model holds once fitted to so many images, for the table."""
    from padim_bench.baselines import BASELINES

    return [
        StoredRow(
            model=rival["title"],
            dataset=dataset["title"],
            grid=dataset["grid"],
            category=f"n = {n}",
            n_train=n,
            strategy=rival["method"],
            strategy_used=rival["method"],
            dtype="float32",
            bytes=BASELINES[rival["method"]].state_bytes(whole_embedding(rival, dataset["protocol"]), n),
        )
        for rival in rivals
        for n in counts
    ]


def state_bytes(strategy: str, dtype: str, n: int, d: int, positions: int) -> int:
    """Bytes of the state and the means that a strategy stores, fitted to ``n`` images in ``d`` dimensions.

    Raises PadimBenchError for an unknown strategy or dtype.
    """
    from padim_bench.padim.strategies import STORAGE_DTYPES, get_strategy

    if dtype not in STORAGE_DTYPES:
        raise PadimBenchError(f"unknown dtype {dtype!r}: choose one of {', '.join(STORAGE_DTYPES)}")
    return positions * get_strategy(strategy, n, d).state_bytes(n, d, STORAGE_DTYPES[dtype])


def stored_states(
    models: Iterable[Mapping[str, Any]],
    datasets: Sequence[Mapping[str, Any]],
    counts: Mapping[str, int],
    *,
    strategies: Sequence[str],
    dtypes: Sequence[str],
) -> list[StoredRow]:
    """:func:`state_bytes` of every combination, for the table.

    Args:
        models, datasets: as for :func:`analytic_figures`.
        counts: number of training images by category.
        strategies, dtypes: names.
    """
    from padim_bench.padim.strategies import get_strategy

    return [
        StoredRow(
            model=model["title"],
            dataset=dataset["title"],
            grid=dataset["grid"],
            category=category,
            n_train=n,
            strategy=strategy,
            strategy_used=get_strategy(strategy, n, model["n_features"]).name,
            dtype=dtype,
            bytes=state_bytes(strategy, dtype, n, model["n_features"], dataset["grid"] ** 2),
        )
        for model in models
        for dataset in datasets
        for category, n in counts.items()
        for strategy in strategies
        for dtype in dtypes
    ]


def compute_sizes(asked: str, spec: Mapping[str, Any], counts: Mapping[str, int]) -> SizesRecord:
    """The record of these bytes.

    Args:
        asked: digest of what of the spec decides them.
        spec: of Table VIII, with "models", "rivals", "datasets", "n_images", "growth" and "dtypes".
        counts: training images by category.
    """
    from padim_bench.padim.strategies import STRATEGIES

    models, datasets, n = spec["models"], spec["datasets"], spec["n_images"]
    states = stored_states(models, datasets, {f"n = {n}": n}, strategies=tuple(STRATEGIES), dtypes=spec["dtypes"])
    last = stored_states(models[-1:], datasets[:1], counts, strategies=("auto",), dtypes=("float32", "float16"))
    rivals, grown = spec.get("rivals", ()), {f"n = {n}": n for n in spec["growth"]}
    by_images = [
        row
        for model in models
        for row in stored_states([model], datasets[:1], grown, strategies=model["strategies"], dtypes=("float32",))
    ]
    return SizesRecord(
        asked=asked,
        strategies=tuple(STRATEGIES),
        analytic=(*analytic_figures(models, datasets), *training_features(rivals, datasets)),
        states=tuple(states),
        by_category=tuple(last),
        by_images=(*by_images, *held_by_rivals(rivals, datasets[0], spec["growth"])),
        environment=Environment(**environment()),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
