"""A fitted model as a file: safetensors with JSON metadata and a sha256 of all of it; no pickle."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NotRequired, TypeVar

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from padim_bench.errors import PadimBenchError, WeightsNotFoundError
from padim_bench.machine.files import clear_abandoned, replacing
from padim_bench.machine.reading import in_one_line, strict_json, why
from padim_bench.padim.backbones import Backbone, create_backbone
from padim_bench.padim.digests import tensors_digest, weights_identity
from padim_bench.padim.embedding import PatchEmbedding
from padim_bench.padim.gaussian import PatchGaussians
from padim_bench.padim.reduction import REDUCTIONS, reduced_embedding
from padim_bench.padim.strategies import STORAGE_DTYPES, STRATEGIES, strategy_names, working_dtype
from padim_bench.padim.training_scores import TrainingScores
from padim_bench.padim.weights import ENVIRONMENT_VARIABLE, check_safetensors
from padim_bench.protocols import Protocol

if TYPE_CHECKING:
    from padim_bench.padim.model import PaDiM

MODEL_FORMAT = "4"
_AGAIN = "fit and save it again"
_LARGEST_SIDE, _LARGEST_SIGMA = 1 << 16, 1e4  # pixels; of a map
Model = TypeVar("Model", bound="PaDiM")

_Whole = Annotated[int, Field(ge=0, lt=1 << 63)]
_Side = Annotated[int, Field(ge=1, le=_LARGEST_SIDE)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class SavedWeights(TypedDict):
    arch: str
    label: str
    sha256: str
    tensors_sha256: str
    mean: tuple[_Number, _Number, _Number]
    std: tuple[_Number, _Number, _Number]
    trained: bool
    tag: str | None
    seed: _Whole | None


class SavedScores(TypedDict):
    """Of training images, in their order, each by a model fitted without its fold."""

    folds: Annotated[int, Field(ge=2, lt=1 << 31)]
    scores: Annotated[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], Field(min_length=3)]


class About(TypedDict):
    """The metadata of a model's file; what each member is, PaDiM and PatchGaussians say."""

    format: str
    arch: str
    weights: SavedWeights
    layers: Annotated[tuple[str, ...], Field(min_length=1)]
    normalize: bool
    backbone_dtype: Literal["float32", "bfloat16"]
    n_features: Annotated[int, Field(ge=1, lt=1 << 31)] | None
    seed: Annotated[int, Field(ge=0)]
    reduction: str
    channels: Annotated[tuple[_Whole, ...], Field(min_length=1)]
    strategy: str
    strategy_used: str
    dtype: str
    compute_dtype: Literal["float32", "float64"]
    protocol: Protocol
    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    image_size: tuple[_Side, _Side]
    layer_grids: tuple[tuple[_Side, _Side], ...]
    n_images: Annotated[int, Field(ge=1, lt=1 << 63)]
    residual: _Number | None
    native_residual: NotRequired[_Number | None]
    half_products: NotRequired[Literal["auto", "native", "widened"]]
    computed_in: Literal["float32", "float64"]
    training_scores: NotRequired[SavedScores]


_ABOUT = TypeAdapter(About)


def save_model(model: PaDiM, path: Path | str) -> None:
    """What :meth:`PaDiM.save` promises."""
    from safetensors.torch import save_file

    gaussians, path = model.gaussians, Path(path)
    native = gaussians.native_residual
    about = {
        "format": MODEL_FORMAT,
        "arch": model.backbone.weights.arch,
        "weights": model.backbone.weights.to_dict(),
        "layers": model.backbone.layers,
        "normalize": model.backbone.normalize,
        "backbone_dtype": model.backbone.dtype,
        "n_features": model.config.n_features,
        "seed": model.config.seed,
        "reduction": model.config.reduction,
        "channels": gaussians.embedding.channels,
        "strategy": model.config.strategy,
        "strategy_used": gaussians.strategy.name,
        "dtype": model.config.storage,
        "compute_dtype": model.config.compute_dtype,
        "protocol": asdict(model.config.protocol),
        "epsilon": gaussians.epsilon,
        "image_size": model.image_size,
        "layer_grids": gaussians.embedding.layer_grids,
        "n_images": gaussians.n,
        "residual": gaussians.residual if math.isfinite(gaussians.residual) else None,
        "native_residual": native if native is not None and math.isfinite(native) else None,
        "half_products": model.config.half_products,
        "computed_in": gaussians.computed_in,
    }
    if (own := model.training_scores) is not None:
        about["training_scores"] = asdict(own)
    tensors = {"mean": gaussians.mean} | {f"state.{k}": v for k, v in gaussians.state.items()}
    if gaussians.embedding.projection is not None:
        tensors["projection"] = gaussians.embedding.projection
    tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
    text = json.dumps(about, allow_nan=False)
    try:
        clear_abandoned(path.parent, of=path.name)
        with replacing(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode  # as other files'; safetensors makes one that its owner alone can read
            save_file(tensors, temporary, {"padim_bench": text, "sha256": tensors_digest(tensors, text)})
            temporary.chmod(mode)
    except Exception as error:  # safetensors wraps OSError in its own type
        raise PadimBenchError(f"cannot write model {path} ({error}): check the folder and the free space") from error


def load_model(kind: type[Model], path: Path | str, weights: str | Path | None, device: str | torch.device) -> Model:
    """What :meth:`PaDiM.load` promises, as a ``kind``."""
    path = Path(path)
    about, tensors = _read(path)
    backbone = _backbone(path, about, weights)
    try:
        embedding = _embedding(about, backbone.channels, tensors.pop("projection", None))
        _check_tensors(about, embedding, tensors)
        model = kind(
            backbone,
            n_features=about["n_features"],
            seed=about["seed"],
            strategy=about["strategy"],
            storage=about["dtype"],
            compute_dtype=about["compute_dtype"],
            reduction=about["reduction"],
            half_products=about.get("half_products", "widened"),  # as before there was a choice
            protocol=about["protocol"],
            device=device,
        )
    except (PadimBenchError, ValueError) as error:
        raise PadimBenchError(f"model {path} does not hold together ({error}): {_AGAIN}") from error
    on_device = {name: tensor.to(device) for name, tensor in tensors.items()}
    gaussians = PatchGaussians(
        embedding,
        STRATEGIES[about["strategy_used"]],
        about["n_images"],
        about["epsilon"],
        on_device.pop("mean"),
        {name.removeprefix("state."): tensor for name, tensor in sorted(on_device.items())},
        float("nan") if about["residual"] is None else about["residual"],
        computed_in=about["computed_in"],
        native_residual=about.get("native_residual"),
        half_products=model.config.half_products,
    )
    model.use(gaussians, about["image_size"])
    if (own := about.get("training_scores")) is not None:
        model.training_scores = TrainingScores(own["folds"], own["scores"])
    return model


def is_model(path: Path) -> bool:
    """Whether it is a file that :func:`save_model` wrote, of this format or an earlier one, sound or not."""
    from safetensors import safe_open

    try:
        check_safetensors(path, "model", _AGAIN)
        with safe_open(path, framework="pt", device="cpu") as file:
            return "padim_bench" in (file.metadata() or {})
    except Exception:  # of safetensors' many kinds
        return False


def _read(path: Path) -> tuple[About, dict[str, Tensor]]:
    """What the model is, each member of the type that it has in use, and its tensors. Raises PadimBenchError."""
    from safetensors import safe_open

    check_safetensors(path, "model", f"give a file that PaDiM.save wrote, or {_AGAIN}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            # Cloned, since products round differently on memory that is not aligned as torch's own is.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 - not a dict
    except Exception as error:  # of safetensors' and torch's many kinds
        raise PadimBenchError(
            f"cannot read model {path} ({why(error)}): give a file that PaDiM.save wrote, or {_AGAIN}"
        ) from error
    text = metadata.get("padim_bench", "{}")
    try:
        about = strict_json(text.encode())
        found = about.get("format") if isinstance(about, dict) else None
        if found != MODEL_FORMAT:
            raise PadimBenchError(f"{path} is not a PaDiM model of format {MODEL_FORMAT} ({found!r}): {_AGAIN}")
        if metadata.get("sha256") != tensors_digest(tensors, text):
            raise ValueError("its content is not what its sha256 is of: it was damaged or edited")
        return _checked(text), tensors
    except ValueError as error:
        raise PadimBenchError(f"model {path} is not as PaDiM.save left it ({why(error)}): {_AGAIN}") from error


def _checked(text: str) -> About:
    """The metadata, each member of the type that it has in use. Raises ValueError, naming the member."""
    try:
        about = _ABOUT.validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(in_one_line(error)) from None
    except PadimBenchError as error:  # the protocol's own
        raise ValueError(str(error)) from None
    weights = about["weights"]
    for name, holds in {
        "strategy": about["strategy"] in strategy_names(),
        "strategy_used": about["strategy_used"] in STRATEGIES and about["strategy"] in {"auto", about["strategy_used"]},
        "dtype": about["dtype"] in STORAGE_DTYPES,
        "reduction": about["reduction"] in REDUCTIONS,
        "weights.arch": weights["arch"] == about["arch"],
        "epsilon": about["epsilon"] == about["protocol"].epsilon,
        "weights.seed": weights["trained"] == (weights["seed"] is None),
        "layer_grids": len(about["layer_grids"]) == len(about["layers"]),
        "training_scores": _holds(about.get("training_scores"), about["n_images"]),
        "protocol.maps.sigma": about["protocol"].maps.sigma <= _LARGEST_SIGMA,
    }.items():
        if not holds:
            raise ValueError(f"{name}: no model was saved with that")
    return about


def _holds(own: SavedScores | None, n_images: int) -> bool:
    return own is None or len(own["scores"]) == n_images >= own["folds"]


def _backbone(path: Path, about: About, weights: str | Path | None) -> Backbone:
    """With the weights that the model was fitted with. Raises PadimBenchError, naming the model's file."""
    saved = about["weights"]
    if weights is None and not saved["trained"]:
        weights = f"random:{saved['seed']}"
    name = f"{about['arch']}.{saved['tag']}" if saved["tag"] else about["arch"]
    try:
        backbone = create_backbone(
            name,
            weights,
            about["layers"],
            normalize=about["normalize"],
            dtype=about["backbone_dtype"],
            image_size=about["image_size"],
        )
    except WeightsNotFoundError as error:
        sought = weights is not None or saved["tag"] or os.environ.get(ENVIRONMENT_VARIABLE)
        where = f" ({error})" if sought else ""  # else only that a bare architecture names none
        raise WeightsNotFoundError(
            f"{path} was fitted with weights {saved['label']}, which are not at hand{where}: "
            "pass their file or directory as weights= to PaDiM.load, or as --weights"
        ) from error
    except PadimBenchError as error:
        raise PadimBenchError(f"the backbone of model {path} cannot be made ({error})") from error
    if backbone.weights.identity != weights_identity(saved["tensors_sha256"], saved["mean"], saved["std"]):
        raise PadimBenchError(
            f"{path} was fitted with weights {saved['label']}, sha256 {saved['sha256'][:12]}, but "
            f"{backbone.weights.label} was found: pass weights= to PaDiM.load, or --weights"
        )
    return backbone


def _embedding(about: About, layer_channels: tuple[int, ...], projection: Tensor | None) -> PatchEmbedding:
    """Of the saved channels. Raises ValueError or PadimBenchError if they are not those of the reduction."""
    total, n = sum(layer_channels), about["n_features"]
    kept, grids, reduction = about["channels"], about["layer_grids"], about["reduction"]
    if len(set(kept)) < len(kept) or max(kept) >= total:
        raise ValueError(f"channels: not different ones of {total}")
    if (projection is None) == REDUCTIONS[reduction].projects:
        raise ValueError(f"projection: not that of reduction {reduction}")
    if projection is not None and (
        projection.dtype != torch.float32
        or tuple(projection.shape) != (n or total, len(kept))
        or kept != tuple(range(total))
        or not _finite(projection)
    ):
        raise ValueError(f"projection: no {n or total} finite float32 directions of {total} channels")
    embedding = PatchEmbedding(layer_channels, grids, kept, projection)
    if projection is None:
        drawn = reduced_embedding(layer_channels, grids, reduction, n, about["seed"])
        if not drawn.channels == kept == embedding.channels:
            raise ValueError(f"channels: not those of reduction {reduction}, n_features {n}, seed {about['seed']}")
    return embedding


def _check_tensors(about: About, embedding: PatchEmbedding, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError, naming the tensor, where mean and state are not those of the strategy."""
    expected = dict(_expected(about, embedding))
    if odd := sorted(expected.keys() ^ tensors.keys()):
        raise ValueError(f"{odd[0]}: {'missing' if odd[0] in expected else 'no tensor of this strategy'}")
    for name, (shape, dtype) in expected.items():
        if tuple(tensors[name].shape) != shape or tensors[name].dtype != dtype:
            raise ValueError(f"{name}: {tuple(tensors[name].shape)} {tensors[name].dtype}, not {shape} {dtype}")
        if not _finite(tensors[name]):
            raise ValueError(f"{name}: NaN or infinity")


def _expected(about: About, embedding: PatchEmbedding) -> Iterator[tuple[str, tuple[tuple[int, ...], torch.dtype]]]:
    """Shape and dtype of every tensor that ``fit_gaussians`` leaves."""
    positions, d = embedding.n_positions, embedding.n_features
    stored = STORAGE_DTYPES[about["dtype"]]
    yield "mean", ((positions, d), working_dtype(stored))
    for name, (shape, dtype) in STRATEGIES[about["strategy_used"]].stored(about["n_images"], d, stored).items():
        yield f"state.{name}", ((positions, *shape), dtype)


def _finite(tensor: Tensor) -> bool:
    """A finite sum has finite terms and costs one pass; one that is not may have overflowed."""
    return bool(torch.isfinite(tensor.sum(dtype=torch.float32)) or torch.isfinite(tensor).all())
