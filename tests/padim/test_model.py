from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from padim_bench import PROTOCOLS, PaDiM, PadimBenchError, create_backbone, load_images
from padim_bench.data.samples import Sample
from padim_bench.errors import DataWarning
from padim_bench.padim.anomaly_map import anomaly_maps
from padim_bench.padim.equations import distances
from padim_bench.padim.gaussian import PatchGaussians, fit_gaussians
from padim_bench.padim.moments import TrainingMoments
from padim_bench.padim.sharing import FOLDED_BATCHES, training_cost

GENERATOR = torch.Generator().manual_seed(0)
TRAIN = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=GENERATOR)
TEST = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=GENERATOR)


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    return create_backbone("resnet18", "random")


def small(backbone: torch.nn.Module, **options: object) -> PaDiM:
    return PaDiM(backbone, **({"n_features": 20, "seed": 3} | options))


def test_maps_are_the_papers_equations(backbone: torch.nn.Module) -> None:
    model = small(backbone, n_features=100).fit(TRAIN)
    embedding = model.gaussians.embedding
    exact = distances(*(embedding.embed(backbone(i)).flatten(2) for i in (TRAIN, TEST)), 0.01)
    expected, scores = anomaly_maps(torch.from_numpy(exact).reshape(3, 16, 16), (64, 64), PROTOCOLS["paper"])
    found, found_scores = model.score(TEST)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found_scores, scores, rtol=1e-5, atol=1e-5)


def test_fit_takes_a_tensor_a_list_a_generator_or_a_loader_and_consumes_it_once(backbone: torch.nn.Module) -> None:
    expected = small(backbone).fit(TRAIN).score(TEST)[0]
    loader = DataLoader(TensorDataset(TRAIN, torch.zeros(8)), batch_size=3)
    for images in (list(TRAIN.split(3)), iter(TRAIN.split(5)), loader):
        torch.testing.assert_close(small(backbone).fit(images).score(TEST)[0], expected, rtol=1e-5, atol=1e-5)


class Claimed:
    """Batches of two that say how many images there are."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __iter__(self) -> Iterator[Tensor]:
        return iter(TRAIN.split(2))

    def __length_hint__(self) -> int:
        return self.n // 2


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of features that the moments of each fit may hold, as they come."""
    found: list[int] = []

    def fit(moments: TrainingMoments, **options: Any) -> PatchGaussians:
        found.append(moments.memory_limit)
        return fit_gaussians(moments, **options)

    monkeypatch.setattr("padim_bench.padim.model.fit_gaussians", fit)
    return found


def test_a_fit_takes_no_more_than_its_limit_or_all_features_or_the_least_that_is_folded(
    backbone: torch.nn.Module, rooms: list[int]
) -> None:
    one = training_cost(small(backbone).fit(TRAIN).gaussians.embedding, torch.float64, 1, 1)
    least = one.moments + 2 * FOLDED_BATCHES * one.held
    for limit in (1, one.moments // 2, one.moments, one.moments + 20 * one.held, 3 * one.moments):
        for n in (20, 1000, 10**6):
            small(backbone, memory_limit=limit).fit(Claimed(n))
            needed = n * one.held if rooms[-1] >= n * one.held else one.moments + rooms[-1]
            assert needed <= max(limit, min(n * one.held, least))


def test_a_fit_that_knows_how_many_images_there_are_holds_what_fits(
    backbone: torch.nn.Module, rooms: list[int], tmp_path: Path
) -> None:
    one = training_cost(small(backbone, n_features=100).fit(TRAIN).gaussians.embedding, torch.float64, 1, 1)
    limit = one.moments // 2
    assert 8 * one.held < limit
    samples = []
    for i, image in enumerate(TRAIN):
        path = tmp_path / f"{i}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        samples.append(Sample(path, 0, "good"))
    protocol = PROTOCOLS["paper"].vary(resize=64, crop=64)
    loader = DataLoader(TensorDataset(TRAIN), batch_size=3)
    given = (TRAIN, TRAIN.split(3), loader, load_images(samples, protocol, 3), (x for x in TRAIN.split(3)))
    for images in given:
        small(backbone, n_features=100, memory_limit=limit).fit(images)
    *known, unknown = rooms[1:]
    assert known == [limit] * 4
    assert unknown == 3 * FOLDED_BATCHES * one.held


def test_partial_fits_and_merged_models_score_as_one_fit(backbone: torch.nn.Module) -> None:
    expected = small(backbone).fit(TRAIN).score(TEST)[0]
    for limit in (1 << 30, 1):
        stepwise = small(backbone, memory_limit=limit)
        for batch in TRAIN.split(3):
            stepwise.partial_fit([batch])
        torch.testing.assert_close(stepwise.score(TEST)[0], expected, rtol=1e-4, atol=1e-5)
        left = small(backbone, memory_limit=limit).partial_fit(TRAIN[:3])
        left.score(TEST)  # scoring in between takes nothing away
        left.merge(small(backbone).partial_fit(TRAIN[3:]))
        torch.testing.assert_close(left.score(TEST)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["cholesky", "auto"])
def test_one_image_has_a_model_and_a_warning_and_may_be_added_to(
    backbone: torch.nn.Module, tmp_path: Path, strategy: str
) -> None:
    with pytest.warns(DataWarning, match="1 training image has no covariance"):
        model = small(backbone, strategy=strategy).fit(TRAIN[:1])
    embedding = model.gaussians.embedding
    one, others = (embedding.embed(backbone(i)).flatten(2).double() for i in (TRAIN[:1], TEST))
    distances = ((others - one).square().sum(dim=1) / 0.01).sqrt()
    expected, _ = anomaly_maps(distances.reshape(3, 16, 16), (64, 64), PROTOCOLS["paper"])
    found, _ = model.score(TEST)
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-5)
    model.save(tmp_path / "one.safetensors")
    torch.testing.assert_close(PaDiM.load(tmp_path / "one.safetensors").score(TEST)[0], found, rtol=0, atol=0)

    first, second = (small(backbone, strategy=strategy).partial_fit(TRAIN[i : i + 1]) for i in (0, 1))
    with pytest.warns(DataWarning, match="1 training image"):
        torch.testing.assert_close(first.score(TEST)[0], found, rtol=1e-6, atol=1e-6)
    both = small(backbone, strategy=strategy).fit(TRAIN[:2]).score(TEST)[0]
    torch.testing.assert_close(first.merge(second).score(TEST)[0], both, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("strategy", ["explicit", "cholesky", "whitening", "woodbury", "dual", "diagonal", "auto"])
def test_a_loaded_model_scores_bit_identically(
    backbone: torch.nn.Module, tmp_path: Path, strategy: str, storage: str
) -> None:
    model = small(backbone, strategy=strategy, storage=storage).fit(TRAIN)
    model.save(tmp_path / "model.safetensors")
    loaded = PaDiM.load(tmp_path / "model.safetensors")
    for ours, theirs in zip(loaded.score(TEST), model.score(TEST), strict=True):
        assert torch.equal(ours, theirs)
    assert loaded.gaussians.state_bytes == model.gaussians.state_bytes
    assert (tmp_path / "model.safetensors").stat().st_size < model.gaussians.state_bytes + 10_000
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


def test_model_files_say_what_they_are_without_a_path(backbone: torch.nn.Module, tmp_path: Path) -> None:
    from safetensors import safe_open

    path = tmp_path / "model.safetensors"
    small(backbone).fit(TRAIN).save(path)
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["padim_bench"])
    assert about["weights"]["sha256"] == backbone.weights.sha256
    assert about["protocol"]["epsilon"] == 0.01
    assert len(about["channels"]) == 20
    assert str(tmp_path) not in json.dumps(about)


def test_files_that_are_no_model_or_of_other_weights_are_refused(backbone: torch.nn.Module, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    small(backbone).fit(TRAIN).save(path)
    with pytest.raises(PadimBenchError, match=r"fitted with weights untrained.*pass weights="):
        PaDiM.load(path, weights="random:1")
    (tmp_path / "torn").write_bytes(path.read_bytes()[:-10])
    save_file({"mean": torch.zeros(1)}, tmp_path / "other")
    for name, message in (("torn", "cannot read"), ("missing", "cannot read"), ("other", "not a PaDiM model")):
        with pytest.raises(PadimBenchError, match=message):
            PaDiM.load(tmp_path / name)
    with pytest.raises(PadimBenchError, match="cannot write model"):
        small(backbone).fit(TRAIN).save(tmp_path / "no" / "such" / "folder.safetensors")


def test_what_cannot_be_done_says_why(backbone: torch.nn.Module) -> None:
    model = small(backbone)
    with pytest.raises(PadimBenchError, match="not fitted"):
        model.score(TEST)
    with pytest.raises(PadimBenchError, match="empty iterable"):
        model.fit([])
    with pytest.raises(PadimBenchError, match="after images of"):
        model.fit([TRAIN, TRAIN[:, :, :32, :32]])
    model.fit(TRAIN)
    with pytest.raises(PadimBenchError, match="fitted on"):
        model.score(TEST[:, :, :32, :32])
    with pytest.raises(PadimBenchError, match="keep no training moments"):
        model.partial_fit(TRAIN)
    with pytest.raises(PadimBenchError, match="partial_fit"):
        model.merge(small(backbone).partial_fit(TRAIN))
    with pytest.raises(PadimBenchError, match="cannot be merged"):
        small(backbone).partial_fit(TRAIN).merge(small(backbone, seed=4).partial_fit(TRAIN))
    for option in ({"strategy": "lu"}, {"storage": "int8"}, {"compute_dtype": "float16"}, {"protocol": "none"}):
        with pytest.raises(PadimBenchError, match="choose one of"):
            small(backbone, **option)


def images_at(level: int, n: int) -> Tensor:
    noise = torch.randint(0, 30, (n, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(level))
    return noise + level


def test_an_odd_patch_is_found_where_it_is(backbone: torch.nn.Module) -> None:
    model = small(backbone, n_features=None).fit(images_at(100, 20))
    odd = images_at(100, 2)
    odd[1, :, 40:52, 8:20] = 255
    maps, scores = model.score(odd)
    assert scores[1] > 1.5 * scores[0]
    row, column = divmod(int(maps[1].argmax()), 64)
    assert 36 <= row <= 56
    assert 4 <= column <= 24


def test_maps_may_be_changed_in_place(backbone: torch.nn.Module) -> None:
    maps, _ = small(backbone).fit(TRAIN).score(TEST)
    maps -= maps.min()
    assert maps.min() == 0


def test_half_a_fit_is_none(backbone: torch.nn.Module) -> None:
    def broken() -> object:
        yield TRAIN
        raise OSError("the disk has gone")

    model = small(backbone)
    with pytest.raises(OSError, match="gone"):
        model.fit(broken())
    with pytest.raises(PadimBenchError, match="not fitted"):
        model.score(TEST)


def test_dtype_is_an_older_name_of_storage(backbone: torch.nn.Module) -> None:
    assert small(backbone).config.storage == "float32"
    assert small(backbone, dtype="float16").config == small(backbone, storage="float16").config
    assert small(backbone, storage="float16", dtype="float16").config.storage == "float16"
    with pytest.raises(PadimBenchError, match="give storage alone"):
        small(backbone, storage="float16", dtype="float32")


def test_models_of_other_layers_or_dtype_are_not_merged_and_one_with_itself_is_twice(
    backbone: torch.nn.Module,
) -> None:
    model = small(backbone).partial_fit(TRAIN)
    with pytest.raises(PadimBenchError, match="cannot be merged"):
        model.merge(small(backbone, compute_dtype="float32").partial_fit(TRAIN))
    assert model.merge(model).gaussians.n == 16


def test_what_it_was_computed_in_outlives_saving(backbone: torch.nn.Module, tmp_path: Path) -> None:
    for strategy, computed in (("dual", "float32"), ("cholesky", "float64")):
        small(backbone, strategy=strategy).fit(TRAIN).save(tmp_path / f"{strategy}.safetensors")
        assert PaDiM.load(tmp_path / f"{strategy}.safetensors").gaussians.computed_in == computed
