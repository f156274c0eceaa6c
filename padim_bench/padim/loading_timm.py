"""Loads timm without torch's compiler, which takes longer to load than torch itself and which nothing here calls.

While they load, torchvision asks the compiler for one function and timm for another: ``is_compile_supported``, of its
pooling of regions, and ``disable``, of one family of models. Both are given such as load the compiler when they are
called. Whoever asks for anything else, then or later, gets the compiler itself.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

import torch

try:
    from torch._compile import _disable_dynamo  # torch's own way of decorating without loading the compiler
except ImportError:  # of a torch that has it elsewhere: timm then loads as it does by itself
    _disable_dynamo = None  # type: ignore[assignment]

_COMPILER = "torch._dynamo"
_UTILS = f"{_COMPILER}.utils"


class _StandIn(ModuleType):
    """Is imported instead of a module of the compiler while timm loads, and makes way for it when it does not do."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and (self.__name__, name) != (_COMPILER, "__path__"):
            raise AttributeError(name)  # asked of every module by whoever looks for one's source
        return getattr(_real(self.__name__), name)


def _real(name: str) -> ModuleType:
    _make_way()
    return import_module(name)


def _make_way() -> None:
    for name in (_COMPILER, _UTILS):
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]


def _is_compile_supported(device_type: Any) -> Any:
    return _real(_UTILS).is_compile_supported(device_type)


_is_compile_supported._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as torch's own says of itself


def _disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    return _disable_dynamo(fn, recursive)


if _disable_dynamo is not None and _COMPILER not in sys.modules:
    package, utils = _StandIn(_COMPILER), _StandIn(_UTILS)
    vars(package)["disable"], vars(utils)["is_compile_supported"] = _disable, _is_compile_supported
    sys.modules |= {_COMPILER: package, _UTILS: utils}
try:
    import timm
finally:
    _make_way()
    if isinstance(vars(torch).get("_dynamo"), _StandIn):
        del vars(torch)["_dynamo"]

__all__ = ["timm"]
