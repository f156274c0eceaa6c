"""report.html: what it holds, that names are never markup, and, in a real browser, what it does."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from padim_bench.protocols import get_protocol
from padim_bench.records.files import write_record
from padim_bench.report.html import Tags, inline, report_page
from padim_bench.report.page import Grid, Page, Source
from padim_bench.reproduction.kinds import Choice
from padim_bench.reproduction.pages import tables
from tests.browser import Browser, by_id, started
from tests.drawn_records import WEIGHTS, run_config, run_record, with_resampled

COMMITTED = Path(__file__).parents[2] / "results" / "report.html"
HOSTILE = "</script><script>throw 1</script><img src=http://127.0.0.1/x onerror='throw 2'>&lt;\"'{{ 7 * 7 }}\u2028"
CELL = "table3-grid-r18-rd100-pro"


class Read(HTMLParser):
    """Every element's name, and the texts of table cells and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open.append(tag)
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts[self._open[-1]][-1] += data


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three seeds of two categories and of one whose name is none: all pages that such records make."""
    folder = tmp_path_factory.mktemp("results")
    for category in ("grid", "pill", HOSTILE):
        for seed in range(3):
            record = run_record(run_config(category, seed, extras=("pro_variants",)))
            write_record(folder, with_resampled(record) if category != HOSTILE else record)
    tables([folder], folder, Choice(get_protocol("paper")))
    return folder / "report.html"


def test_a_number_has_an_address_and_what_stands_behind_it(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    found = Read(text)
    ids = [of["id"] for _, of in found.elements if "id" in of]
    assert len(ids) == len(set(ids))
    data = json.loads(found.texts["script"][0])
    title, unit, mean, sd, n, low, high, paper, verdict, records = data["cells"][CELL]
    runs = [run_record(run_config("grid", seed, extras=("pro_variants",))) for seed in range(3)]
    values = [100 * (run.value("pro") or 0) for run in runs]
    assert (title, unit, n, paper) == ("R18-Rd100, PRO, grid", "%", 3, 90.9)
    assert mean == round(sum(values) / 3, 2)
    assert low < mean < high
    assert sd > 0
    assert verdict in {"within", "outside"}
    assert [data["records"][i][1:3] for i in records] == [["grid", seed] for seed in range(3)]
    assert "padim-bench 0.1.0" in data["code"][data["records"][records[0]][3]]
    assert set(data["cells"]) <= set(ids)


def test_names_are_text_and_nothing_is_asked_for_from_anywhere(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    found = Read(text)
    names = [name for name, _ in found.elements]
    assert names.count("script") == 2
    assert {"img", "link", "iframe", "base", "object"} & set(names) == set()
    assert not [of for _, of in found.elements if any(key.startswith("on") for key in of)]
    linked = [of[key] or "" for _, of in found.elements for key in ("href", "src", "action") if key in of]
    assert [one for one in linked if not one.startswith("#")] == []
    assert "url(http" not in text
    assert "49" not in [cell.strip() for cell in found.texts["th"]]
    assert HOSTILE.replace("\u2028", "\\u2028") in found.texts["th"]


def test_what_no_reader_may_miss_stands_in_the_headings() -> None:
    untrained = replace(WEIGHTS, trained=False, label="untrained random weights (seed 0)", tag=None, seed=0)
    record = run_record(run_config("weave", dataset="demo"), weights=untrained)
    page = Page("table3", "Table III: a title [DEMO DATA]", [], ["One fact."], "", records=(record,))
    found = Read(report_page([page], {}))
    assert "[UNTRAINED RANDOM WEIGHTS]" in " ".join(found.texts["span"])
    assert "[DEMO" in " ".join(found.texts["span"])
    assert "[DEMO DATA]" in found.texts["h2"][0]


def test_two_numbers_of_one_name_have_two_addresses() -> None:
    sources = {(i, 1): Source((name, "m", "pro"), name, "%", (1.0,), ()) for i, name in enumerate(("a|b", "a,b"))}
    page = Page(
        "table3", "T", [("", Grid(["Category", "m: ours"], [["a|b", "1"], ["a,b", "1"]], sources=sources))], [], ""
    )
    assert re.findall(r'<td id="(.*?)"', report_page([page], {})) == ["table3-a-b-m-pro", "table3-a-b-m-pro-2"]


@pytest.mark.parametrize(
    ("heading", "tags"),
    [
        ("R18-Rd100: paper", {"m": "R18-Rd100"}),
        ("SPADE (R18): ours", {"m": "SPADE (R18)"}),
        ("SPADE recomputed", {"m": "SPADE"}),
        ("grid: SPADE", {"m": "SPADE", "c": "grid"}),
        ("grid (264)", {"c": "grid"}),
        ("gridlock", {}),
        ("All, mean of 6 of 15", {"c": "means"}),
        ("paper", {}),
    ],
)
def test_a_heading_is_of_the_model_and_the_category_that_it_begins_with(heading: str, tags: dict[str, str]) -> None:
    assert Tags(["grid", "pill"], ["R18-Rd100", "SPADE", "SPADE (R18)"]).of(heading) == tags


def test_a_figure_brings_only_what_is_drawn_and_its_ids_are_its_own() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="72pt" height="9pt" '
        'viewBox="0 0 72 9"><metadata>m</metadata><style>*{fill:red}</style><script>throw 1</script><!-- </svg> -->'
        '<defs><path id="a" d="M 0 0 &#10;L 1 1"/></defs><g id="unused" onclick="throw 2"><use xlink:href="#a" '
        'style="fill: #000000; clip-path: url(#a)"/><use xlink:href="http://127.0.0.1/x"/></g></svg>'
    )
    assert str(inline(svg, "pro")) == (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 9" style="max-width:96px" role="img" aria-label="pro">'
        '<defs><path id="pro.a" d="M 0 0 L 1 1" /></defs><g><use href="#pro.a" '
        'style="fill: var(--ink); clip-path: url(#pro.a)" /><use /></g></svg>'
    )


# In a browser.


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as one:
        yield one


@pytest.fixture
def quiet(browser: Browser) -> Iterator[Browser]:
    """The browser; at the end nothing was raised, said, or asked for but the file itself."""
    browser.look(1400, 1000)
    yield browser
    assert browser.complaints == []
    assert {url.partition(":")[0] for url in browser.asked} == {"file"}
    assert len({url.partition("#")[0] for url in browser.asked}) == 1


def _column(browser: Browser, section: str, column: int) -> list[str]:
    found = browser.run(f"[...{by_id(section)}.querySelectorAll('tbody tr')].map(r => r.cells[{column}].textContent)")
    assert isinstance(found, list)
    return found


def test_a_heading_sorts_its_table_by_number_up_and_down_and_back(quiet: Browser, report: Path) -> None:
    quiet.open(report)
    section = "table3-pro"
    before = _column(quiet, section, 1)
    press = f"{by_id(section)}.querySelectorAll('thead button')[1].click()"
    numbers = sorted(float(text) for text in before if text != "\N{EN DASH}")
    quiet.run(press)
    up = _column(quiet, section, 1)
    assert [float(text) for text in up[: len(numbers)]] == numbers
    assert set(up[len(numbers) :]) == {"\N{EN DASH}"}  # what has no number comes last
    quiet.run(press)
    assert [float(text) for text in _column(quiet, section, 1)[: len(numbers)]] == numbers[::-1]
    assert quiet.run(f"{by_id(section)}.querySelectorAll('th')[1].getAttribute('aria-sort')") == "descending"
    quiet.run(press)
    assert _column(quiet, section, 1) == before


def test_a_category_and_a_model_leave_what_is_of_them(quiet: Browser, report: Path) -> None:
    quiet.open(report)
    found = "[...document.querySelectorAll('#table3 section:not(.none) {}')]"
    shown = f"{found}.filter(e => e.offsetParent).map(e => e.textContent)"
    choose = "(e => {{ e.value = {}; e.dispatchEvent(new Event('change')) }})(document.getElementById('{}'))"
    assert {"grid", "pill", "All, mean of 3 of 15"} < set(quiet.run(shown.format("tbody th")))
    quiet.run(choose.format("'=grid'", "category"))
    assert {text for text in quiet.run(shown.format("tbody th")) if "," not in text} == {"grid"}
    heads = set(quiet.run(shown.format("thead th")))
    assert {"R18-Rd100: ours", "SPADE", "grid"} < heads
    assert "pill" not in heads
    quiet.run(choose.format("'R18-Rd100'", "model"))
    heads = set(quiet.run(shown.format("thead th")))
    assert "R18-Rd100: ours" in heads
    assert "SPADE" not in heads
    assert quiet.run("getComputedStyle(document.getElementById('table5')).display") == "block"
    assert quiet.run("getComputedStyle(document.getElementById('table1')).display") == "none"  # nothing of it is left
    quiet.run("document.querySelector('form').reset()")
    quiet.run("new Promise(r => setTimeout(r, 50))")
    assert {"grid", "pill"} < set(quiet.run(shown.format("tbody th")))
    # A category of any name can be chosen.
    quiet.run(choose.format("[...document.getElementById('category').options].at(-3).value", "category"))


def test_an_address_shows_its_number_with_its_records_and_how_to_cite_it(quiet: Browser, report: Path) -> None:
    quiet.open(report, CELL)
    assert quiet.run("new Promise(r => requestAnimationFrame(() => setTimeout(() => r(panel.hidden), 50)))") is False
    box = quiet.run(f"(b => [b.top, b.bottom])({by_id(CELL)}.getBoundingClientRect())")
    assert 0 <= box[0] < box[1] <= 1000
    ids = [run_record(run_config("grid", seed, extras=("pro_variants",))).id[:12] for seed in range(3)]
    told, cite = (
        quiet.run("document.getElementById('told').innerText"),
        quiet.run("document.getElementById('cite').value"),
    )
    for words in (*ids, "seeds 0 to 2", "95 % interval over test images", "paper: 90.9", "padim-bench 0.1.0"):
        assert words in told
    for words in ("R18-Rd100, PRO, grid: ", ids[0], "seeds 0 to 2", "95 % interval", "padim-bench 0.1.0", "mvtec-ad"):
        assert words in cite
    assert cite.endswith(f"report.html#{CELL}")


def test_pointing_shows_choosing_keeps_and_keys_do_both(quiet: Browser, report: Path) -> None:
    quiet.open(report)
    title = "document.querySelector('#told h4').textContent"
    quiet.point(CELL)
    assert quiet.run(title) == "R18-Rd100, PRO, grid"
    assert quiet.run("panel.classList.contains('kept')") is False
    quiet.point(CELL, press=True)
    assert quiet.run("panel.classList.contains('kept')") is True
    assert quiet.run("location.hash") == f"#{CELL}"
    quiet.press("Escape")
    assert quiet.run("panel.hidden") is True
    quiet.run(f"{by_id(CELL)}.focus()")
    assert quiet.run(title) == "R18-Rd100, PRO, grid"
    quiet.press("ArrowDown")
    assert quiet.run(title) == "R18-Rd100, PRO, pill"
    quiet.press("Enter")
    assert quiet.run("panel.classList.contains('kept') && document.activeElement.id") == "cite"
    # The finding's numbers are those of the PRO page.
    assert quiet.run("document.querySelector('#finding td[data-same]').dataset.same").startswith("pro-grid-r18-rd100-")


def test_what_stands_behind_a_number_does_not_cover_it(quiet: Browser, report: Path) -> None:
    quiet.look(1400, 700)  # too low for the panel above a cell in the middle, or below it
    quiet.open(report)
    quiet.point(CELL, press=True)
    apart = "((a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top)"
    assert quiet.run(f"{apart}({by_id(CELL)}.getBoundingClientRect(), panel.getBoundingClientRect())")


@pytest.mark.parametrize(
    ("anchor", "told"),
    [
        ("profiles-latency-by-stage-at-batch-1-total", ("Total", "seed 1024", "1 record: ", "AMD EPYC, 2 threads")),
        ("table7-inference-r18-rd100-ours-median-s", ("R18-Rd100", "1 record: ", "weights resnet18")),
        ("table8-peak-resident-memory-of-a-r18-rd100-state", ("State", "1 record: ", "weights resnet18")),
        ("strategies-state-and-metrics-woodbury-pro", ("woodbury float64; PRO", "6 records: ", "seed 1024")),
        ("gaps-r18-rd100-from-paper-to-xiahaifeng1995-paper-grid", ("grid", "95 % interval", "1 record: ")),
        ("shots-r18-rd100-image-auroc-bottle-209-8", ("bottle (209)", "standard deviation over", "n8-d0", "interval")),
    ],
)
def test_numbers_of_costs_strategies_protocols_and_few_images_show_their_records_too(
    quiet: Browser, anchor: str, told: tuple[str, ...]
) -> None:
    quiet.open(COMMITTED, anchor)
    assert quiet.run("new Promise(r => requestAnimationFrame(() => setTimeout(() => r(panel.hidden), 50)))") is False
    shown, cite = (
        quiet.run("document.getElementById('told').innerText"),
        quiet.run("document.getElementById('cite').value"),
    )
    for words in told:
        assert words in shown
    assert "record" in cite
    assert cite.endswith(f"report.html#{anchor}")


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_committed_report_fits_its_window_in_either_light(quiet: Browser, width: int, dark: bool) -> None:
    quiet.look(width, 900, dark=dark, phone=width == 400)
    quiet.open(COMMITTED)
    assert quiet.run("document.documentElement.scrollWidth") <= width
    light = quiet.run(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    )
    assert (light < 150) is dark
    assert quiet.run("document.querySelectorAll('figure svg').length") >= 4
    assert quiet.run(f"{by_id(CELL)}.textContent").startswith("83.03")
    assert quiet.picture().startswith(b"\x89PNG")
