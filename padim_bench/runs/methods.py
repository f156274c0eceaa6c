"""What a run learns of its training images and how it scores others: PaDiM or a baseline, behind the same calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from padim_bench.baselines import BASELINES, Baseline, Learner
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.config import PADIM
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import PatchGaussians, fit_gaussians
from padim_bench.padim.model import COMPUTE_DTYPES, score_features
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.sharing import Cost, training_cost
from padim_bench.records.config import RunConfig


@dataclass(frozen=True)
class FittedBaseline:
    """A baseline's model with what its record says; ``strategy`` is the entry, named where PaDiM names a strategy."""

    strategy: Baseline
    model: Learner
    residual: ClassVar[None] = None
    applied: ClassVar[frozenset[str]] = frozenset()

    @property
    def state_bytes(self) -> int:
        return self.model.state_bytes

    @property
    def clamped(self) -> int:
        return self.model.clamped

    @property
    def computed_in(self) -> str:
        return self.model.computed_in


Seen = TrainingMoments | Learner
Fitted = PatchGaussians | FittedBaseline


def method_names() -> tuple[str, ...]:
    """What ``--method`` takes."""
    return (PADIM, *BASELINES)


def baseline_of(method: str) -> Baseline | None:
    """The registry's entry; None of PaDiM."""
    return None if method == PADIM else BASELINES[method]


def has_maps(config: RunConfig) -> bool:
    """Whether the method scores pixels."""
    baseline = baseline_of(config.model.method)
    return baseline is None or baseline.has_maps


def training(config: RunConfig, embedding: PatchEmbedding, room: int) -> Seen:
    """What takes in the features of training images; PaDiM's are folded past ``room`` bytes."""
    if (baseline := baseline_of(config.model.method)) is not None:
        return baseline.make(embedding)
    return TrainingMoments(embedding, COMPUTE_DTYPES[config.model.compute_dtype], room)


def cost_of(method: str, embedding: PatchEmbedding, compute_dtype: str, n: int, batch_size: int) -> Cost:
    """Bytes of what has taken in ``n`` training images; of a baseline about those of its state, never folded."""
    if (baseline := baseline_of(method)) is not None:
        held = baseline.state_bytes(embedding, n)
        return Cost(held, held, 0)
    return training_cost(embedding, COMPUTE_DTYPES[compute_dtype], n, batch_size)


def fit_moments(
    config: RunConfig,
    moments: TrainingMoments,
    *,
    consume: bool = True,
    on_positions: Callable[[int], None] = lambda _: None,
) -> PatchGaussians:
    """The Gaussians of a configuration from its training moments, by default used up; raises as ``fit_gaussians``."""
    return fit_gaussians(
        moments,
        epsilon=config.protocol.epsilon,
        strategy=config.model.strategy,
        storage=config.model.storage,
        half_products=config.model.half_products,
        consume=consume,
        on_positions=on_positions,
    )


def fit(config: RunConfig, seen: Seen, *, consume: bool) -> Fitted:
    """The model of all training images, which ``consume`` may use up. Raises StrategyInvalidError, PadimBenchError."""
    if isinstance(seen, TrainingMoments):
        return fit_moments(config, seen, consume=consume)
    seen.fit()
    return FittedBaseline(BASELINES[config.model.method], seen)


def squared_distances(fitted: Fitted, selected: Sequence[Tensor]) -> Tensor:
    """(B, P) of every position of selected features, of a method that has maps."""
    if isinstance(fitted, PatchGaussians):
        return fitted.squared_distances(selected)
    distances, _ = fitted.model.score(selected)
    assert distances is not None
    return distances.flatten(1).square()


def score(
    config: RunConfig, fitted: Sequence[Fitted], selected: Sequence[Sequence[Tensor]]
) -> tuple[Tensor | None, Tensor]:
    """Maps (B, S, S), None of a method without them, and scores (B,) of selected features, one list a member."""
    size = (config.protocol.size, config.protocol.size)
    gaussians = [one for one in fitted if isinstance(one, PatchGaussians)]
    if gaussians:
        maps, scores = score_features(list(zip(gaussians, selected, strict=True)), size, config.protocol)
        return maps.cpu(), scores.cpu()
    (one,) = fitted
    assert isinstance(one, FittedBaseline)
    distances, scores = one.model.score(selected[0])
    return None if distances is None else anomaly_maps(distances, size, config.protocol)[0].cpu(), scores.cpu()
