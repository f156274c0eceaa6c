"""Counts what goes through networks: how many images, pass by pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from padim_bench import Backbone


def count_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of every backbone pass from now on, as long as ``monkeypatch`` holds."""
    seen: list[int] = []
    forward: Callable[[Backbone, Tensor], list[Tensor]] = Backbone.forward

    def counted(self: Backbone, images: Tensor) -> list[Tensor]:
        seen.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Backbone, "forward", counted)
    return seen
