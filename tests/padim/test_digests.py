"""Digests of tensors: the same numbers have the same, whatever file they lie in."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from padim_bench.padim.digests import tensors_digest
from padim_bench.padim.weights import resolve_weights

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "empty": torch.empty(0)}


def test_order_and_container_change_nothing_and_every_name_shape_dtype_and_number_does(tmp_path: Path) -> None:
    digest = tensors_digest(TENSORS)
    assert tensors_digest(dict(reversed(TENSORS.items()))) == digest
    others = [
        {"c": TENSORS["a"], "b": TENSORS["b"], "empty": TENSORS["empty"]},
        TENSORS | {"a": TENSORS["a"].reshape(3, 2)},
        TENSORS | {"a": TENSORS["a"].double()},
        TENSORS | {"a": TENSORS["a"] + 1e-6},
        {"a": TENSORS["a"], "b": TENSORS["b"]},
    ]
    assert len({digest, tensors_digest(TENSORS, "text"), *map(tensors_digest, others)}) == len(others) + 2

    found = []
    for i, note in enumerate(("one", "another")):
        path = tmp_path / str(i) / "resnet18.safetensors"
        path.parent.mkdir()
        save_file(TENSORS, path, {"note": note})
        found.append(resolve_weights("resnet18", path))
    assert found[0].sha256 != found[1].sha256
    assert found[0].tensors_sha256 == found[1].tensors_sha256 == digest


def test_large_tensors_are_hashed_whole() -> None:
    large = torch.zeros(5_000_000)  # 20 MB, over more than one piece
    changed = large.clone()
    changed[-1] = 1
    assert tensors_digest({"a": large}) != tensors_digest({"a": changed})
