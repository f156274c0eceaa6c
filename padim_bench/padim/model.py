"""PaDiM: fit, score, save, load, in the order of the paper's section III."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from operator import length_hint
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from padim_bench.errors import ONE_IMAGE, DataWarning, PadimBenchError
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.backbones import CPU_BATCH_SIZE, Backbone, create_backbone
from padim_bench.padim.config import HALF_PRODUCTS, PaDiMConfig
from padim_bench.padim.gaussian import PatchGaussians, fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.projection import ChannelMoments, principal_components
from padim_bench.padim.reduction import REDUCTIONS, WHOLE, check_reduction, reduced_embedding
from padim_bench.padim.sharing import NEVER, share, training_cost
from padim_bench.padim.strategies import STORAGE_DTYPES, strategy_names
from padim_bench.padim.training_scores import TrainingScores
from padim_bench.protocols import Protocol, get_protocol

DEFAULT_MEMORY_LIMIT = 2 << 30
COMPUTE_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class PaDiM:
    """Patch distribution modelling (Defard et al., arXiv:2011.08785).

    ``config`` describes it whole, as pages and records do.

    Args:
        backbone: timm name with tag ("resnet18.tv_in1k"), or a bare name together with ``weights``,
            or a :class:`Backbone`.
        n_features: dimensions kept (section III-A); None keeps all.
        seed: of a random reduction.
        strategy: how the inverse covariance is held; see ``STRATEGIES``, or "auto" for the smallest exact one.
        storage: dtype of the strategy's state: float32 (None), float16, bfloat16 or float64.
        compute_dtype: of means, covariances and factorisations. float64 keeps ill-conditioned features
            exact in float32 storage and costs about twice the time of a fit. "dual" needs float32 alone.
        layers: "paper", a named reading, or timm module names.
        weights: safetensors file, directory of them, or "random"; None: the environment's, then the hub.
        protocol: preset or :class:`Protocol`; its epsilon, interpolation and smoothing are used here. A backbone
            given by name is built for images of its size; those that take no other then refuse any other.
        device: where everything runs.
        normalize: False if the images are normalised already.
        backbone_dtype: "float32", or "bfloat16" where half the time is worth features that are off by about 1 %.
        memory_limit: bytes that may be held of what grows with the number of images. Training features are held
            where they fit, or where moments would take more; else folded into running moments before these, 4 D
            bytes a number of the mean, and the features pass it. Where moments alone do, a few batches of features
            come on top. How many images there will be is asked of what ``fit`` is given (its length, or length
            hint); of ``partial_fit``'s and of what has none no end is assumed. ``evaluate`` keeps maps within it.
        reduction: how dimensions are reduced; see ``REDUCTIONS``. "pca" learns its directions from the
            training images, so it holds their features until then, or past ``memory_limit`` reads them twice.
        half_products: how a state in half precision is applied: "auto", "native" or "widened"; see
            :class:`PaDiMConfig`. ``gaussians.applied`` says which it was.
        dtype: an older name of ``storage``.

    Example:
        >>> model = PaDiM("resnet18.tv_in1k", n_features=100, seed=0).fit(train_batches)
        >>> maps, scores = model.score(test_images)   # (B, H, W) and (B,), float32

    Raises:
        PadimBenchError: unknown names, weights that cannot be had or do not fit, n_features out of range.
    """

    def __init__(
        self,
        backbone: str | Backbone = "resnet18.tv_in1k",
        *,
        n_features: int | None = 100,
        seed: int = 0,
        strategy: str = "cholesky",
        storage: str | None = None,
        compute_dtype: str = "float64",
        layers: str | Sequence[str] = "paper",
        weights: str | Path | None = None,
        protocol: str | Protocol = "paper",
        device: str | torch.device = "cpu",
        normalize: bool = True,
        backbone_dtype: str = "float32",
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
        reduction: str = "random",
        half_products: str = "auto",
        dtype: str | None = None,
    ) -> None:
        if None not in {storage, dtype} and storage != dtype:
            raise PadimBenchError(f"storage is {storage!r} and dtype, its older name, {dtype!r}: give storage alone")
        storage = storage or dtype or "float32"
        _check_choice("strategy", strategy, strategy_names())
        _check_choice("storage", storage, tuple(STORAGE_DTYPES))
        _check_choice("compute_dtype", compute_dtype, tuple(COMPUTE_DTYPES))
        _check_choice("half_products", half_products, HALF_PRODUCTS)
        protocol = get_protocol(protocol)
        if isinstance(backbone, str):
            options = {"normalize": normalize, "dtype": backbone_dtype, "image_size": protocol.size}
            backbone = create_backbone(backbone, weights, layers, **options)
        self.device = torch.device(device)
        self.backbone = backbone.to(self.device)
        check_reduction(reduction, sum(backbone.channels), n_features, seed)
        self.config = PaDiMConfig(
            backbone=backbone.weights.name,
            layers=backbone.layers,
            n_features=n_features,
            reduction=reduction,
            seed=seed,
            strategy=strategy,
            storage=storage,
            compute_dtype=compute_dtype,
            backbone_dtype=backbone.dtype,
            half_products=half_products,
            protocol=protocol,
        )
        self.memory_limit = memory_limit
        self._image_size: tuple[int, int] | None = None
        self._moments: TrainingMoments | None = None
        self._gaussians: PatchGaussians | None = None
        self.training_scores: TrainingScores | None = None

    @property
    def gaussians(self) -> PatchGaussians:
        """The fitted Gaussians; factorised now if ``partial_fit`` has added images since.

        Raises PadimBenchError before any fit.
        """
        if self._gaussians is None:
            if self._moments is None:
                raise PadimBenchError("this PaDiM is not fitted: call fit(train_images) first")
            self._gaussians = self._factorise(consume=False)
        return self._gaussians

    def fit(self, images: Tensor | Iterable[Any], *, folds: int | None = None) -> Self:
        """Learns one Gaussian per position from normal images, in one pass (section III-B).

        Args:
            images: batches (B, 3, H, W) of RGB images, uint8 or floating point in 0..1: a DataLoader, a
                list of tensors, or one tensor. Consumed once ("pca": see ``reduction``); never held. One image
                has no covariance: a DataWarning says that epsilon I alone takes its place.
            folds: score every training image by Gaussians that were fitted without its fold, for :meth:`threshold`.
                It changes nothing of the model itself and costs a factorisation a fold; where features are folded
                for want of memory, images are read again once a fold.

        Raises:
            PadimBenchError: no image, NaN features, batches of differing size, more folds than images.
            StrategyInvalidError: the strategy's factorisation is wrong on this machine.
        """
        self._moments = self._gaussians = self._image_size = self.training_scores = None
        try:
            if REDUCTIONS[self.config.reduction].learned:
                self._fit_components(images)
            else:
                self._learn(images, _expected_batches(images))
            if folds is not None:
                from padim_bench.padim.leave_out import leave_out_scores

                assert self._moments is not None
                self.training_scores = leave_out_scores(self, self._moments, images, folds)
            self._gaussians = self._factorise(consume=True)
        except BaseException:
            self._image_size = self.training_scores = None  # half a fit is none
            raise
        finally:
            self._moments = None
        return self

    def partial_fit(self, images: Tensor | Iterable[Any]) -> Self:
        """Adds images to what was seen so far; the Gaussians are factorised when next needed.

        Keeps the training moments, which ``fit`` frees. Raises as :meth:`fit` does.
        """
        if REDUCTIONS[self.config.reduction].learned:
            raise PadimBenchError("principal components need all training images at once: call fit(train_images)")
        if self._moments is None and self._gaussians is not None:
            raise PadimBenchError(
                "fit() and load() keep no training moments: build this model with partial_fit() alone"
            )
        self._learn(images)
        self._gaussians = self.training_scores = None
        return self

    def merge(self, other: PaDiM) -> Self:
        """Adds the images that another model has seen through ``partial_fit``, as if seen here.

        Raises PadimBenchError if either has no moments or if backbone, channels or image size differ.
        """
        if self._moments is None or other._moments is None:
            raise PadimBenchError("merge() needs two models built with partial_fit()")
        if self._learned_from() != other._learned_from():
            raise PadimBenchError("models of differing weights, layers, normalisation or dtype cannot be merged")
        self._moments.merge(other._moments)
        self._gaussians = self.training_scores = None
        return self

    def threshold(self, quantile: float = 0.99) -> float:
        """The image score that a share ``quantile`` of the training images stays under, each scored as a new one.

        Those scores are of Gaussians fitted without the image's fold, so that no test set is needed. In between two
        scores it is interpolated, as ``numpy.quantile`` does; few images make it a rough one.

        Raises PadimBenchError for a model fitted without ``folds``, and a quantile outside 0..1.
        """
        if self.training_scores is None:
            raise PadimBenchError(
                "this model has no scores of its training images, and so no threshold: fit it with fit(images, folds=5)"
            )
        return self.training_scores.quantile(quantile)

    @torch.no_grad()
    def score(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly maps and image scores (section III-C).

        Args:
            images: (B, 3, H, W), as for :meth:`fit` and of the same size.

        Returns:
            maps: (B, H, W) float32, smoothed Mahalanobis distances; higher is more anomalous.
            scores: (B,) float32, the maximum of each map.

        Raises:
            PadimBenchError: not fitted, or images of another size than those fitted on.
        """
        gaussians = self.gaussians
        if tuple(images.shape[2:]) != self._image_size:
            raise PadimBenchError(
                f"images of {tuple(images.shape[2:])}, but the model was fitted on {self._image_size}"
            )
        features = self.backbone(images)
        if _grids(features) != gaussians.embedding.layer_grids:
            raise PadimBenchError(
                f"features on grids {_grids(features)}, but the model was fitted on {gaussians.embedding.layer_grids}: "
                "fit it again"
            )
        selected = gaussians.embedding.select(features)
        size = (int(images.shape[2]), int(images.shape[3]))
        return score_features([(gaussians, selected)], size, self.config.protocol)

    def save(self, path: Path | str) -> None:
        """Writes the fitted model as safetensors with JSON metadata (no pickle) and a sha256 of all of it.

        The backbone is only named.

        Raises PadimBenchError if the file cannot be written, which then is left as it was.
        """
        from padim_bench.padim.files import save_model

        save_model(self, path)

    @classmethod
    def load(cls, path: Path | str, *, weights: str | Path | None = None, device: str | torch.device = "cpu") -> PaDiM:
        """Reads a saved model; it scores bit-identically with the same version on the same machine.

        Args:
            path: as given to :meth:`save`.
            weights: where the backbone's weights lie, if they are not a tag of the hub.
            device: where the model runs.

        Raises:
            PadimBenchError: not such a file, a damaged or edited one, or the weights are not the ones it was fitted
                with.
        """
        from padim_bench.padim.files import load_model

        return load_model(cls, path, weights, device)

    @property
    def image_size(self) -> tuple[int, int] | None:
        """(H, W) of the images that it was fitted on; None before any fit."""
        return self._image_size

    def use(self, gaussians: PatchGaussians, image_size: tuple[int, int]) -> Self:
        """Takes Gaussians that were fitted elsewhere to this model's features of images of (H, W) pixels."""
        self._moments, self._gaussians, self._image_size = None, gaussians, image_size
        self.training_scores = None
        return self

    def _learned_from(self) -> tuple[object, ...]:
        """What two models must share for their moments to be of the same features."""
        backbone = self.backbone
        return backbone.weights.identity, backbone.layers, backbone.normalize, backbone.dtype, self.config.compute_dtype

    def _learn(self, images: Tensor | Iterable[Any], n_batches: int = NEVER) -> None:
        """Adds images to the moments."""
        for features in self._features(images):
            if self._moments is None:
                batch_size = len(features[0])
                self._moments = self._new_moments(features, n_batches * batch_size, batch_size)
            self._moments.update(self._moments.embedding.select(features))

    def _features(self, images: Tensor | Iterable[Any]) -> Iterator[list[Tensor]]:
        """Feature maps batch by batch. Raises PadimBenchError without any image, or for images of another size."""
        empty = True
        for batch in batches_of(images):
            size, empty = (int(batch.shape[2]), int(batch.shape[3])), False
            if self._image_size not in {None, size}:
                raise PadimBenchError(f"images of {size} after images of {self._image_size}: resize them")
            if self._image_size is None:
                self.backbone.check_dtype(batch)
            features = self.backbone(batch)
            self._image_size = size
            yield features
        if empty and self._moments is None:
            raise PadimBenchError("no training images: fit() got an empty iterable")

    def _fit_components(self, images: Tensor | Iterable[Any]) -> None:
        """Principal components of all embeddings, then the moments of what they project to.

        Features are held in between; past ``memory_limit`` the images, unless they are an iterator, are read again.
        """
        held: list[list[Tensor]] | None = []
        n_bytes = n = batch_size = 0
        channels: ChannelMoments | None = None
        first: list[Tensor] = []
        for features in self._features(images):
            if channels is None:
                channels = ChannelMoments(reduced_embedding(self.backbone.channels, _grids(features), WHOLE))
                first = [layer[:0] for layer in features]
            channels.update(channels.embedding.select(features))
            n_bytes += sum(layer.nbytes for layer in features)
            n, batch_size = n + len(features[0]), max(batch_size, len(features[0]))
            if held is not None and n_bytes <= self.memory_limit:
                held.append(features)
                continue
            held = None
            if isinstance(images, Iterator):
                raise PadimBenchError(
                    f"principal components need images twice once their features pass {self.memory_limit:,} bytes: "
                    "give fit() a list or a DataLoader, not an iterator, or raise memory_limit"
                )
        assert channels is not None
        components, _ = principal_components(channels)
        self._moments = self._new_moments(first, n, batch_size, components)
        if held is None:
            for features in self._features(images):
                self._moments.update(self._moments.embedding.select(features))
            return
        while held:
            self._moments.update(self._moments.embedding.select(held.pop(0)))

    def _new_moments(
        self, features: Sequence[Tensor], n: int, batch_size: int, components: Tensor | None = None
    ) -> TrainingMoments:
        """Moments of about ``n`` images that fold when the memory limit asks for it."""
        embedding = reduced_embedding(
            self.backbone.channels,
            _grids(features),
            self.config.reduction,
            self.config.n_features,
            self.config.seed,
            components,
        )
        dtype = COMPUTE_DTYPES[self.config.compute_dtype]
        cost = training_cost(embedding, dtype, n, batch_size)
        (room,), _ = share([cost], self.memory_limit)
        return TrainingMoments(embedding, dtype, max(cost.held, self.memory_limit) if room is None else room)

    def _factorise(self, *, consume: bool) -> PatchGaussians:
        assert self._moments is not None
        if self._moments.n == 1:
            warnings.warn(ONE_IMAGE, DataWarning, stacklevel=3)
        return fit_gaussians(
            self._moments,
            epsilon=self.config.protocol.epsilon,
            strategy=self.config.strategy,
            storage=self.config.storage,
            half_products=self.config.half_products,
            consume=consume,
        )


def score_features(
    models: Sequence[tuple[PatchGaussians, Sequence[Tensor]]], size: tuple[int, int], protocol: Protocol
) -> tuple[Tensor, Tensor]:
    """Equation 2, then maps of ``size`` pixels and image scores.

    Takes one model with the features that its embedding selected; the maps of several are added.
    """
    distances = [
        gaussians.squared_distances(selected).sqrt_().reshape(-1, *gaussians.embedding.grid)
        for gaussians, selected in models
    ]
    return anomaly_maps(distances, size, protocol)


def _grids(features: Sequence[Tensor]) -> tuple[tuple[int, int], ...]:
    return tuple((int(f.shape[2]), int(f.shape[3])) for f in features)


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise PadimBenchError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")


def _expected_batches(images: Tensor | Iterable[Any]) -> int:
    """How many batches ``images`` say that they are; as good as endless where they do not."""
    if isinstance(images, Tensor):
        return -(-len(images) // CPU_BATCH_SIZE)
    return length_hint(images, NEVER)


def batches_of(images: Tensor | Iterable[Any]) -> Iterable[Tensor]:
    """Batches of a tensor, a list of tensors, or a DataLoader that yields (images, labels, ...)."""
    if isinstance(images, Tensor):
        return torch.split(images, CPU_BATCH_SIZE)
    return (b[0] if isinstance(b, (list, tuple)) else b for b in images)
