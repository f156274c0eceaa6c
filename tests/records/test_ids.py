"""Ids of runs: pinned, the same after an option is added, and another for whatever decides a number."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import pytest

from padim_bench.data.drawn import Drawn
from padim_bench.padim.config import PaDiMConfig
from padim_bench.padim.digests import IMAGENET_MEAN, IMAGENET_STD
from padim_bench.protocols import CHOICES, PROTOCOLS
from padim_bench.records.canonical import chosen, plain
from padim_bench.records.config import Execution, RunConfig, read_config
from padim_bench.records.files import as_read
from tests.drawn_records import WEIGHTS, run_config, run_record

SPLIT, TENSORS = "b" * 64, "f" * 64
# Of every field another value.
OTHER: dict[str, dict[str, Any]] = {
    "model": {
        "backbone": "wide_resnet50_2", "layers": ("layer1",), "n_features": 200, "reduction": "none", "seed": 1,
        "fusion": "sum", "strategy": "dual", "storage": "float16", "compute_dtype": "float32",
        "backbone_dtype": "bfloat16", "half_products": "native", "protocol": PROTOCOLS["anomalib"], "method": "spade",
    },
    "execution": {"device": "cuda", "threads": 2, "batch_size": 32},
}  # fmt: skip


def test_the_id_of_a_run_is_pinned() -> None:
    """Records on disk are found by it: where this fails, all of them are lost, or SCHEMA_VERSION must rise."""
    assert chosen(replace(run_config(), weights="")) == {
        "dataset": "mvtec-ad",
        "category": "bottle",
        "model": {"backbone": "resnet18", "layers": ["layer1", "layer2", "layer3"]},
    }
    assert run_config().run_id(SPLIT, TENSORS) == "c0d23d43991dd257d2425d77424f7a24c77686fb32af4ea7fe8960504f83b3d8"
    varied = PROTOCOLS["paper"].vary(sigma=2.0, crop=None)
    other = run_config("grid", 3, protocol=varied, n_features=None, threads=2, extras=("pro_variants",))
    assert other.run_id(SPLIT, TENSORS) == "36a7ebfed60151556c141b2f8712682a1f1ab013bf66f34f10976fcb0bd20a29"


def test_what_goes_without_saying_in_an_id_is_pinned_too() -> None:
    """Where a default changes, all ids of runs that were as by default would stand for something else."""
    assert plain(RunConfig("d", "c", PaDiMConfig())) == {
        "dataset": "d",
        "category": "c",
        "model": {
            "backbone": "resnet18.tv_in1k", "layers": "paper", "n_features": 100, "reduction": "random", "seed": 0,
            "fusion": "concatenate", "strategy": "cholesky", "storage": "float32", "compute_dtype": "float64",
            "backbone_dtype": "float32", "half_products": "auto",
            "protocol": {
                "name": "paper",
                "images": {"resize": 256, "crop": 224, "interpolation": "bicubic", "rotation": 0.0, "version": 0},
                "masks": {"interpolation": "nearest", "compare_at": "protocol"},
                "maps": {"interpolation": "bicubic", "sigma": 4.0, "border": "reflect", "score_from": "smoothed"},
                "epsilon": 0.01,
                "source": PROTOCOLS["paper"].source,
            },
            "method": "padim",
        },
        "weights": "",
        "execution": {"device": "cpu", "threads": 1, "batch_size": 8},
        "extras": [],
        "every": 1,
    }  # fmt: skip


@dataclass(frozen=True)
class _Execution(Execution):
    """As it will be once it has a further option."""

    compiled: bool = False


def test_an_option_that_is_added_changes_no_id_but_where_it_is_chosen() -> None:
    before = run_config(threads=2)
    after = replace(before, execution=_Execution(threads=2))
    assert after.run_id(SPLIT, TENSORS) == before.run_id(SPLIT, TENSORS)
    chosen_now = replace(before, execution=_Execution(threads=2, compiled=True))
    assert chosen_now.run_id(SPLIT, TENSORS) != before.run_id(SPLIT, TENSORS)


def test_a_record_of_before_an_option_was_added_is_read_with_its_default() -> None:
    config = run_config(threads=2)
    stored = plain(config)
    del stored["model"]["fusion"], stored["execution"]["batch_size"], stored["every"]
    assert read_config(stored) == config


@pytest.mark.parametrize(
    ("part", "field"),
    [(part, f.name) for part, kind in (("model", PaDiMConfig), ("execution", Execution)) for f in fields(kind)],
)
def test_whatever_decides_a_number_decides_the_id(part: str, field: str) -> None:
    config = run_config()
    changed = replace(config, **{part: replace(getattr(config, part), **{field: OTHER[part][field]})})
    assert changed.run_id(SPLIT, TENSORS) != config.run_id(SPLIT, TENSORS)
    assert read_config(plain(changed)) == changed


@pytest.mark.parametrize(
    "changes", [{"dataset": "demo"}, {"category": "grid"}, {"extras": ("x",)}, {"every": 5}, {"trained": Drawn(8)}]
)
def test_what_it_is_of_decides_the_id(changes: dict[str, Any]) -> None:
    assert replace(run_config(), **changes).run_id(SPLIT, TENSORS) != run_config().run_id(SPLIT, TENSORS)


def test_a_whole_number_is_the_same_choice_as_its_float() -> None:
    for changes in ({"sigma": 2}, {"epsilon": 1}, {"rotation": 10}):
        whole = run_config(protocol=PROTOCOLS["paper"].vary(**changes))
        same = run_config(protocol=PROTOCOLS["paper"].vary(**{k: float(v) for k, v in changes.items()}))
        assert whole.run_id(SPLIT, TENSORS) == same.run_id(SPLIT, TENSORS)
        assert as_read(run_record(whole)).config == whole == same


def test_weights_that_are_used_with_another_normalisation_are_another_run() -> None:
    assert WEIGHTS.identity != WEIGHTS.tensors_sha256  # 0.5 and 0.2, which are not ImageNet's
    usual = replace(WEIGHTS, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    assert usual.identity == usual.tensors_sha256
    assert run_record(run_config(), weights=usual).id != run_record(run_config()).id


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_of_a_protocol_decides_the_id_and_prose_does_not(choice: str) -> None:
    other = next(
        p.choice(choice)
        for p in (PROTOCOLS["anomalib"], PROTOCOLS["xiahaifeng1995"], _TURNED, _AT_MASKS)
        if p.choice(choice) != PROTOCOLS["paper"].choice(choice)
    )
    paper = run_config()
    protocol = replace(PROTOCOLS["paper"].vary(**{choice: other}), name="paper")
    assert run_config(protocol=protocol).run_id(SPLIT, TENSORS) != paper.run_id(SPLIT, TENSORS)
    told = replace(PROTOCOLS["paper"], source="somebody else")
    assert run_config(protocol=told).run_id(SPLIT, TENSORS) == paper.run_id(SPLIT, TENSORS)


_TURNED = PROTOCOLS["paper"].vary(rotation=10.0, version=3, resize=300, sigma=2.0, score_from="raw", bits=12)
_AT_MASKS = PROTOCOLS["paper"].vary(compare_at="masks", mask_interpolation="bilinear")


def test_the_same_weights_in_another_file_are_the_same_run() -> None:
    config = run_config()
    copied = replace(config, weights="copy.safetensors (sha256 0123456789ab)")
    assert copied.run_id(SPLIT, TENSORS) == config.run_id(SPLIT, TENSORS)
    assert config.run_id(SPLIT, "e" * 64) != config.run_id(SPLIT, TENSORS)
    assert config.run_id("c" * 64, TENSORS) != config.run_id(SPLIT, TENSORS)
    assert isinstance(config, RunConfig)
