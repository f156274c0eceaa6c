from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from padim_bench import PaDiM, PadimBenchError, create_backbone
from padim_bench.padim import backbones
from padim_bench.padim import weights as weights_module
from padim_bench.padim.layers import paper_layers
from padim_bench.padim.weights import resolve_weights

IMAGES = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def resnet_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole ResNet18, as the hub has it: with layer4, fc and num_batches_tracked."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    for key in state:
        if key.endswith("running_mean"):
            state[key] = torch.randn_like(state[key]) / 10
    save_file(state, path, {"note": "made for a test"})
    return path


def test_features_equal_timms_own_and_only_layers_in_use_are_there(resnet_file: Path) -> None:
    backbone = create_backbone("resnet18", resnet_file)
    model = timm.create_model("resnet18", pretrained=False, checkpoint_path=str(resnet_file)).eval()
    x = IMAGES.float() / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        expected = model.forward_intermediates(x, indices=[1, 2, 3], intermediates_only=True)
    for ours, theirs in zip(backbone(IMAGES), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    kept = {name.split(".")[0] for name, _ in backbone.model.named_parameters()}
    assert kept == {"conv1", "layer1", "layer2", "layer3"}  # bn1 is folded into conv1
    assert backbone.channels == (64, 128, 256)
    assert backbone.grids(224) == ((56, 56), (28, 28), (14, 14))
    assert backbone.weights.note == "made for a test"


def test_layers_past_the_last_one_are_never_run() -> None:
    backbone = create_backbone("resnet18", "random", ("layer1",))
    assert backbone.channels == (64,)
    assert {n.split(".")[0] for n, _ in backbone.model.named_parameters()} == {"conv1", "layer1"}
    assert len(backbone(IMAGES)) == 1


def test_uint8_and_unit_floats_are_the_same_images_and_normalised_ones_are_refused() -> None:
    backbone = create_backbone("resnet18", "random")
    for ours, theirs in zip(backbone(IMAGES), backbone(IMAGES.float() / 255), strict=True):
        assert torch.equal(ours, theirs)
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    normalised = (IMAGES.float() / 255 - mean) / std
    with pytest.raises(ValueError, match="normalize=False"):
        backbone(normalised)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        backbone(torch.full((1, 3, 64, 64), float("nan")))
    plain = create_backbone("resnet18", "random", normalize=False)
    for ours, theirs in zip(backbone(IMAGES), plain(normalised), strict=True):
        torch.testing.assert_close(ours, theirs)
    with pytest.raises(ValueError, match="expected"):
        backbone(IMAGES[0])


@pytest.mark.parametrize(
    ("arch", "option", "layers", "channels"),
    [
        ("wide_resnet50_2", "paper", ("layer1", "layer2", "layer3"), (256, 512, 1024)),
        ("tf_efficientnet_b5", "paper", ("blocks.1", "blocks.3", "blocks.4"), (40, 128, 176)),
        ("tf_efficientnet_b5", "from-zero", ("blocks.1", "blocks.4.0", "blocks.4"), (40, 176, 176)),
        ("tf_efficientnet_b5", "from-one", ("blocks.1.3", "blocks.3", "blocks.4.5"), (40, 128, 176)),
        ("tf_efficientnet_b4", "paper", ("blocks.1", "blocks.3", "blocks.4"), (32, 112, 160)),
    ],
)
def test_the_papers_layers(arch: str, option: str, layers: tuple[str, ...], channels: tuple[int, ...]) -> None:
    assert paper_layers(arch, option) == layers
    backbone = create_backbone(arch, "random", option)
    assert backbone.channels == channels
    assert backbone.grids(224)[0] == (56, 56)


def test_efficientnet_b5_readings_are_blocks_7_20_26_in_their_counting() -> None:
    depths = [len(stage) for stage in timm.create_model("tf_efficientnet_b5", pretrained=False).blocks]
    first = [sum(depths[:i]) for i in range(len(depths))]

    def index(name: str) -> int:
        parts = [int(p) for p in name.split(".")[1:]]
        return first[parts[0]] + (parts[1] if len(parts) > 1 else depths[parts[0]] - 1)

    assert [index(n) for n in paper_layers("tf_efficientnet_b5", "from-zero")] == [7, 20, 26]
    assert [index(n) + 1 for n in paper_layers("tf_efficientnet_b5", "from-one")] == [7, 20, 26]


@pytest.mark.parametrize(
    ("arch", "layers", "grids"),
    [
        ("convnext_atto", ("stages.0", "stages.1"), ((56, 56), (28, 28))),
        ("swin_tiny_patch4_window7_224", ("layers.0", "layers.1"), ((56, 56), (28, 28))),  # NHWC
        ("vit_tiny_patch16_224", ("blocks.2", "blocks.5"), ((14, 14), (14, 14))),  # tokens
    ],
)
def test_any_timm_model_with_layers_named_by_the_user(
    arch: str, layers: tuple[str, ...], grids: tuple[tuple[int, int], ...]
) -> None:
    backbone = create_backbone(arch, "random", layers)
    assert backbone.grids(224) == grids
    assert all(
        f.shape[1] == c and torch.isfinite(f).all() for f, c in zip(backbone(IMAGES), backbone.channels, strict=True)
    )


@pytest.mark.parametrize(
    ("arch", "layers", "message"),
    [
        (
            "swin_tiny_patch4_window7_224",
            "layers.0.blocks.0.attn",
            r"\(448, 49, 96\) for 7 images \(windows, perhaps\)",
        ),
        ("vit_tiny_patch16_224", "fc_norm", "no spatial grid"),
        ("resnet18", "layer1+fc", "no spatial grid"),
        ("resnet18", "layer1.0.downsample", "no layer 'layer1.0.downsample'"),
        ("crossvit_tiny_240", "blocks.0", "gives 2 maps: choose a module within it"),
        ("coat_tiny", "serial_blocks2", "never calls layer 'serial_blocks2'"),
        ("hrnet_w18_small", "stage9", "choose from stem, stage1, stage2, stage3, stage4$"),
        ("twins_svt_small", "blocks", r"choose from block\.0, block\.1, block\.2, block\.3$|never calls layer"),
    ],
)
def test_layers_without_a_map_are_refused_for_that_reason(arch: str, layers: str, message: str) -> None:
    with pytest.raises(PadimBenchError, match=message) as refused:
        create_backbone(arch, "random", layers)
    assert "\n" not in str(refused.value)
    assert "224" not in str(refused.value).replace(arch, "")  # the size has nothing to do with it


def test_a_layer_that_the_model_writes_to_later_is_what_it_was() -> None:
    """bn1's output, which the activation after it then changes in place."""
    both = create_backbone("resnet18", "random", "bn1+layer1", fold=False)
    alone = create_backbone("resnet18", "random", "bn1", fold=False)
    given = both(IMAGES)[0]
    assert float(given.min()) < 0
    assert torch.equal(given, alone(IMAGES)[0])
    folded = create_backbone("resnet18", "random", "bn1+layer1")(IMAGES)[0]
    torch.testing.assert_close(folded, given, rtol=1e-4, atol=1e-4)


def test_vit_tokens_keep_their_places() -> None:
    """A patch's token lands at the patch's cell: only there does a change of that patch act on the embedding."""
    backbone = create_backbone("vit_tiny_patch16_224", "random", ("patch_embed",))
    changed = IMAGES[:1].clone()
    changed[:, :, 16 * 3 : 16 * 4, 16 * 9 : 16 * 10] ^= 255
    difference = (backbone(changed)[0] - backbone(IMAGES[:1])[0]).abs().sum(dim=1)[0]
    assert torch.nonzero(difference > 1e-6).tolist() == [[3, 9]]


def test_untrained_weights_are_seeded_named_and_of_trained_magnitude() -> None:
    one, same, other = (create_backbone("resnet18", w) for w in ("random", "random:0", "random:1"))
    assert one.weights.sha256 == same.weights.sha256 != other.weights.sha256
    assert "untrained" in one.weights.label
    assert not one.weights.trained
    for a, b, c in zip(one(IMAGES), same(IMAGES), other(IMAGES), strict=True):
        assert torch.equal(a, b)
        assert not torch.allclose(a, c)
    for feature in (*one(IMAGES), *create_backbone("wide_resnet50_2", "random")(IMAGES)):
        assert 0.05 < float(feature.std()) < 5  # epsilon = 0.01 means what it does for trained features


@pytest.mark.parametrize(
    ("backbone", "weights", "message"),
    [
        ("resnet19", None, "unknown backbone 'resnet19'"),
        ("resnet18.tv_in2k", None, r"unknown tag .*resnet18\.tv_in1k"),
        ("resnet18", None, r"names no weights: add a tag \(.*resnet18\.tv_in1k"),
        ("resnet18", "missing.safetensors", "no such weights"),
        ("resnet18", "random:x", "whole number"),
    ],
)
def test_names_that_say_too_little_or_nothing(backbone: str, weights: str | None, message: str) -> None:
    with pytest.raises(PadimBenchError, match=message):
        resolve_weights(backbone, weights)


def test_layers_that_do_not_exist_or_are_not_the_papers() -> None:
    with pytest.raises(PadimBenchError, match=r"no layer 'layer9': choose from .*layer1, layer2, layer3, layer4$"):
        create_backbone("resnet18", "random", ("layer1", "layer9"))
    with pytest.raises(PadimBenchError, match="names no layers of convnext_atto: name them with --layers"):
        create_backbone("convnext_atto", "random")


def test_a_directory_gives_a_tag_only_the_file_of_that_tag(tmp_path: Path, resnet_file: Path) -> None:
    weights_module.hub_unreachable.cache_clear()
    shutil.copy(resnet_file, tmp_path / "resnet18.safetensors")
    bare = resolve_weights("resnet18", tmp_path)
    assert bare.sha256 == hashlib.sha256(resnet_file.read_bytes()).hexdigest()
    assert bare.label == f"resnet18.safetensors (sha256 {bare.sha256[:12]})"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(PadimBenchError, match=r"download https.*save it as .*--backbone resnet18 for"):
            resolve_weights("resnet18.tv_in1k", tmp_path)
    weights_module.hub_unreachable.cache_clear()
    with pytest.raises(PadimBenchError, match=r"not named resnet18\.tv_in1k\.safetensors"):
        resolve_weights("resnet18.tv_in1k", tmp_path / "resnet18.safetensors")
    shutil.move(tmp_path / "resnet18.safetensors", tmp_path / "resnet18.tv_in1k.safetensors")
    for name in ("resnet18", "resnet18.tv_in1k"):
        assert resolve_weights(name, tmp_path).label == "resnet18.tv_in1k"
    shutil.copy(resnet_file, tmp_path / "resnet18.a1_in1k.safetensors")
    with pytest.raises(PadimBenchError, match="several weights"):
        resolve_weights("resnet18", tmp_path)


def test_the_environment_names_a_directory(tmp_path: Path, resnet_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADIM_BENCH_WEIGHTS", str(resnet_file.parent))
    assert resolve_weights("resnet18").path == resnet_file


def test_an_unreachable_hub_is_asked_once_and_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    real = weights_module.urllib.request.urlopen

    def count(*args: object, **kwargs: object) -> object:
        asked.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(weights_module.urllib.request, "urlopen", count)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    weights_module.hub_unreachable.cache_clear()
    for _ in range(3):
        with pytest.raises(PadimBenchError, match=r"hub cannot be reached or has none \(.*refused.*model\.safetensors"):
            resolve_weights("wide_resnet50_2.tv_in1k")
    weights_module.hub_unreachable.cache_clear()
    assert len(asked) == 1


def test_weights_that_do_not_fit_are_named(tmp_path: Path, resnet_file: Path) -> None:
    with pytest.raises(PadimBenchError, match=r"do not fit wide_resnet50_2: .* missing"):
        create_backbone("wide_resnet50_2", resnet_file)
    with pytest.raises(PadimBenchError, match=r"do not fit resnet34"):
        create_backbone("resnet34", resnet_file)
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    save_file(state | {"layer2.0.conv1.weight": torch.zeros(1)}, tmp_path / "shape.safetensors")
    with pytest.raises(PadimBenchError, match=r"layer2\.0\.conv1\.weight is \(1,\), expected \(128, 64, 3, 3\)"):
        create_backbone("resnet18", tmp_path / "shape.safetensors")
    nan = state["layer2.0.conv1.weight"].index_fill(0, torch.tensor([3]), float("nan"))
    save_file(state | {"layer2.0.conv1.weight": nan}, tmp_path / "nan.safetensors")
    with pytest.raises(PadimBenchError, match=r"layer2\.0\.conv1\.weight has NaN"):
        create_backbone("resnet18", tmp_path / "nan.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(resnet_file.read_bytes()[:5000])
    with pytest.raises(PadimBenchError, match=r"cannot read weights .*torn"):
        create_backbone("resnet18", tmp_path / "torn.safetensors")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_torch_checkpoint_is_named_and_the_command_given_converts_it(tmp_path: Path, *, legacy: bool) -> None:
    state = {"state_dict": timm.create_model("resnet10t", pretrained=False).state_dict()}
    torch.save(state, tmp_path / "net.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        PadimBenchError, match=r"net\.pth \(it is a torch checkpoint, .*never opened here\): convert"
    ) as told:
        resolve_weights("resnet10t", tmp_path / "net.pth")
    assert "\n" not in str(told.value)
    with pytest.raises(
        PadimBenchError, match=r"net\.pth \(it is a torch checkpoint.*give a file that PaDiM\.save wrote"
    ):
        PaDiM.load(tmp_path / "net.pth")
    command = str(told.value).partition('python -c "')[2].removesuffix('"')
    subprocess.run([sys.executable, "-c", command], cwd=tmp_path, check=True, timeout=120)
    assert resolve_weights("resnet10t", tmp_path / "net.safetensors").trained


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "git-LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html></html>", "web page"),
        (b"abc", "fetch the file again"),
        (b"\xff" * 900, "fetch the file again"),
        ((200).to_bytes(8, "little") + b'{"a":', "torn"),
    ],
)
def test_files_that_hold_no_weights_are_named_for_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "resnet18.safetensors"
    path.write_bytes(content)
    for read in (lambda: resolve_weights("resnet18", tmp_path), lambda: PaDiM.load(path)):
        with pytest.raises(
            PadimBenchError, match=rf"cannot read (weights|model) .*resnet18\.safetensors.*{message}|model"
        ):
            read()
    with pytest.raises(PadimBenchError, match=message):
        resolve_weights("resnet18", path)


def test_a_header_whose_length_reads_like_a_pickle_is_none(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"note": ""})
    header = int.from_bytes(path.read_bytes()[:8], "little")
    save_file({"a": torch.zeros(1)}, path, {"note": "x" * (0x0280 - header)})
    assert path.read_bytes()[:2] == b"\x80\x02"  # as a pickle of protocol 2 does
    assert resolve_weights("resnet18", path).note.startswith("x")


def test_unused_layers_need_not_be_in_the_file(tmp_path: Path, resnet_file: Path) -> None:
    state = timm.create_model("resnet18", pretrained=False, checkpoint_path=str(resnet_file)).state_dict()
    trunk = {k: v for k, v in state.items() if not k.startswith(("layer4", "fc")) and "num_batches" not in k}
    save_file(trunk, tmp_path / "resnet18.safetensors")
    whole, part = create_backbone("resnet18", resnet_file), create_backbone("resnet18", tmp_path)
    for a, b in zip(whole(IMAGES), part(IMAGES), strict=True):
        assert torch.equal(a, b)


def test_images_of_another_size_have_another_grid() -> None:
    backbone = create_backbone("resnet18", "random")
    assert backbone.grids(256)[0] == (64, 64)
    bigger = functional.interpolate(IMAGES.float() / 255, size=(256, 256))
    assert backbone(bigger)[0].shape == (2, 64, 64, 64)


def test_untrained_weights_do_not_depend_on_the_layers_in_use_or_on_threads(threads: int) -> None:
    one, three = create_backbone("resnet18", "random", ("layer1",)), create_backbone("resnet18", "random")
    torch.testing.assert_close(one(IMAGES)[0], three(IMAGES)[0], rtol=1e-5, atol=1e-6)


def test_images_that_are_not_square_keep_their_axes() -> None:
    wide = torch.zeros(1, 3, 256, 320, dtype=torch.uint8)  # layer1 has 64 channels, 64 rows and 80 columns
    first, *_ = create_backbone("resnet18", "random")(wide)
    assert first.shape == (1, 64, 64, 80)


def test_a_model_is_built_for_the_images_and_refuses_others_in_a_line(resnet_file: Path) -> None:
    fixed = create_backbone("vit_tiny_patch16_384", "random", ("blocks.1",))  # 384 pixels, unless timm is told
    assert fixed.grids(224) == ((14, 14),)
    assert not fixed.any_size
    with pytest.raises(PadimBenchError, match=r"was built for images of 224x224 pixels, not 256x256: resize them"):
        fixed(torch.zeros(1, 3, 256, 256, dtype=torch.uint8))
    wide = create_backbone("vit_tiny_patch16_224", "random", ("blocks.1",), image_size=(224, 288))
    assert wide(torch.zeros(1, 3, 224, 288, dtype=torch.uint8))[0].shape == (1, 192, 14, 18)
    assert create_backbone("resnet18", resnet_file, image_size=64).any_size
    with pytest.raises(PadimBenchError, match=r"eca_halonext26ts does not take images of 224x224.*but of 256x256"):
        create_backbone("eca_halonext26ts", "random", ("stages.2",))  # blocks of 8x8; stages.1 has none, and runs


def test_position_embeddings_of_a_file_are_resampled_as_timm_does(tmp_path: Path) -> None:
    arch, layers = "deit_tiny_patch16_224", ("blocks.0", "blocks.2")
    torch.manual_seed(0)
    whole = timm.create_model(arch, pretrained=False)
    nn.init.normal_(whole.pos_embed)
    state = whole.state_dict()
    save_file(state, tmp_path / f"{arch}.safetensors")
    with torch.no_grad():
        overlay = {"state_dict": state, "custom_load": False}
        theirs = timm.create_model(arch, pretrained=True, img_size=160, pretrained_cfg_overlay=overlay).eval()
        images = torch.rand(2, 3, 160, 160)
        expected = theirs.forward_intermediates(images, indices=[0, 2], intermediates_only=True)
    ours = create_backbone(arch, tmp_path, layers, image_size=160, normalize=False)
    assert ours.resampled == ("pos_embed",)
    for found, right in zip(ours(images), expected, strict=True):
        assert found.shape == (2, 192, 10, 10)
        torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
    assert create_backbone(arch, tmp_path, layers).resampled == ()


def test_dinov2_runs_at_the_papers_size() -> None:
    backbone = create_backbone("vit_small_patch14_dinov2", "random", "blocks.3+blocks.6")
    assert backbone.grids(224) == ((16, 16), (16, 16))


def test_bfloat16_is_checked_against_float32_and_gives_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact, rounded = (create_backbone("resnet18", "random", dtype=dtype) for dtype in ("float32", "bfloat16"))
    errors = []
    for feature, right in zip(rounded(images), exact(images), strict=True):
        assert feature.dtype == torch.float32
        errors.append(float((feature - right).norm() / right.norm()))
    assert rounded.check_dtype(images) == pytest.approx(max(errors), rel=1e-3)
    assert 1e-4 < max(errors) < backbones.BACKBONE_ERROR_LIMIT
    assert exact.check_dtype(images) == 0
    monkeypatch.setattr(backbones, "BACKBONE_ERROR_LIMIT", 1e-6)
    with pytest.raises(PadimBenchError, match=r"use float32 \(--backbone-dtype"):
        rounded.check_dtype(images)
    with pytest.raises(PadimBenchError, match="float32, bfloat16"):
        create_backbone("resnet18", "random", dtype="float16")
