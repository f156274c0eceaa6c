"""Profiles: configurations measured, and the page and figures of all that a results folder has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from padim_bench.costs.measure import Measured, Model, ProfileSettings, measure_costs
from padim_bench.data.samples import Category
from padim_bench.errors import PadimBenchError
from padim_bench.protocols import get_protocol
from padim_bench.records.costs import FAILED, CostRecord
from padim_bench.records.merged import read_evidence
from padim_bench.report.page import Page
from padim_bench.reproduction.kinds import PROFILES, Choice
from padim_bench.reproduction.pages import make_pages, others_there, write_index, write_page


@dataclass(frozen=True)
class Profiles:
    """Measured configurations in the order asked for, their page, and the files written."""

    profiles: tuple[Measured[CostRecord], ...]
    page: Page
    files: list[Path]

    def summary(self) -> list[str]:
        """How many configurations ended how, and where the page lies."""
        count = Counter(profile.record.status for profile in self.profiles)
        ended = ", ".join(f"{n} {status}" for status, n in count.items())
        return [f"{self.page.heading}: {len(self.profiles)} configurations: {ended}: {self.files[0].as_posix()}"]


def run_profiles(
    category: Category,
    models: Sequence[Model],
    settings: ProfileSettings,
    *,
    results: Path,
    on_message: Callable[[str], None] = lambda _: None,
) -> Profiles:
    """Measures the configurations, as ``measure_costs`` does, and writes page, figures and index.

    The page is of all profiles under ``results``. Raises as it does, and PadimBenchError if no
    configuration could be measured at all.
    """
    found = measure_costs(category, models, settings, results, on_message=on_message)
    if all(p.record.status == FAILED for p in found):
        raise PadimBenchError(f"none of {len(found)} configurations could be measured: {found[0].record.reason}")
    choice = Choice(get_protocol("paper"))
    (page,) = make_pages([PROFILES], read_evidence([results])[0], choice)
    files = write_page(page, results)
    write_index([page, *others_there(results, [PROFILES], on_message)], results, results)
    return Profiles(tuple(found), page, files)
