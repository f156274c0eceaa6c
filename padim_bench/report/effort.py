"""What the whole reproduction takes: stages of the categories at hand, and what the others will, by their sizes.

A stage's seconds grow with the training images, the test images, both, or neither. What a category takes is foretold
from the others' seconds, first of those that are at hand, where it can be compared, and then of those that are not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from padim_bench.data.datasets import DATASETS, PAPER_DATASET
from padim_bench.data.samples import Counts
from padim_bench.padim.config import PADIM
from padim_bench.records.files import to_json
from padim_bench.records.runs import RunRecord
from padim_bench.report.page import Grid, Page, csv_text
from padim_bench.report.tables import code_facts, thread_fact, title_warnings

# By what a stage's seconds grow; one that is not named grows with the test images.
TRAIN, TEST, BOTH, NEITHER = "training images", "test images", "all images", "no images"
GROWS = {"decode": BOTH, "backbone_train": TRAIN, "principal_components": TRAIN, "fold": TRAIN, "fit": NEITHER}
SHARED = ("decode", "backbone_train", "backbone_test", "principal_components", "fold")  # by all runs of a unit
MACHINES = ((2, 1), (16, 8))  # cores, and processes of two threads each


@dataclass(frozen=True)
class Effort:
    """What a category's runs took.

    Attributes:
        counts: its images.
        seconds: by stage, each counted once where runs share it.
        runs: how many.
        peak: bytes, the largest of any run.
        stored: bytes of its records.
    """

    counts: Counts
    seconds: Mapping[str, float]
    runs: int
    peak: int
    stored: int

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def efforts(records: Sequence[RunRecord]) -> dict[str, Effort]:
    """What each category took; runs that share a stage have its very seconds, so that it is counted once."""
    found = {}
    for category in dict.fromkeys(r.dataset.category for r in records):
        mine = [r for r in records if r.dataset.category == category]
        stages: dict[str, float] = {}
        seen: set[tuple[str, float]] = set()
        for record in mine:
            for stage, seconds in record.timings_s.items():
                if stage not in SHARED or (stage, seconds) not in seen:
                    stages[stage] = stages.get(stage, 0.0) + seconds
                    seen.add((stage, seconds))
        dataset = mine[0].dataset
        found[category] = Effort(
            Counts(dataset.n_train, dataset.n_test, dataset.n_anomalous),
            stages,
            len(mine),
            max((r.memory.peak_rss_bytes or 0) for r in mine),
            sum(len(to_json(r.to_dict())) for r in mine),
        )
    return found


def foretold(counts: Counts, others: Sequence[Effort]) -> float:
    """Seconds of a category with so many images, from the same runs over others; the median of what each stage took."""
    stages = {stage for one in others for stage in one.seconds}
    return sum(
        median(one.seconds.get(stage, 0.0) / _size(stage, one.counts) for one in others) * _size(stage, counts)
        for stage in stages
    )


def _size(stage: str, counts: Counts) -> int:
    grows = GROWS.get(stage, TEST)
    if grows == BOTH:
        return counts.train + counts.test
    return {TRAIN: counts.train, TEST: counts.test, NEITHER: 1}[grows]


def in_parallel(seconds: Sequence[float], processes: int) -> float:
    """Seconds of categories that so many processes share, the longest first, each whole in one of them."""
    ends = [0.0] * processes
    for one in sorted(seconds, reverse=True):
        ends[ends.index(min(ends))] += one
    return max(ends)


def effort_page(spec: Mapping[str, Any], records: Sequence[RunRecord]) -> Page | None:
    """The page; None without two categories of MVTec AD that have the same number of runs."""
    official = DATASETS[PAPER_DATASET].counts
    records = [r for r in records if r.dataset.name == PAPER_DATASET and r.dataset.category in official]
    rivals = [r for r in records if r.config.model.method != PADIM]
    records = [r for r in records if r.config.model.method == PADIM]
    found = efforts(records)
    most = max((one.runs for one in found.values()), default=0)
    whole = {category: one for category, one in found.items() if one.runs == most}
    if len(whole) < 2:
        return None
    rows, lines, expected, errors = [], [], {}, []
    for category, counts in official.items():
        others = [one for name, one in whole.items() if name != category]
        expected[category] = foretold(counts, others)
        row = [category, str(counts.train), str(counts.test)]
        if category in whole:
            took = whole[category].total
            off = expected[category] / took - 1
            errors.append(abs(off))
            row += [
                f"{took / 60:.1f}",
                f"{expected[category] / 60:.1f}",
                f"{100 * off:+.0f} %",
            ]
        else:
            row += ["", f"{expected[category] / 60:.1f}", ""]
        rows.append(row)
        lines.append([category, *row[1:3], *_csv(whole.get(category), expected[category])])
    at_hand = sum(one.total for one in whole.values())
    every = [whole[c].total if c in whole else seconds for c, seconds in expected.items()]
    check = sum(expected[c] for c in whole)
    per_run = fmean(one.stored / one.runs for one in whole.values())
    peak, runs = max(one.peak for one in whole.values()), most * len(expected)
    machines = [
        [
            f"{cores} cores, {n} process{'es' if n > 1 else ''} of 2 threads",
            f"{in_parallel(every, n) / 3600:.1f} h",
            f"{n * peak / 1e9:.1f} GB",
            f"{runs * per_run / 1e6:.0f} MB",
        ]
        for cores, n in MACHINES
    ]
    networks = dict.fromkeys(r.config.model.backbone for r in records)
    captions = [
        f"{len(whole)} of {len(expected)} categories, {most} runs each, of {', '.join(networks)}: {at_hand / 60:.0f} "
        "minutes of stages in all.",
        "Minutes are sums of stages, each counted once where runs share it; reading records, making pages and starting "
        "are not in them. What a category takes is foretold from the others at hand alone, stage by stage, by "
        "the median of their seconds: decoding by all images, the network by those it saw, scoring and metrics by test "
        "images, a fit by none.",
        f"Of the categories at hand {check / 60:.0f} minutes are foretold where {at_hand / 60:.0f} were measured; one "
        f"is off by {100 * fmean(errors):.0f} % in the mean, {100 * max(errors):.0f} % at most.",
        *_of_rivals(rivals, whole),
        "More processes share categories, the longest first; that each is as fast as one alone, with two cores of its "
        "own, is assumed, and the memory is that of one process for each.",
        f"{code_facts([r.environment for r in records])}, "
        f"{thread_fact([r.config.execution.threads for r in records])}.",
    ]
    shout = "".join(f" [{w.upper()}]" for w in title_warnings(records))
    header = ["Category", "training images", "test images", "minutes measured", "foretold from the others", "off by"]
    total = f"All {len(expected)} categories, {runs} runs"
    sections = [
        (f"{total}: with the weights at hand", Grid(["Machine", "time", "memory", "disk"], machines)),
        ("Categories", Grid(header, rows)),
    ]
    text = csv_text(["category", "train", "test", "minutes_measured", "minutes_foretold"], lines)
    return Page(spec["name"], f"Effort: {spec['title']}{shout}", sections, captions, text)


def _of_rivals(records: Sequence[RunRecord], categories: Collection[str]) -> list[str]:
    """What other methods took of the same categories; nothing is foretold of these."""
    of_these = [r for r in records if r.dataset.category in categories]
    if not of_these:
        return []
    methods = ", ".join(dict.fromkeys(r.config.model.method for r in of_these))
    minutes = sum(one.total for one in efforts(of_these).values()) / 60
    return [
        f"All of it is PaDiM's. Other methods ({methods}) took another {minutes:.0f} minutes of stages of the "
        f"categories at hand, in {len(of_these)} runs."
    ]


def _csv(one: Effort | None, seconds: float) -> list[str]:
    return ["" if one is None else f"{one.total / 60:.2f}", f"{seconds / 60:.2f}"]
