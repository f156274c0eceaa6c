"""What results folders hold together: records of runs, measurements and profiles, merged, of one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from padim_bench.data.datasets import PAPER_DATASET, PAPER_SCENES
from padim_bench.data.mvtec_ad import MVTEC_KINDS
from padim_bench.errors import PadimBenchError
from padim_bench.records.costs import AnyMeasurement, CostRecord, GrowthRecord, SizesRecord
from padim_bench.records.facts import DatasetUsed
from padim_bench.records.files import check_mergeable, read_records
from padim_bench.records.measurements import HELD, read_measurements
from padim_bench.records.runs import RunRecord


@dataclass(frozen=True)
class Evidence:
    """Records of runs, costs of configurations, their growth with n, and sizes, each in the order of its folders."""

    records: tuple[RunRecord, ...] = ()
    costs: tuple[CostRecord, ...] = ()
    growth: tuple[GrowthRecord, ...] = ()
    sizes: tuple[SizesRecord, ...] = ()


def read_evidence(folders: Sequence[Path]) -> tuple[Evidence, list[str]]:
    """All that the results folders hold, and lines on what stands in more than one of them.

    Of a run that several folders have, the first folder's record is taken. Raises PadimBenchError for a folder
    that is not there, for a file that is not whole and sound, and where there is nothing at all.
    """
    for folder in folders:
        if not folder.is_dir():
            raise PadimBenchError(f"there is no results folder {folder}: name one that padim-bench has made")
    records: dict[str, RunRecord] = {}
    measured: dict[tuple[str, str], AnyMeasurement] = {}
    lines = []
    for folder in folders:
        read = {run_id: record for run_id, (_, record) in read_records(folder).items()}
        if again := records.keys() & read.keys():
            lines.append(
                f"{folder}: runs that a folder named before has too, whose records are taken, whatever made them: "
                f"{len(again)}"
            )
        records = read | records
        for place in HELD:
            for name, one in read_measurements(folder, place).items():
                measured.setdefault((place, name), one)
    evidence = Evidence(
        tuple(records.values()),
        tuple(one for one in measured.values() if isinstance(one, CostRecord)),
        tuple(one for one in measured.values() if isinstance(one, GrowthRecord)),
        tuple(one for one in measured.values() if isinstance(one, SizesRecord)),
    )
    if not (records or measured):
        named = ", ".join(map(str, folders))
        raise PadimBenchError(
            f"no records, measurements or profiles in {named}: padim-bench run, reproduce and profile make them"
        )
    return evidence, lines


def category_order(dataset: DatasetUsed) -> tuple[bool, int, str]:
    """As the paper's tables have them: textures, then objects, those of MVTec AD in its order, others by name."""
    known, name = list(MVTEC_KINDS), dataset.category
    return dataset.kind != "texture", known.index(name) if name in known else len(known), name


def of_one_dataset(evidence: Evidence, dataset: str | None, *, merge: bool = True) -> Evidence:
    """Only the runs over images of one dataset, and over the video scenes of one.

    ``dataset`` None is MVTec AD, or ShanghaiTech Campus, where there are runs of it, else the only one there is.
    Raises PadimBenchError where there are several others, or (``merge``) records that may not stand in one table.
    """
    there = dict.fromkeys(r.dataset.name for r in evidence.records)
    if dataset is not None and dataset not in there:
        raise PadimBenchError(f"--dataset {dataset}: no record is of it: choose from {', '.join(there)}")
    kept: list[RunRecord] = []
    for usual, scenes in ((PAPER_DATASET, False), (PAPER_SCENES, True)):
        mine = [r for r in evidence.records if (r.dataset.kind == "scene") is scenes]
        names = list(dict.fromkeys(r.dataset.name for r in mine))
        chosen = dataset if dataset in names else usual if usual in names else None
        if chosen is None and len(names) > 1:
            raise PadimBenchError(f"records of several datasets ({', '.join(names)}): choose one with --dataset")
        kept += [r for r in mine if chosen is None or r.dataset.name == chosen]
    if merge:
        check_mergeable(kept)
    return replace(evidence, records=tuple(kept))
