"""How many channels a network's layers have, for plans: asked of what is cheapest, and no network is built."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from padim_bench.padim.backbones import count_channels
from padim_bench.padim.paper import known_maps
from padim_bench.records.files import read_records


class Channels:
    """The registry of the paper's networks knows its layers; else a record of such a run; else timm tells.

    Args:
        results: folder of records that may tell; None for none.
    """

    def __init__(self, results: Path | None = None) -> None:
        self._results = results
        self._counted: dict[tuple[str, tuple[str, ...], int], int] = {}

    def of(self, arch: str, layers: tuple[str, ...], size: int) -> int:
        """Channels of all the layers together for images of ``size`` pixels.

        Raises PadimBenchError for layers or sizes that the network does not have, and for records that cannot be read.
        """
        if (known := known_maps(arch, layers, size)) is not None:
            return sum(known[0])
        if (recorded := self._recorded.get((arch, layers, size))) is not None:
            return recorded
        place = (arch, layers, size)
        if place not in self._counted:
            self._counted[place] = count_channels(*place)
        return self._counted[place]

    @cached_property
    def _recorded(self) -> dict[tuple[str, tuple[str, ...], int], int]:
        """Of every run on record, whose embedding says of how many channels it was made."""
        found = {}
        for _, record in read_records(self._results).values() if self._results is not None else ():
            config = record.config
            found[config.model.backbone, config.layers, config.protocol.size] = record.embedding.n_channels
        return found
