"""Every family of timm: our layers are its own intermediate maps, of the same weights and images."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from padim_bench import PadimBenchError, create_backbone
from padim_bench.padim.folding import relative_error
from padim_bench.padim.layers import empty_model, feature_names, find_layers
from padim_bench.padim.untrained import fill_quickly

# By module of timm's registry the model with the fewest parameters.
FAMILIES = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
LARGE = {
    "byoanet": "attention of many seconds an image on a CPU",
    "beit": "87 million parameters",
    "deepseek_vit": "412 million parameters",
    "gemma4_vit": "167 million parameters",
    "inception_resnet_v2": "56 million parameters",
    "mobilenetv5": "83 million parameters",
    "naflexvit": "86 million parameters",
    "nasnet": "89 million parameters",
    "pnasnet": "86 million parameters",
    "qwen3_vit": "87 million parameters",
    "sequencer": "recurrent layers of many seconds an image on a CPU",
    "vgg": "133 million parameters",
    "vision_transformer_sam": "86 million parameters",
}
ALL = os.environ.get("PADIM_BENCH_ALL_FAMILIES") == "1"
# Of timm's names those that are two maps at once; a module within each gives one.
WITHIN = {"crossvit": ("blocks.0.blocks.0", "blocks.1.blocks.1")}
LARGER = {"byoanet": 256}  # takes no other size


TWO_SIZES_BELOW = 3_000_000  # parameters


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small models gain little from more, and wait for one another on a machine that is in use."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def smallest() -> Iterator[Any]:
    for family, arch in FAMILIES.items():
        skip = pytest.mark.skipif(not ALL, reason=f"{LARGE.get(family)}: with PADIM_BENCH_ALL_FAMILIES=1")
        yield pytest.param(family, arch, marks=[skip] if family in LARGE else [], id=family)


def test_no_family_of_timm_is_missing() -> None:
    modules = {timm.models.model_entrypoint(name).__module__.rpartition(".")[2] for name in timm.list_models()}
    assert modules - FAMILIES.keys() == set()
    assert LARGE.keys() <= FAMILIES.keys()


@pytest.mark.parametrize(("family", "arch"), list(smallest()))
def test_layers_are_timms_own_maps(family: str, arch: str, tmp_path: Path) -> None:
    if not timm.is_model(arch):
        pytest.skip(f"timm {timm.__version__} has no {arch}")
    shapes = empty_model(arch)
    names = [name for name in feature_names(shapes) if name and feature_names(shapes).count(name) == 1][:3]
    layers = WITHIN.get(family, tuple(names))
    first = LARGER.get(family, 224)
    compare(arch, layers, first, tmp_path)
    if sum(p.numel() for p in shapes.parameters()) < TWO_SIZES_BELOW:
        try:
            find_layers(arch, layers, (160, 160))
        except PadimBenchError as error:
            assert "does not take images of 160x160 pixels" in str(error)  # noqa: PT017 - or it works
        else:
            compare(arch, layers, 160, tmp_path)


def compare(arch: str, layers: tuple[str, ...], size: int, folder: Path) -> None:
    """Our features of drawn weights, read from a file, with timm's own intermediate maps, both in float64.

    In float32 the two add up in other orders, and drawn weights let values grow: where repvit's are 3e3, timm's own
    float32 maps are 8e-5 off its float64 ones, nextvit's 2e-5. In float64 nothing but rounding of 1e-16 an
    operation is left between them, 1e-13 after repvit's layers.
    """
    torch.manual_seed(0)
    options = find_layers(arch, layers, (size, size)).options
    model: Any = timm.create_model(arch, pretrained=False, **options).eval()
    fill_quickly(model)
    # Clones, since some models hold one tensor under two names.
    state = {k: v.clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()}
    save_file(state, folder / f"{arch}.safetensors")
    names = feature_names(model)
    wanted = {"indices": [names.index(n) for n in layers], "stop_early": True} if layers[0] in names else {}
    images = torch.rand(1, 3, size, size)
    with torch.no_grad():
        maps = model.double().forward_intermediates(
            images.double(), output_fmt="NCHW", norm=False, intermediates_only=True, **wanted
        )
    # Folding, which rounds new weights to float32, has tests and a limit of its own.
    ours = create_backbone(arch, folder, layers, image_size=size, normalize=False, fold=False).double()
    ours.model.register_forward_pre_hook(lambda _model, given: (given[0].double(),))
    for layer, found in zip(layers, ours(images), strict=True):
        candidates = [maps[layers.index(layer)]] if wanted else [m for m in maps if m.shape == found.shape]
        assert found.dtype == torch.float64
        assert min(relative_error(found, right) for right in candidates if found.shape == right.shape) < 1e-10, layer


@pytest.mark.parametrize(
    ("arch", "layers"),
    [
        ("vit_tiny_patch16_224", "blocks.0+blocks.2"),
        ("swin_tiny_patch4_window7_224", "layers.0"),
        ("levit_128s", "stages.0"),
    ],
)
def test_without_timms_maps_a_layer_is_tried_and_found_alike(
    arch: str, layers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    known = create_backbone(arch, "random", layers)(images)
    owner = next(c for c in type(empty_model(arch)).__mro__ if "forward_intermediates" in vars(c))
    monkeypatch.delattr(owner, "forward_intermediates")  # as in families that have none
    find_layers.cache_clear()
    for tried, right in zip(create_backbone(arch, "random", layers)(images), known, strict=True):
        assert torch.equal(tried, right)
    find_layers.cache_clear()


@pytest.mark.parametrize("layer", ["blocks.0", "blocks.1", "blocks.4.mlp"])
def test_tokens_out_of_order_land_where_they_are_from(layer: str) -> None:
    """hiera's, which come unit by unit: the map changes most where the image does."""
    backbone = create_backbone("hiera_tiny_224", "random", layer)
    images = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    images[1, :, 32:64, 128:160] = 1 - images[1, :, 32:64, 128:160]
    one, other = backbone(images)[0]
    changed = (one - other).square().sum(dim=0)
    row, column = divmod(int(changed.argmax()), changed.shape[1])
    side = 224 // len(changed)
    assert (row * side // 32, column * side // 32) == (1, 4)
