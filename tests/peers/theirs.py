"""Everything that touches anomalib, imported where it is used; its weights never come from a hub."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

LAYERS = ("layer1", "layer2", "layer3")
# It adds 1e-5 to the diagonal after 0.01, so that is the epsilon of everything compared with it.
EPSILON = 0.01 + 1e-5


def version() -> str | None:
    try:
        return metadata.version("anomalib")
    except metadata.PackageNotFoundError:
        return None


def quietly() -> None:
    """Its imports warn of other libraries' deprecations, which tells nobody anything here."""
    warnings.simplefilter("ignore")
    logging.getLogger("anomalib").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def gaussian() -> Any:
    from anomalib.models.components import MultiVariateGaussian

    return MultiVariateGaussian()


def map_generator() -> Any:
    from anomalib.models.image.padim.anomaly_map import AnomalyMapGenerator

    return AnomalyMapGenerator(sigma=4)


def model(channels: Sequence[int], backbone: str = "resnet18") -> Any:
    """Its PaDiM with our channels, untrained."""
    from anomalib.models.image.padim.torch_model import PadimModel

    built = PadimModel(backbone, list(LAYERS), pre_trained=False, n_features=len(channels))
    built.idx = torch.tensor(channels)
    return built.eval()


def metric(name: str) -> Callable[[Tensor, Tensor], float]:
    """Its "pro" or "auroc" of maps and masks. The public classes are these, fed from its own batches."""
    import cv2  # noqa: F401 - imported late otherwise, and no part of the work
    from anomalib.metrics.aupro import _AUPRO
    from anomalib.metrics.auroc import _AUROC

    def value(maps: Tensor, masks: Tensor) -> float:
        one = _AUPRO() if name == "pro" else _AUROC()
        one.update(maps, masks)
        return float(one.compute())

    return value


def whole_run(
    root: Path,
    category: str,
    *,
    state: dict[str, Tensor],
    backbone: str,
    channels: Sequence[int],
    side: int,
    bare: bool,
) -> dict[str, float]:
    """Images to metrics through its engine, without pictures.

    ``bare`` leaves out what its defaults do besides: a validation pass over the test set, and scores
    normalised by it. Its AUROC then meets raw distances, on which torchmetrics puts a sigmoid.
    """
    from anomalib.data import MVTecAD
    from anomalib.engine import Engine
    from anomalib.metrics import AUPRO, AUROC, Evaluator
    from anomalib.models import Padim

    evaluator = Evaluator(
        test_metrics=[
            AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
            AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_"),
            AUPRO(fields=["anomaly_map", "gt_mask"], prefix="pixel_"),
        ]
    )
    padim = Padim(
        backbone,
        list(LAYERS),
        pre_trained=False,
        n_features=len(channels),
        pre_processor=Padim.configure_pre_processor((side, side)),
        post_processor=not bare,
        evaluator=evaluator,
        visualizer=False,
    )
    padim.model.idx = torch.tensor(channels)
    load(padim.model.feature_extractor.feature_extractor, state)
    split = "none" if bare else "same_as_test"
    data = MVTecAD(root, category, train_batch_size=32, eval_batch_size=32, num_workers=0, val_split_mode=split)
    options = {"limit_val_batches": 0} if bare else {}
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(accelerator="cpu", default_root_dir=folder, enable_progress_bar=False, **options)
        engine.fit(padim, datamodule=data)
        (found,) = engine.test(padim, datamodule=data, verbose=False)
    return {
        "image_auroc": float(found["image_AUROC"]),
        "pixel_auroc": float(found["pixel_AUROC"]),
        "pro": float(found["pixel_AUPRO"]),
    }


def load(extractor: nn.Module, state: dict[str, Tensor]) -> None:
    """Fills a cut timm model; every tensor that it has must be there."""
    needed = extractor.state_dict()
    for name, old in needed.items():
        if name in state:
            needed[name] = state[name].to(old.dtype)
        elif not name.endswith("num_batches_tracked"):
            raise ValueError(f"no weights for {name}")
    extractor.load_state_dict(needed)
