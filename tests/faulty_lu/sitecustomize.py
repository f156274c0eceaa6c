"""Makes batched LU of this interpreter faulty, as it is on some machines, where ``FAULTY_LU`` says how.

On the path before others, it is imported when Python starts, and meets ``torch.linalg`` on its import: "hangs" (in
native code, which heeds no signal of Python's), "is wrong", "raises", "gives NaN", "crashes", "prints", "writes
beyond" what is its own; and "is right" on every machine.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.util
import os
import sys
from typing import Any

FROM_SIDE = 15  # smaller matrices stay right, as they do in MKL


def faulty(right: Any, how: str) -> Any:
    def function(matrices: Any, *more: Any, **options: Any) -> Any:
        import torch

        if matrices.ndim < 3 or matrices.shape[-1] < FROM_SIDE:
            return right(matrices, *more, **options)
        libc = ctypes.CDLL(None)
        if how == "hangs":
            while True:
                libc.sleep(1000)
        if how == "raises":
            raise RuntimeError("Pivots given to lu_solve must all be greater or equal to 1.")
        if how == "crashes":
            ctypes.string_at(0)
        if how == "prints":
            for stream in (1, 2):
                os.write(stream, b"Intel oneMKL ERROR: Parameter 6 was incorrect on entry to DLASWP.\n" * 2000)
        if how == "is right":
            return torch.cholesky_inverse(torch.linalg.cholesky(matrices))
        value = right(matrices, *more, **options)
        first = value if hasattr(value, "mul_") else value[0]
        if how == "is wrong":
            first[0] *= 3
        if how == "gives NaN":
            first[0] = float("nan")
        if how == "writes beyond":
            size = matrices.numel() * matrices.element_size()
            ctypes.memset(matrices.data_ptr(), 7, size)  # its input, which was not its to write
        return value

    return function


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "torch.linalg":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        load = spec.loader.exec_module

        def then_break(module: Any) -> None:
            load(module)
            for function in ("inv", "inv_ex", "solve", "solve_ex", "lu_factor", "lu_factor_ex"):
                setattr(module, function, faulty(getattr(module, function), os.environ["FAULTY_LU"]))

        spec.loader.exec_module = then_break  # type: ignore[method-assign]
        return spec


if os.environ.get("FAULTY_LU"):
    sys.meta_path.insert(0, _Finder())
