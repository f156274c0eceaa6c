"""Which weights a backbone gets, and what they may be called.

timm's bare names load other weights than the paper's, so nothing is ever assumed: a tag
(``resnet18.tv_in1k``), a file, a directory of files, or ``random`` is named by the user.
"""

from __future__ import annotations

import hashlib
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from padim_bench.errors import PadimBenchError, WeightsNotFoundError
from padim_bench.padim.digests import IMAGENET_MEAN, IMAGENET_STD, tensors_digest, weights_identity
from padim_bench.padim.paper import PAPER_BACKBONES

ENVIRONMENT_VARIABLE = "PADIM_BENCH_WEIGHTS"
_HUB_TIMEOUT_S = 4.0


@dataclass(frozen=True)
class Weights:
    """Weights that a backbone can load.

    Attributes:
        arch: timm architecture name, without tag.
        label: how records and tables name them: a tag, a file name with its digest, or untrained.
        sha256: of the file; for untrained weights of their seed's name.
        tensors_sha256: of the tensors, names and shapes, whatever file they lie in.
        trained: False for ``random``.
        mean, std: the normalisation they expect, per RGB channel on a 0..1 scale.
        path: the safetensors file; None for ``random``.
        tag: of timm's, for a file named after it or fetched by it.
        seed: of untrained weights.
        note: what the file's metadata says of itself.
    """

    arch: str
    label: str
    sha256: str
    tensors_sha256: str
    trained: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    path: Path | None = None
    tag: str | None = None
    seed: int | None = None
    note: str = ""

    @property
    def name(self) -> str:
        """Of the backbone with these weights: the architecture, with the tag where there is one."""
        return f"{self.arch}.{self.tag}" if self.tag else self.arch

    @property
    def identity(self) -> str:
        """What decides numbers, and so is part of ids; see ``digests.weights_identity``."""
        return weights_identity(self.tensors_sha256, self.mean, self.std)

    def to_dict(self) -> dict[str, Any]:
        """For records: everything but where the file lies."""
        fields = asdict(self)
        del fields["path"]
        return fields


def split_name(backbone: str) -> tuple[str, str | None]:
    """``resnet18.tv_in1k`` -> ("resnet18", "tv_in1k"); a bare name has no tag.

    Raises PadimBenchError for an architecture or tag that timm does not know.
    """
    from padim_bench.padim.loading_timm import timm

    arch, _, tag = backbone.partition(".")
    if not timm.is_model(arch):
        close = timm.list_models(f"*{arch}*")[:5] or [b.arch for b in PAPER_BACKBONES.values() if not b.stand_in_for]
        raise PadimBenchError(f"unknown backbone {arch!r}: timm has {', '.join(close)}, ...")
    if tag and tag not in known_tags(arch):
        raise PadimBenchError(f"unknown tag in {backbone!r}: timm has {_tag_list(arch)}")
    return arch, tag or None


@cache
def known_tags(arch: str) -> tuple[str, ...]:
    """The tags of timm's pretrained weights of an architecture."""
    from padim_bench.padim.loading_timm import timm

    names = timm.list_pretrained(f"{arch}.*")
    return tuple(n.partition(".")[2] for n in names)


def _tag_list(arch: str) -> str:
    return ", ".join(f"{arch}.{tag}" for tag in known_tags(arch)) or "none"


def resolve_weights(backbone: str, weights: str | Path | None = None) -> Weights:
    """Finds the weights of ``backbone``: a named file or directory, the environment's, or timm's hub.

    Args:
        backbone: a timm name, with tag (``resnet18.tv_in1k``) or bare.
        weights: a safetensors file, a directory of ``<arch>.<tag>.safetensors`` and
            ``<arch>.safetensors`` files, ``random`` or ``random:SEED``; None for the directory in
            PADIM_BENCH_WEIGHTS, if set, and then the hub.

    Raises:
        PadimBenchError: an unknown name, a bare name without weights, or weights that cannot be had.
    """
    arch, tag = split_name(backbone)
    if weights is None:
        weights = os.environ.get(ENVIRONMENT_VARIABLE) or None
    if weights is not None and str(weights).partition(":")[0] == "random":
        return _random(arch, str(weights))
    path = Path(weights) if weights is not None else None
    if path is not None and not path.exists():
        raise PadimBenchError(f"no such weights: {path}: give a .safetensors file, a directory of them, or 'random'")
    if path is not None and path.is_file():
        if tag is not None and path.name != f"{arch}.{tag}.safetensors":
            raise WeightsNotFoundError(
                f"{path} is not named {arch}.{tag}.safetensors, so it may hold other weights: rename it if it is "
                f"that tag's file, or use --backbone {arch}"
            )
        return _from_file(arch, path, tag)
    found = _in_directory(arch, tag, path) if path is not None else None
    if found is not None:
        return _from_file(arch, found, tag)
    if tag is None:
        if path is not None:
            raise WeightsNotFoundError(
                f"{path} has no {arch}.safetensors: put it there, or name a tag: {_tag_list(arch)}"
            )
        raise WeightsNotFoundError(
            f"{arch} names no weights: add a tag ({_tag_list(arch)}), or --weights FILE, DIR or random"
        )
    return _from_file(arch, _from_hub(arch, tag, path), tag)


def ends_before(weights: Weights, layers: Sequence[str]) -> tuple[str, ...]:
    """Those of some layers, by module name, of which the file has no tensor though it has some of others.

    Nothing of what is untrained, and of a file that has none of them: that is of another network.
    """
    if weights.path is None:
        return ()
    from safetensors import safe_open

    with safe_open(weights.path, framework="pt") as file:
        names = list(file.keys())
    lacking = tuple(layer for layer in layers if not any(name.startswith(f"{layer}.") for name in names))
    return lacking if len(lacking) < len(layers) else ()


def _random(arch: str, weights: str) -> Weights:
    seed = weights.partition(":")[2] or "0"
    if not seed.isdigit():
        raise PadimBenchError(f"weights {weights!r}: write random or random:SEED with a whole number")
    digest = hashlib.sha256(f"padim-bench untrained 2 {arch} {seed}".encode()).hexdigest()
    label = f"untrained random weights (seed {seed})"
    return Weights(arch, label, digest, digest, False, IMAGENET_MEAN, IMAGENET_STD, seed=int(seed))


def _in_directory(arch: str, tag: str | None, directory: Path) -> Path | None:
    """A tag takes only the file of that tag: ``<arch>.safetensors`` may hold any weights."""
    if tag is not None:
        exact = directory / f"{arch}.{tag}.safetensors"
        return exact if exact.is_file() else None
    bare = directory / f"{arch}.safetensors"
    if bare.is_file():
        return bare
    tagged = [p for t in known_tags(arch) if (p := directory / f"{arch}.{t}.safetensors").is_file()]
    if len(tagged) > 1:
        names = ", ".join(p.stem for p in tagged)
        raise PadimBenchError(f"{directory} has several weights of {arch}: name one as the backbone: {names}")
    return tagged[0] if tagged else None


def _from_file(arch: str, path: Path, tag: str | None) -> Weights:
    """The label is the tag only for a file named after it, or one that the hub gave for it."""
    from safetensors import safe_open

    named = path.name.removeprefix(f"{arch}.").removesuffix(".safetensors")
    tag = tag or (named if named in known_tags(arch) else None)
    check_safetensors(path, "weights", "fetch the file again")
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        tensors = tensors_digest({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - not a dict
    with path.open("rb") as raw:
        digest = hashlib.file_digest(raw, "sha256").hexdigest()
    mean, std = _normalisation(arch, tag)
    label = f"{arch}.{tag}" if tag else f"{path.name} (sha256 {digest[:12]})"
    return Weights(arch, label, digest, tensors, True, mean, std, path, tag, note=metadata.get("note", ""))


def check_safetensors(path: Path, what: str, mend: str) -> None:
    """Raises PadimBenchError, in a line, for a file that safetensors cannot read; nothing is ever unpickled.

    Args:
        path: the file.
        what: it should be, "weights" or "model".
        mend: what to do about one that is torn or something else.
    """
    from safetensors import safe_open

    try:
        with path.open("rb") as raw:
            start = raw.read(512)
    except OSError as error:
        raise PadimBenchError(f"cannot read {what} {path} ({error.strerror or error}): check it") from error
    if not start:
        raise PadimBenchError(f"cannot read {what} {path} (it is empty): {mend}")
    text = start.lstrip().lower()
    if text.startswith(b"version https://git-lfs"):
        raise PadimBenchError(
            f"cannot read {what} {path} (it is a git-LFS pointer to the file): fetch it: git lfs pull"
        )
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise PadimBenchError(
            f"cannot read {what} {path} (it is a web page): fetch the file itself, not a page about it"
        )
    if start.startswith(_PICKLES) and start[8:9] != b"{":  # the header of safetensors, whatever its length
        told = "it is a torch checkpoint, a pickle, and never opened here"
        raise PadimBenchError(f"cannot read {what} {path} ({told}): {_conversion(path) if what == 'weights' else mend}")
    try:
        with safe_open(path, framework="pt"):
            pass
    except Exception as error:  # of safetensors' many kinds
        header = int.from_bytes(start[:8], "little")
        torn = start[8:9] == b"{" and (path.stat().st_size < 8 + header or "ncomplete" in str(error))
        told = f"it is torn: {error}" if torn else str(error)
        raise PadimBenchError(f"cannot read {what} {path} ({told}): {mend}") from error


# Of a zip file, as torch.save writes, and of what it wrote before 1.6.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _conversion(path: Path) -> str:
    """How to make a safetensors file of a torch checkpoint."""
    code = (
        "import torch, safetensors.torch as st; "
        f"d = torch.load({path.name!r}, map_location='cpu', weights_only=True); "
        "d = d.get('state_dict', d.get('model', d)); "
        "st.save_file({k: v.clone().contiguous() for k, v in d.items()}, "
        f"{path.with_suffix('.safetensors').name!r})"
    )
    return f'convert it, in its folder: python -c "{code}"'


def _normalisation(arch: str, tag: str | None) -> tuple[Any, Any]:
    """timm's for the tag; ImageNet's for a file of unknown origin."""
    from padim_bench.padim.loading_timm import timm

    config = timm.get_pretrained_cfg(f"{arch}.{tag}") if tag else None
    return (tuple(config.mean), tuple(config.std)) if config else (IMAGENET_MEAN, IMAGENET_STD)


def _from_hub(arch: str, tag: str, directory: Path | None) -> Path:
    """The file of a tag from the hub or its local cache. Raises PadimBenchError, saying what to fetch."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    from padim_bench.padim.loading_timm import timm

    config = timm.get_pretrained_cfg(f"{arch}.{tag}")
    repo = (config.hf_hub_id if config else None) or f"timm/{arch}.{tag}"
    cached = try_to_load_from_cache(repo, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached)
    reason = hub_unreachable()
    if reason is None:
        try:
            return Path(hf_hub_download(repo, "model.safetensors", etag_timeout=_HUB_TIMEOUT_S))
        except Exception as error:  # the hub's client lets through those of whichever HTTP library it uses
            reason = (str(error).splitlines() or [type(error).__name__])[0]
    where = directory if directory is not None else "DIR"
    similar = directory is not None and (directory / f"{arch}.safetensors").is_file()
    raise WeightsNotFoundError(
        f"no weights {arch}.{tag}: the hub cannot be reached or has none ({reason}): download "
        f"https://huggingface.co/{repo}/resolve/main/model.safetensors, save it as "
        f"{where}/{arch}.{tag}.safetensors and pass --weights {where}"
        + (f"; or use --backbone {arch} for {where}/{arch}.safetensors, whose tag is unknown" if similar else "")
    )


@cache
def hub_unreachable() -> str | None:
    """Why the hub cannot be reached, or None if it can: asked once per process, for a few seconds.

    huggingface_hub's own retries take half a minute per file before they give up.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "HF_HUB_OFFLINE is set"
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_HUB_TIMEOUT_S):
                outcome.append(None)
        except urllib.error.HTTPError:
            outcome.append(None)  # it answered
        except (OSError, ValueError) as error:
            outcome.append(str(getattr(error, "reason", error)))

    # A thread, since name resolution heeds no timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_HUB_TIMEOUT_S + 1)
    return outcome[0] if outcome else f"no answer in {_HUB_TIMEOUT_S:.0f} s"
