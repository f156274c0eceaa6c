"""Pages for readers: what is made from the code is as it is there, links lead somewhere, tables are committed ones."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import padim_bench
from padim_bench.costs.pipeline import N_POSITIONS, N_WARMUP
from padim_bench.errors import PadimBenchError
from padim_bench.metrics.pro import FPR_LIMIT
from padim_bench.metrics.resampling import N_RESAMPLES
from padim_bench.padim.backbones import BACKBONE_ERROR_LIMIT
from padim_bench.padim.folding import FOLDING_LIMIT
from padim_bench.padim.strategies import GATES, STRATEGIES
from padim_bench.padim.strategies.explicit_lu import RESIDUAL_LIMIT
from tests.docs import blocks, command_line, python_api

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PICTURED = re.compile(r"!\[[^\]]*\]\(([^)]+)\)")
LINKED = re.compile(r"(?<!!)\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(([^)]+)\)")


def prose(page: Path) -> str:
    """A page's text without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> list[str]:
    """Where a link into a page may lead: its headings as GitHub calls them, or the ids of a page in HTML."""
    if page.suffix == ".html":
        return re.findall(r'\bid="([^"]+)"', page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE)
    return [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """(file, anchor or "") of every link and picture of a page that is not on the network."""
    for pattern in (LINKED, PICTURED):
        for target in pattern.findall(prose(page)):
            if not re.match(r"[a-z]+:", target):
                name, _, anchor = target.partition("#")
                yield (page.parent / name).resolve() if name else page, anchor


@pytest.mark.parametrize("maker", [command_line, python_api], ids=["command line", "python api"])
def test_made_parts_are_as_python_m_tests_docs_makes_them(maker: type) -> None:
    committed = maker.PAGE.read_text(encoding="utf-8")
    assert committed == maker.page(committed), "run python -m tests.docs and commit what it writes"


def test_every_command_has_a_section_with_every_option_and_an_example_that_calls_it() -> None:
    page = command_line.PAGE.read_text(encoding="utf-8")
    found = command_line.commands()
    assert set(blocks.names(page)) == {command_line.CONTENTS, *found}
    for name, (parser, _) in found.items():
        section = re.split(r"^## ", page.partition(f"\n## {name}\n")[2], flags=re.MULTILINE)[0]
        for option in (a.option_strings[0] for a in parser._actions if a.option_strings and a.dest != "help"):
            assert re.search(rf"^\| `{option}[ `]", section, flags=re.MULTILINE), (name, option)
        assert f"padim-bench {name}" in section.partition("<!-- made:")[0], name


def test_a_command_that_the_page_lacks_gets_a_section_after_the_one_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parser = argparse.ArgumentParser(description="Trial <of> one.", epilog="a < b:\n  c")
    parser.add_argument("--what", default=3, help="a|b, 5 %% of %(prog)s")
    monkeypatch.setattr(command_line, "commands", lambda: {"run": (parser, "runs"), "trial": (parser, "tries")})
    page = command_line.page(f"{blocks.block('commands', '')}\n\n## run\n\n{blocks.block('run', '')}\n\nThe end.\n")
    assert page.index("## trial") > page.index("<!-- made: run -->")
    assert page.endswith("<!-- end -->\n\nThe end.\n")
    assert "Trial &lt;of> one.\n\n```text\na < b:\n  c\n```" in page
    assert rf"| `--what WHAT` | a\|b, 5 % of {parser.prog} | `3` |" in page
    assert command_line.page(page) == page


def test_the_python_page_has_every_public_name() -> None:
    told = {name for part in blocks.names(python_api.PAGE.read_text(encoding="utf-8")) for name in part.split()}
    assert set(padim_bench.__all__) <= told


def test_every_public_function_tells_its_arguments_and_its_errors() -> None:
    functions = [name for name in padim_bench.__all__ if inspect.isfunction(getattr(padim_bench, name))]
    assert len(functions) > 10
    for name in functions:
        entry = python_api.entry(name)
        parameters = inspect.signature(getattr(padim_bench, name)).parameters
        assert "\nRaises:\n" in entry, name
        for parameter in parameters:
            assert re.search(rf"^- `(\w+, )*{parameter}(, \w+)*`:", entry, flags=re.MULTILINE), (name, parameter)


def test_a_docstring_s_sections_are_lists_and_its_roles_code() -> None:
    docstring = """What :func:`~a.b` does with <x>.

    Args:
        one, two: of ``this``
            and that.
        three: of <y>.

    Then it goes on.

    Returns:
        A number, of
        two lines.

    Raises:
        ValueError: never.
    """
    assert python_api.prose(docstring) == (
        "What `b` does with &lt;x>.\n\nArgs:\n\n- `one, two`: of `this` and that.\n- `three`: of &lt;y>.\n\n"
        "Then it goes on.\n\nReturns:\n\nA number, of two lines.\n\nRaises:\n\n- `ValueError`: never."
    )


def test_a_part_that_is_not_ended_and_a_name_that_is_not_there_are_refused() -> None:
    with pytest.raises(PadimBenchError, match="not ended"):
        blocks.remade("<!-- made: a -->\n", lambda name: name)
    with pytest.raises(PadimBenchError, match=r"metrics\.pro defines no nothing"):
        python_api.entry("metrics.pro.nothing")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    named = anchors(page)
    assert len(set(named)) == len(named), "two headings of one name: a link finds the first alone"
    found = list(links(page))
    assert found
    for target, anchor in found:
        assert target.exists(), target
        assert target.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(target), (target.name, anchor)


def test_links_are_seen_in_every_form() -> None:
    text = "[a](b) [`c`](d#e) [f [g] h](no) ![i](j) [![k](l)](m)"
    assert LINKED.findall(text) == ["b", "d#e", "m"]
    assert PICTURED.findall(text) == ["j", "l"]


def tables(page: Path) -> list[str]:
    """Lines of a page's tables that are written by hand."""
    return [line for line in blocks.BLOCK.sub("", prose(page)).splitlines() if line.startswith("|")]


def test_every_table_is_of_a_committed_page_line_by_line_or_made() -> None:
    results, peers = ROOT / "results" / "tables", sorted((ROOT / "results" / "peers").rglob("peers.md"))
    left = {page: tables(page) for page in PAGES}
    assert left[ROOT / "README.md"]
    assert left[ROOT / "docs" / "speed.md"]
    for sources in (
        [results / "pro.md"],
        [results / "table3.md"],
        peers,
    ):  # whole lines, and the README has some of each
        committed = {line for source in sources for line in source.read_text(encoding="utf-8").splitlines()}
        assert any(line in committed for line in left[ROOT / "README.md"] if "---" not in line)
        left = {page: [line for line in lines if line not in committed] for page, lines in left.items()}
    assert {page.name: lines for page, lines in left.items() if lines} == {}


def test_the_limits_that_methods_states_are_the_code_s() -> None:
    told = " ".join((ROOT / "docs" / "methods.md").read_text(encoding="utf-8").split())
    limits = [f"{GATES[name]:.0e}".replace("e-0", "e-") for name in ("float64", "float32", "float16", "bfloat16")]
    whitened = [STRATEGIES["whitening"].n_values(209, d) / d**2 for d in (100, 550)]
    for sentence in (
        "within {} in float64 storage, {} in float32, {} in float16 and {} in bfloat16".format(*limits),
        "`{:.2f} d^2` numbers at d = 100, `{:.2f} d^2` at 550".format(*whitened),
        f"of {N_RESAMPLES} bootstrap resamples",
        f"past {f'{FOLDING_LIMIT:.0e}'.replace('e-0', 'e-')} nothing is folded",
        f"past {100 * BACKBONE_ERROR_LIMIT:g} % the run is refused",
        f"is measured; past {RESIDUAL_LIMIT:g}",
        f"to FPR {FPR_LIMIT} with interpolation there, and divided by {FPR_LIMIT}",
        f"after {N_WARMUP} that are not counted",
        f"probes at each of {N_POSITIONS} positions",
    ):
        assert sentence in told


def test_what_the_map_names_is_there() -> None:
    text = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8").partition("## Where things are")[2]
    named = re.findall(r"`([\w./]+/[\w./]*)`", text)
    assert len(named) > 15
    for name in named:
        assert (ROOT / name).exists(), name
    rooms = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "padim_bench").glob("*/__init__.py")}
    assert {room for room in rooms if f"{room}/" not in text} == set()


def test_the_readme_is_two_screens() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 115
