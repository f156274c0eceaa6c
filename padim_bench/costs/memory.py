"""Bytes of a model (Table VIII): the paper's arithmetic, what is really stored, and peaks of a fresh process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from padim_bench.costs.fresh import answer, in_fresh_process
from padim_bench.errors import PadimBenchError
from padim_bench.machine.environment import PeakMemory, environment
from padim_bench.records.files import Record
from padim_bench.records.sealed import SCHEMA_VERSION

N_SCORED = 16


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
    import timm
    import torch

    with torch.device("meta"):
        model = timm.create_model(arch, pretrained=False)
    return sum(p.numel() for p in model.parameters())


def analytic_figures(
    models: Iterable[Mapping[str, Any]], datasets: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Every rule for every model on every dataset's grid, for the table.

    Args:
        models: with "title", "arch" and "n_features".
        datasets: with "title" and "grid", the side of the grid of positions.

    Returns:
        Rows with model, dataset, grid, rule, rule_title, unit, bytes, and value in that unit.
    """
    rows = []
    for model in models:
        for dataset in datasets:
            for rule in analytic_rules():
                size = analytic_bytes(full_parameters(model["arch"]), dataset["grid"] ** 2, model["n_features"], rule)
                rows.append(
                    {
                        "model": model["title"],
                        "dataset": dataset["title"],
                        "grid": dataset["grid"],
                        "rule": rule.key,
                        "rule_title": rule.title,
                        "unit": rule.unit,
                        "bytes": size,
                        "value": size / rule.unit_bytes,
                    }
                )
    return rows


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
) -> list[dict[str, Any]]:
    """:func:`state_bytes` of every combination, for the table.

    Args:
        models, datasets: as for :func:`analytic_figures`.
        counts: number of training images by category.
        strategies, dtypes: names.

    Returns:
        Rows with model, dataset, grid, category, n_train, strategy, strategy_used, dtype and bytes.
    """
    from padim_bench.padim.strategies import get_strategy

    return [
        {
            "model": model["title"],
            "dataset": dataset["title"],
            "grid": dataset["grid"],
            "category": category,
            "n_train": n,
            "strategy": strategy,
            "strategy_used": get_strategy(strategy, n, model["n_features"]).name,
            "dtype": dtype,
            "bytes": state_bytes(strategy, dtype, n, model["n_features"], dataset["grid"] ** 2),
        }
        for model in models
        for dataset in datasets
        for category, n in counts.items()
        for strategy in strategies
        for dtype in dtypes
    ]


def compute_sizes(asked: str, spec: Mapping[str, Any], counts: Mapping[str, int]) -> Record:
    """Table VIII's bytes that no machine decides: by the paper's arithmetic, and as every strategy stores them.

    Args:
        asked: digest of what of the spec decides them.
        spec: of Table VIII, with "models", "datasets", "n_images" and "dtypes".
        counts: training images by category.

    Returns:
        A record of kind "sizes", with rows "analytic", "states" and "by_category" and the environment.
    """
    from padim_bench.padim.strategies import STRATEGIES

    models, datasets, n = spec["models"], spec["datasets"], spec["n_images"]
    return {
        "schema": SCHEMA_VERSION,
        "kind": "sizes",
        "status": "ok",
        "asked": asked,
        "strategies": list(STRATEGIES),
        "analytic": analytic_figures(models, datasets),
        "states": stored_states(models, datasets, {f"n = {n}": n}, strategies=tuple(STRATEGIES), dtypes=spec["dtypes"]),
        "by_category": stored_states(
            models[-1:], datasets[:1], counts, strategies=("auto",), dtypes=("float32", "float16")
        ),
        "environment": environment(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def measure_peak(
    category_root: Path | str,
    category_name: str,
    arch: str,
    weights: str | None = None,
    *,
    dataset: str | None = None,
    normal: Sequence[str] = (),
    n_features: int | None = 100,
    seed: int = 0,
    strategy: str = "auto",
    dtype: str = "float32",
    protocol: str = "paper",
    threads: int = 1,
    batch_size: int = 8,
    timeout_s: float = 3600,
) -> Record:
    """Peak resident memory of one fit and the scoring of up to 16 test images, in a fresh process.

    Args:
        category_root, category_name: a dataset in MVTec layout and one of its categories.
        arch: timm name, with or without tag.
        weights: as for ``resolve_weights``: a file, a directory, "random", or None.
        dataset, normal: as for ``mvtec``.
        n_features, seed, strategy, dtype, protocol: of the model.
        threads: of torch.
        batch_size: images decoded and run through the backbone at a time.
        timeout_s: after which the process is ended.

    Returns:
        A record of kind "memory": ``peaks`` in bytes {"imports", "backbone", "end"}, each the largest
        resident memory up to then, ``state_bytes``, ``strategy_used``, with configuration and environment.

    Raises:
        PadimBenchError: with the last line of what the process complained of.
    """
    asked = {
        "root": str(category_root),
        "category": category_name,
        "dataset": dataset,
        "normal": list(normal),
        "arch": arch,
        "weights": weights,
        "n_features": n_features,
        "seed": seed,
        "strategy": strategy,
        "dtype": dtype,
        "protocol": protocol,
        "threads": threads,
        "batch_size": batch_size,
    }
    return in_fresh_process("padim_bench.costs.memory", asked, f"memory of {category_name}", timeout_s=timeout_s)


def _measure(asked: dict[str, Any]) -> Record:
    """What :func:`measure_peak` asks of the process it starts. Everything heavy is imported first."""
    import timm  # noqa: F401 - imported late otherwise, and no part of a backbone's memory
    import torch

    from padim_bench.costs.timing import describe
    from padim_bench.data.loading import sample_name, split_digest
    from padim_bench.data.mvtec import mvtec
    from padim_bench.data.transforms import read_image
    from padim_bench.padim.backbones import create_backbone
    from padim_bench.padim.model import PaDiM
    from padim_bench.protocols import get_protocol
    from padim_bench.records.config import Execution, RunConfig

    memory = PeakMemory()
    torch.set_num_threads(asked["threads"])
    category = mvtec(asked["root"], asked["category"], dataset=asked["dataset"], normal=asked["normal"])
    protocol = get_protocol(asked["protocol"])
    digest = split_digest(category, threads=asked["threads"])
    peaks = {"imports": memory.read()["peak_rss_bytes"]}

    backbone = create_backbone(asked["arch"], asked["weights"])
    peaks["backbone"] = memory.read()["peak_rss_bytes"]

    def batch(samples: Sequence[Any]) -> torch.Tensor:
        images = [read_image(s.image, protocol, sample_name(category, s))[0] for s in samples]
        return torch.stack([torch.from_numpy(image) for image in images])

    def batches(samples: Sequence[Any]) -> Iterable[torch.Tensor]:
        size = asked["batch_size"]
        return (batch(samples[i : i + size]) for i in range(0, len(samples), size))

    model = PaDiM(
        backbone,
        protocol=protocol,
        **{key: asked[key] for key in ("n_features", "seed", "strategy", "dtype")},
    )
    model.fit(batches(category.train))
    scored = category.test[:N_SCORED]
    for images in batches(scored):
        model.score(images)
    peaks["end"] = memory.read()["peak_rss_bytes"]

    weights = backbone.weights
    config = RunConfig(
        dataset=category.dataset,
        category=category.name,
        model=replace(model.config, backbone=weights.arch).normalised(sum(backbone.channels)),
        weights=weights.label,
        execution=Execution(threads=asked["threads"], batch_size=asked["batch_size"]),
    )
    return describe("memory", config, {"n_scored": len(scored)}, category, weights, digest) | {
        "strategy_used": model.gaussians.strategy.name,
        "state_bytes": model.gaussians.state_bytes,
        "n_train": len(category.train),
        "peaks": peaks,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


if __name__ == "__main__":
    answer(_measure)
