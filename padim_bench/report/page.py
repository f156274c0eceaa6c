"""A page: headed grids, a caption and a CSV, as Markdown and LaTeX (booktabs); nothing of what the numbers mean."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from padim_bench.machine.console import printable

if TYPE_CHECKING:
    from padim_bench.records.costs import Measurement
    from padim_bench.records.runs import RunRecord
    from padim_bench.report.tables import Table

NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class Source:
    """What stands behind one number of a grid.

    Attributes:
        place: what tells it from the page's others, such as row, model and metric: stays as it is for ever. () for
            where it stands: its section, row and column.
        title: the same in words; "" for those of section, row and column.
        unit: of the numbers.
        values: one per replicate, whose mean is shown.
        interval: ends of the 95 % interval over test images of that mean; None where a run has no resampled values.
        paper: what the paper prints of the same; None where that is nothing.
        verdict: "within" or "outside" the tolerance, or "".
        records: keys of the runs.
    """

    place: tuple[str, ...]
    title: str
    unit: str
    values: tuple[float, ...]
    records: tuple[str, ...]
    interval: tuple[float, float] | None = None
    paper: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Grid:
    """What a table looks like: a header row, body rows, and the rows before which a rule stands.

    ``sources`` says of numbers of ours, by their indices in ``rows``, what stands behind them; ``of_rows`` of whole
    rows, by their indices, of which runs or measurements (keys) their numbers are.
    """

    header: list[str]
    rows: list[list[str]]
    rules: frozenset[int] = frozenset()
    sources: Mapping[tuple[int, int], Source] = field(default_factory=dict)
    of_rows: Mapping[int, tuple[str, ...]] = field(default_factory=dict)


Section = tuple[str, Grid]


def number(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def mean_sd(values: Sequence[float]) -> str:
    """Mean ± standard deviation, which one value has not."""
    return (number(fmean(values)) + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")) if values else NONE


def csv_text(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A page's numbers in long form."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([header, *lines])
    return out.getvalue()


@dataclass(frozen=True)
class Page:
    """What a table or report says, in the order in which it says it.

    Attributes:
        name: of its files.
        heading: holds what no reader may miss, such as demo data.
        sections: one or several grids with their titles.
        captions: all that a reader needs to judge the numbers, one fact a line; the first is its coverage.
        csv: every number in long form.
        absent: titles of models that it has no run of.
        figures: by file name without ending, what makes its files, {"svg": bytes, "png": bytes}.
        table: what it was made from, where that is a table of cells.
        records: the runs that it was made from.
        measured: the measurements that it was made from.
        finding: the little of it that a reader is to see first, and the sentence that says it.
    """

    name: str
    heading: str
    sections: Sequence[Section]
    captions: Sequence[str]
    csv: str
    absent: tuple[str, ...] = ()
    figures: Mapping[str, Callable[[], Mapping[str, bytes]]] = field(default_factory=dict)
    table: Table | None = None
    records: tuple[RunRecord, ...] = ()
    measured: tuple[Measurement, ...] = ()
    finding: tuple[str, Grid] | None = None

    @property
    def texts(self) -> dict[str, str]:
        """The files as {suffix: text}: Markdown, CSV and LaTeX."""
        return {
            ".md": markdown_page(self.heading, self.sections, self.captions),
            ".csv": self.csv,
            ".tex": latex_table(self.name, self.heading, self.sections, self.captions),
        }


def markdown_page(heading: str, sections: Sequence[Section], captions: Sequence[str]) -> str:
    """A heading, one grid or several with headings of their own, and the caption as a list."""
    lines = [f"# {markdown(heading)}", ""]
    for title, one in sections:
        if title and len(sections) > 1:
            lines += [f"## {markdown(title)}", ""]
        elif title:
            lines += [f"{markdown(title)}:", ""]
        lines.append(_markdown_row(one.header))
        lines.append("|" + "|".join([":---", *["---:"] * (len(one.header) - 1)]) + "|")
        lines += [*map(_markdown_row, one.rows), ""]
    lines += [f"- {markdown(line)}" for line in captions]
    return "\n".join(lines) + "\n"


# What Markdown would take for markup in a name, but nothing of what our own words hold: an asterisk after a number, a
# sign of less, brackets alone.
_MARKUP = re.compile(
    r"`|\\(?=[!-/:-@\[-`{-~])|\*(?=\S)|(?<!\w)_(?=\S)|~(?=~)|<(?=[A-Za-z/!?])|&(?=#?\w+;)"
    r"|\[(?=[^\]]*\][\[(])|^\[(?=[^\]]*\]:)"
)


def markdown(text: str) -> str:
    """``text`` on one line, as it is and not as markup."""
    return _MARKUP.sub(r"\\\g<0>", printable(text))


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(markdown(cell).replace("|", r"\|") for cell in cells) + " |"


_LATEX = str.maketrans(
    {"&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
     "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
     "\\": r"\textbackslash{}", NONE: "--", "*": r"$^*$", "\N{PLUS-MINUS SIGN}": r"$\pm$"}
)  # fmt: skip


def latex_table(name: str, heading: str, sections: Sequence[Section], captions: Sequence[str]) -> str:
    """A table* environment, one tabular per grid; needs \\usepackage{booktabs}."""

    def line(cells: Sequence[str]) -> str:
        text = " & ".join(_latex(c) for c in cells)
        # After the row before, a bracket would be the argument of its line break.
        return "  " + (f"{{[}}{text[1:]}" if text.startswith("[") else text) + r" \\"

    body: list[str] = []
    for title, one in sections:
        if title:
            body += [r"  \medskip", rf"  \textit{{{_latex(title)}}}\par\smallskip"]
        body += [rf"  \begin{{tabular}}{{l{'r' * (len(one.header) - 1)}}}", r"  \toprule", line(one.header)]
        body.append(r"  \midrule")
        for i, row in enumerate(one.rows):
            if i in one.rules:
                body.append(r"  \midrule")
            body.append(line(row))
        body += [r"  \bottomrule", r"  \end{tabular}", ""]
    text = _latex(" ".join([f"{heading}.", *captions]))
    return "\n".join(
        [
            "% needs \\usepackage{booktabs}",
            r"\begin{table*}",
            r"  \centering\small",
            rf"  \caption{{{text}}}",
            rf"  \label{{tab:padim-{name}}}",
            *body[: -1 if body else None],
            r"\end{table*}",
            "",
        ]
    )


def _latex(text: str) -> str:
    text = printable(text)
    signed_ = text.startswith(("+", "-")) and text[1:2].isdigit()
    escaped = text.translate(_LATEX)
    return f"${escaped[0]}${escaped[1:]}" if signed_ else escaped
