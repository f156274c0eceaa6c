"""What the runner runs: configurations that share what one network makes of one category, or of one scene."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from padim_bench.machine.progress import Progress
from padim_bench.machine.torch_settings import full_precision, torch_threads
from padim_bench.padim.footprint import Need
from padim_bench.padim.weights import Weights
from padim_bench.records.config import RunConfig
from padim_bench.records.runs import RunRecord

if TYPE_CHECKING:
    from padim_bench.runs.plan import Settings
    from padim_bench.runs.session import Session

Keep = Callable[[RunConfig, RunRecord], None]


class Unit(Protocol):
    """The unit of work; units travel to other processes, so that they are small and can be pickled.

    Attributes:
        place: the category or the scene, for messages: "bottle", "scene 01". Units of one place share files.
        root: of the dataset.
        weights: of the network.
        configs: what is run; their protocols prepare images alike.
        settings: of the command.
        notes: said already when the folders were listed.
    """

    @property
    def place(self) -> str: ...
    @property
    def root(self) -> Path: ...
    @property
    def weights(self) -> Weights: ...
    @property
    def configs(self) -> tuple[RunConfig, ...]: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def digest(self, session: Session) -> str:
        """Of all files. Raises PadimBenchError, naming the file, for one that cannot be read."""

    def only(self, configs: tuple[RunConfig, ...]) -> Self:
        """The unit with some of its configurations."""

    def with_full_paths(self) -> Self:
        """The unit for a worker whose working folder is another one."""

    def steps(self, session: Session) -> int:
        """Of progress, which :meth:`run` advances by; 0 where files cannot be read, as running will say."""

    def statements(self, session: Session) -> list[str]:
        """Lines to say before it runs, on what does not fit the memory limit."""

    def need(self, session: Session, before: int) -> Need:
        """What the process will take beside what it holds already, and ``before`` bytes of features left to it."""

    def needlessly_rough(self, records: Mapping[RunConfig, RunRecord], session: Session) -> int:
        """How many of its records have error bounds that this memory limit would not need."""

    def run(self, keep: Keep, progress: Progress, session: Session) -> None:
        """Runs every configuration and gives ``keep`` each record as soon as it is made.

        Raises PadimBenchError that names what cannot be read, and the category or scene of what cannot be fitted.
        """


# Torch's threads are the process's, also where several threads run units.
_one_unit = threading.Lock()


def run_unit(unit: Unit, keep: Keep, progress: Progress, session: Session) -> None:
    """Runs every configuration of the unit here, in full precision and with the threads that its settings say.

    Args:
        unit: what to run.
        keep: given each record as soon as it is made.
        progress: advanced by image and stage.
        session: what it shares with units that ran before.
    """
    with _one_unit, torch_threads(unit.settings.execution.threads), full_precision():
        unit.run(keep, progress, session)


def name_of(unit: Unit) -> str:
    """For messages: "bottle resnet18"."""
    return f"{unit.place} {unit.weights.arch}"


def layers_of(unit: Unit) -> tuple[str, ...]:
    """The layers of all its configurations, each once."""
    return tuple(dict.fromkeys(name for config in unit.configs for name in config.layers))


def with_full_path(weights: Weights) -> Weights:
    """The weights for a worker whose working folder is another one."""
    from dataclasses import replace

    return weights if weights.path is None else replace(weights, path=weights.path.absolute())
