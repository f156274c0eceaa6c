"""PaDiM: fit, score, save, load, in the order of the paper's section III."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor

from padim_bench.errors import PadimBenchError, WeightsNotFoundError
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.backbones import Backbone, create_backbone
from padim_bench.padim.embedding import PatchEmbedding, draw_channels
from padim_bench.padim.gaussian import PatchGaussians, TrainingMoments, fit_gaussians
from padim_bench.padim.strategies import STORAGE_DTYPES, STRATEGIES, STRATEGY_NAMES
from padim_bench.protocols import Protocol, get_protocol

MODEL_FORMAT = "1"
DEFAULT_MEMORY_LIMIT = 2 << 30
COMPUTE_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class PaDiM:
    """Patch distribution modelling (Defard et al., arXiv:2011.08785).

    Args:
        backbone: timm name with tag ("resnet18.tv_in1k"), or a bare name together with ``weights``,
            or a :class:`Backbone`.
        n_features: channels drawn at random (section III-A); None keeps all.
        seed: of that draw.
        strategy: how the inverse covariance is held; see ``STRATEGIES``, or "auto" for the smallest exact one.
        dtype: storage of the strategy's state: float32, float16, bfloat16 or float64.
        compute_dtype: of means, covariances and factorisations. float64 keeps ill-conditioned features
            exact in float32 storage and costs about twice the time of a fit.
        layers: "paper", a named reading, or timm module names.
        weights: safetensors file, directory of them, or "random"; None: the environment's, then the hub.
        protocol: preset or :class:`Protocol`; its epsilon, interpolation and smoothing are used here.
        device: where everything runs.
        normalize: False if the images are normalised already.
        memory_limit: bytes of training features past which running moments are kept instead.

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
        dtype: str = "float32",
        compute_dtype: str = "float64",
        layers: str | Sequence[str] = "paper",
        weights: str | Path | None = None,
        protocol: str | Protocol = "paper",
        device: str | torch.device = "cpu",
        normalize: bool = True,
        memory_limit: int = DEFAULT_MEMORY_LIMIT,
    ) -> None:
        _check_choice("strategy", strategy, STRATEGY_NAMES)
        _check_choice("dtype", dtype, tuple(STORAGE_DTYPES))
        _check_choice("compute_dtype", compute_dtype, tuple(COMPUTE_DTYPES))
        if isinstance(backbone, str):
            backbone = create_backbone(backbone, weights, layers, normalize=normalize)
        self.device = torch.device(device)
        self.backbone = backbone.to(self.device)
        self.channels = draw_channels(sum(backbone.channels), n_features, seed)
        self.n_features, self.seed = n_features, seed
        self.strategy, self.dtype, self.compute_dtype = strategy, dtype, compute_dtype
        self.protocol = get_protocol(protocol)
        self.memory_limit = memory_limit
        self._image_size: tuple[int, int] | None = None
        self._moments: TrainingMoments | None = None
        self._gaussians: PatchGaussians | None = None

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

    def fit(self, images: Tensor | Iterable[Any]) -> Self:
        """Learns one Gaussian per position from normal images, in one pass (section III-B).

        Args:
            images: batches (B, 3, H, W) of RGB images, uint8 or floating point in 0..1: a DataLoader, a
                list of tensors, or one tensor. Consumed once; never held.

        Raises:
            PadimBenchError: fewer than 2 images, NaN features, batches of differing size.
            StrategyInvalidError: the strategy's factorisation is wrong on this machine.
        """
        self._moments = self._gaussians = self._image_size = None
        try:
            self.partial_fit(images)
            self._gaussians = self._factorise(consume=True)
        except BaseException:
            self._image_size = None  # half a fit is none
            raise
        finally:
            self._moments = None
        return self

    def partial_fit(self, images: Tensor | Iterable[Any]) -> Self:
        """Adds images to what was seen so far; the Gaussians are factorised when next needed.

        Keeps the training moments, which ``fit`` frees. Raises as :meth:`fit` does.
        """
        if self._moments is None and self._gaussians is not None:
            raise PadimBenchError(
                "fit() and load() keep no training moments: build this model with partial_fit() alone"
            )
        for batch in _batches(images):
            features = self.backbone(batch)
            if self._moments is None:
                self._moments = self._new_moments(features, batch)
            elif tuple(batch.shape[2:]) != self._image_size:
                raise PadimBenchError(
                    f"images of {tuple(batch.shape[2:])} after images of {self._image_size}: resize them"
                )
            self._moments.update(self._moments.embedding.select(features))
        if self._moments is None:
            raise PadimBenchError("no training images: fit() got an empty iterable")
        self._gaussians = None
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
        self._gaussians = None
        return self

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
        selected = gaussians.embedding.select(self.backbone(images))
        size = (int(images.shape[2]), int(images.shape[3]))
        return score_features(gaussians, selected, size, self.protocol)

    def save(self, path: Path | str) -> None:
        """Writes the fitted model as safetensors with JSON metadata (no pickle); the backbone is only named.

        Raises PadimBenchError if the file cannot be written, which then is left as it was.
        """
        from safetensors.torch import save_file

        gaussians, path = self.gaussians, Path(path)
        about = {
            "format": MODEL_FORMAT,
            "arch": self.backbone.weights.arch,
            "weights": self.backbone.weights.to_dict(),
            "layers": self.backbone.layers,
            "normalize": self.backbone.normalize,
            "n_features": self.n_features,
            "seed": self.seed,
            "channels": self.channels,
            "strategy": self.strategy,
            "strategy_used": gaussians.strategy.name,
            "dtype": self.dtype,
            "compute_dtype": self.compute_dtype,
            "protocol": self.protocol.to_dict(),
            "epsilon": gaussians.epsilon,
            "image_size": self._image_size,
            "layer_grids": gaussians.embedding.layer_grids,
            "n_images": gaussians.n,
            "residual": gaussians.residual,
        }
        tensors = {f"state.{k}": v.contiguous() for k, v in gaussians.state.items()}
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            save_file(
                {"mean": gaussians.mean.contiguous(), **tensors},
                temporary,
                {"padim_bench": json.dumps(about)},
            )
            temporary.replace(path)
        except Exception as error:  # safetensors wraps OSError in its own type
            temporary.unlink(missing_ok=True)
            raise PadimBenchError(
                f"cannot write model {path} ({error}): check the folder and the free space"
            ) from error

    @classmethod
    def load(cls, path: Path | str, *, weights: str | Path | None = None, device: str | torch.device = "cpu") -> PaDiM:
        """Reads a saved model; it scores bit-identically on the same machine.

        Args:
            path: as given to :meth:`save`.
            weights: where the backbone's weights lie, if they are not a tag of the hub.
            device: where the model runs.

        Raises:
            PadimBenchError: not such a file, or the weights are not the ones it was fitted with.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                about = json.loads((file.metadata() or {}).get("padim_bench", "{}"))
                # Cloned, since products round differently on memory that is not aligned as torch's own is.
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError, ValueError) as error:
            raise PadimBenchError(f"cannot read model {path} ({error}): give a file that PaDiM.save wrote") from error
        if about.get("format") != MODEL_FORMAT:
            raise PadimBenchError(f"{path} is not a PaDiM model of format {MODEL_FORMAT}: fit and save it again")
        saved = about["weights"]
        if weights is None and not saved["trained"]:
            weights = f"random:{saved['seed']}"
        name = f"{about['arch']}.{saved['tag']}" if saved["tag"] else about["arch"]
        try:
            backbone = create_backbone(name, weights, about["layers"], normalize=about["normalize"])
        except WeightsNotFoundError as error:
            raise WeightsNotFoundError(
                f"{path} was fitted with weights {saved['label']}, which are not at hand ({error}): "
                "pass their file or directory as weights= to PaDiM.load"
            ) from error
        model = cls(
            backbone,
            n_features=about["n_features"],
            seed=about["seed"],
            strategy=about["strategy"],
            dtype=about["dtype"],
            compute_dtype=about["compute_dtype"],
            protocol=Protocol(**about["protocol"]),
            device=device,
        )
        if model.backbone.weights.sha256 != saved["sha256"]:
            raise PadimBenchError(
                f"{path} was fitted with weights {saved['label']}, sha256 {saved['sha256'][:12]}, but "
                f"{model.backbone.weights.label} was found: pass weights= to PaDiM.load"
            )
        model.channels = tuple(about["channels"])
        model._image_size = cast(tuple[int, int], tuple(about["image_size"]))
        grids = tuple((h, w) for h, w in about["layer_grids"])
        embedding = PatchEmbedding(model.backbone.channels, grids, model.channels)
        state = {k.removeprefix("state."): v for k, v in sorted(tensors.items()) if k != "mean"}
        strategy = STRATEGIES[about["strategy_used"]]
        model._gaussians = PatchGaussians(
            embedding,
            strategy,
            about["n_images"],
            about["epsilon"],
            tensors["mean"],
            state,
            about["residual"],
        )
        return model

    def _learned_from(self) -> tuple[object, ...]:
        """What two models must share for their moments to be of the same features."""
        backbone = self.backbone
        return backbone.weights.sha256, backbone.layers, backbone.normalize, self.compute_dtype

    def _new_moments(self, features: Sequence[Tensor], batch: Tensor) -> TrainingMoments:
        self._image_size = (int(batch.shape[2]), int(batch.shape[3]))
        grids = tuple((int(f.shape[2]), int(f.shape[3])) for f in features)
        embedding = PatchEmbedding(self.backbone.channels, grids, self.channels)
        return TrainingMoments(embedding, COMPUTE_DTYPES[self.compute_dtype], self.memory_limit)

    def _factorise(self, *, consume: bool) -> PatchGaussians:
        assert self._moments is not None
        return fit_gaussians(
            self._moments,
            epsilon=self.protocol.epsilon,
            strategy=self.strategy,
            storage=self.dtype,
            consume=consume,
        )


def score_features(
    gaussians: PatchGaussians, selected: Sequence[Tensor], size: tuple[int, int], protocol: Protocol
) -> tuple[Tensor, Tensor]:
    """Equation 2, then maps of ``size`` pixels and image scores, of features that the embedding selected."""
    distances = gaussians.squared_distances(selected).sqrt_()
    return anomaly_maps(distances.reshape(-1, *gaussians.embedding.grid), size, protocol)


def _check_choice(what: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise PadimBenchError(f"unknown {what} {value!r}: choose one of {', '.join(known)}")


def _batches(images: Tensor | Iterable[Any]) -> Iterable[Tensor]:
    """Batches of a tensor, a list of tensors, or a DataLoader that yields (images, labels, ...)."""
    if isinstance(images, Tensor):
        return torch.split(images, 32)
    return (b[0] if isinstance(b, (list, tuple)) else b for b in images)
