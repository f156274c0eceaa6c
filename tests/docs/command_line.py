"""docs/command-line.md: the options of every command, from its parser; prose and examples are written by hand."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from padim_bench.cli.program import make_parser
from tests.docs import blocks

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"
CONTENTS = "commands"
# Which options belong together; those of one command alone come first, and without a heading where they are all.
GROUPS = {
    "Images": "data images category categories dataset normal bits stc stc-every root train-images train-draw folds",
    "Model": "method backbone backbones weights layers n-features reduction seed seeds fusion strategy storage "
    "half-products compute-dtype backbone-dtype",
    "Protocol": "protocol resize crop epsilon sigma compare-at",
    "Machine": "device threads batch-size memory-limit executor",
    "Output": "results out save save-maps maps-at save-masks gallery print intervals quiet json",
}
_FEW = 7  # options, which need no groups


def commands() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Every command by name ("run", "data demo"), with its parser and its line in the listing, in order."""
    return dict(_below(make_parser(), ""))


def _below(parser: argparse.ArgumentParser, start: str) -> Iterator[tuple[str, tuple[argparse.ArgumentParser, str]]]:
    # What add_subparsers returns is public in nothing but its behaviour.
    for action in (a for a in parser._actions if isinstance(a, argparse._SubParsersAction)):
        said = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for name, one in action.choices.items():
            inner = list(_below(one, f"{start}{name} "))
            yield from inner or [(f"{start}{name}", (one, said.get(name, "")))]


def page(text: str) -> str:
    """The page as the parsers have it now: a command that it lacks gets a section after the one before it."""
    parsers = commands()
    before = CONTENTS
    for name in parsers:
        if name not in blocks.names(text):
            there = next(m for m in blocks.BLOCK.finditer(text) if m[1] == before)
            text = f"{text[: there.end()]}\n\n## {name}\n\n{blocks.block(name, '')}{text[there.end() :]}"
        before = name
    return blocks.remade(text, lambda name: contents(parsers) if name == CONTENTS else _section(*parsers[name]))


def contents(parsers: dict[str, tuple[argparse.ArgumentParser, str]]) -> str:
    """A line for every command."""
    return "\n".join(f"- [`{name}`](#{name.replace(' ', '-')}): {said}" for name, (_, said) in parsers.items())


def _section(parser: argparse.ArgumentParser, said: str) -> str:
    """What the command says of itself, and a table of each group of options."""
    about = " ".join((parser.description or said).replace("%(prog)s", parser.prog).split())
    shown = [a for a in parser._actions if a.help != argparse.SUPPRESS and not isinstance(a, argparse._HelpAction)]
    homes = {option: title for title, options in GROUPS.items() for option in options.split()}
    parts = [_sentence(about), *([f"```text\n{parser.epilog.strip()}\n```"] if parser.epilog else [])]
    if len(shown) <= _FEW:
        return "\n\n".join([*parts, _table(parser, shown)])
    for title in ("", *GROUPS):
        own = [a for a in shown if homes.get(a.option_strings[0].lstrip("-") if a.option_strings else "", "") == title]
        if own:
            parts.append((f"**{title}**\n\n" if title else "") + _table(parser, own))
    return "\n\n".join(parts)


def _sentence(text: str) -> str:
    return _plain(text[:1].upper() + text[1:].rstrip(".") + ".")


def _plain(text: str) -> str:
    """Text of which Markdown takes nothing for its own."""
    return re.sub(r"([\\|*`])", r"\\\1", text).replace("<", "&lt;")


def _table(parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    rows = "\n".join(f"| `{_call(a)}` | {_help(parser, a)} | {_default(a)} |" for a in actions)
    return f"| Option | What it is | Default |\n|:---|:---|:---|\n{rows}"


def _call(action: argparse.Action) -> str:
    """The option as it is written, and what follows it."""
    value = ",".join(map(str, action.choices)) if action.choices and not action.metavar else ""
    value = value.replace(",", "|") or str(action.metavar or action.dest.upper())
    more = {"+": " ...", "*": " ...", 0: ""}.get(action.nargs, "")  # type: ignore[call-overload]
    called = action.option_strings[0] if action.option_strings else ""
    told = called if action.nargs == 0 else f"{called} {value}{more}".strip()
    return told.replace("|", "\\|")


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = " ".join(((action.help or "") % {**vars(action), "prog": parser.prog}).split())
    return _plain(text) + (" (required)" if action.required and action.option_strings else "")


def _default(action: argparse.Action) -> str:
    """What it is where it is not given; nothing where that is nothing, or the help says it."""
    value: Any = action.default
    if value in (None, False, argparse.SUPPRESS) or value == [] or "default" in (action.help or ""):
        return ""
    values = value if isinstance(value, list) else [value]
    return "`" + ",".join("all" if v is None else v.as_posix() if isinstance(v, Path) else str(v) for v in values) + "`"
