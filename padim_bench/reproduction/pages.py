"""Pages from evidence alone: every table, report and figure, and what links them, without images, weights or torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from padim_bench.errors import PadimBenchError
from padim_bench.machine.files import write_bytes, write_text
from padim_bench.protocols import Protocol, get_protocol
from padim_bench.records.merged import Evidence, of_one_dataset, read_evidence
from padim_bench.report.index import DETAILS, REPORT, SPEED, index_page
from padim_bench.report.machines import by_machine
from padim_bench.report.page import Page
from padim_bench.report.render import summary
from padim_bench.report.spec import EFFORT, REPORTS, STRATEGIES_TABLE, table_names
from padim_bench.reproduction.kinds import PROFILES, Choice, kind_of


def page_names() -> list[str]:
    """All pages that there are, in the index's order."""
    return [*table_names(), *REPORTS, STRATEGIES_TABLE, PROFILES, EFFORT]


def make_pages(names: Iterable[str], evidence: Evidence, choice: Choice) -> list[Page]:
    """Those of the named pages that the evidence makes, in that order."""
    made = (kind_of(name).page(name, evidence, choice) for name in names)
    return [by_machine(page) for page in made if page is not None]


def folder_of(results: Path, protocol: Protocol) -> Path:
    """Where pages go: those of a protocol at another size than its own to a folder of theirs."""
    return results / protocol.name if protocol.of_another_size else results


def write_page(page: Page, out: Path) -> list[Path]:
    """Its files under ``out/tables`` and ``out/figures``."""
    written = []
    for suffix, text in page.texts.items():
        written.append(out / "tables" / f"{page.name}{suffix}")
        write_text(written[-1], text)
    for name, draw in page.figures.items():
        for kind, content in draw().items():
            written.append(out / "figures" / f"{name}.{kind}")
            write_bytes(written[-1], content)
    return written


def write_index(pages: Sequence[Page], results: Path, out: Path) -> None:
    """README.md and report.html of a results folder: the pages, once they and their figures are written.

    The speed pages in ``results`` are linked, and come along with theirs.
    """
    from padim_bench.report.html import report_page

    details = (path.relative_to(results).as_posix() for path in sorted(results.glob(DETAILS)))
    for name in (*SPEED, *details) if out != results else ():
        if (results / name).is_file():
            write_bytes(out / name, (results / name).read_bytes())
    write_text(out / "README.md", index_page(pages, results))
    drawn = {name: out / "figures" / f"{name}.svg" for page in pages for name in page.figures}
    figures = {name: path.read_text(encoding="utf-8") for name, path in drawn.items() if path.is_file()}
    order = page_names()
    write_text(out / REPORT, report_page(sorted(pages, key=lambda page: order.index(page.name)), figures))


def others_there(results: Path, written: Iterable[str], on_message: Callable[[str], None]) -> list[Page]:
    """The pages that lie there already, for the index alone: as their records make them by default."""
    there = [
        name for name in page_names() if name not in set(written) and (results / "tables" / f"{name}.md").is_file()
    ]
    if not there:
        return []
    try:
        evidence = of_one_dataset(read_evidence([results])[0], None)
    except PadimBenchError as error:
        on_message(f"README.md links no other pages than these: {error}")
        return []
    return make_pages(there, evidence, Choice(get_protocol("paper")))


@dataclass(frozen=True)
class Written:
    """Pages made from records, and the files of each."""

    pages: tuple[Page, ...]
    files: dict[str, list[Path]] = field(default_factory=dict)

    def summary(self) -> list[str]:
        """A line for each page: what it says, and where it lies."""
        return [
            f"{page.name}: {summary(page.table, {}) if page.table else page.heading}: "
            f"{self.files[page.name][0].as_posix()}"
            for page in self.pages
        ]


def tables(
    folders: Sequence[Path],
    out: Path,
    choice: Choice,
    *,
    names: Sequence[str] = (),
    dataset: str | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> Written:
    """Pages and index from the records, measurements and profiles of results folders, merged.

    Args:
        folders: each with ``records/``, ``measurements/`` or ``profiles/``.
        out: gets ``tables/``, ``figures/``, ``README.md`` and ``report.html``.
        choice: how pages are made.
        names: from :func:`page_names`; none for all that the evidence makes, and then the index and the report too.
        dataset: see :func:`~padim_bench.records.merged.of_one_dataset`.

    Raises:
        PadimBenchError: as ``read_evidence`` and ``of_one_dataset`` do, for an unknown name, or one of which
            nothing is on record.
    """
    if unknown := [name for name in names if name not in page_names()]:
        raise PadimBenchError(f"unknown table {unknown[0]!r}: choose from {', '.join(page_names())}")
    evidence, lines = read_evidence(folders)
    for line in lines:
        on_message(line)
    evidence = of_one_dataset(evidence, dataset)
    pages = make_pages(names or page_names(), evidence, choice)
    if absent := [name for name in names if name not in {page.name for page in pages}]:
        made = {PROFILES: "profile", EFFORT: "reproduce over several categories"}
        command = made.get(absent[0], f"reproduce {absent[0]}")
        raise PadimBenchError(f"{', '.join(absent)}: nothing on record makes it: padim-bench {command}")
    written = Written(tuple(pages))
    for page in pages:
        written.files[page.name] = write_page(page, out)
    if not names:
        write_index(pages, folders[0], out)
    return written
