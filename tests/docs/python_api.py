"""docs/python-api.md: signatures and docstrings, from the source; the prose between them is written by hand."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from inspect import cleandoc
from pathlib import Path
from textwrap import dedent

import padim_bench
from padim_bench.errors import PadimBenchError
from tests.docs import blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "python-api.md"
CONTENTS = "contents"
_SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example", "Yields")
Definition = ast.ClassDef | ast.FunctionDef | ast.AnnAssign


def page(text: str) -> str:
    """The page as the docstrings have it now."""
    listed = contents(text)
    return blocks.remade(
        text, lambda names: listed if names == CONTENTS else "\n\n".join(entry(name) for name in names.split())
    )


def contents(text: str) -> str:
    """A line for every section, with a link to each name in it."""
    lines = []
    for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        told = [name.rpartition(".")[2] for part in blocks.names(section) for name in part.split()]
        lines.append(f"- {section.partition(chr(10))[0]}: {', '.join(f'[`{n}`](#{n.lower()})' for n in told)}")
    return "\n".join(lines)


def home(name: str) -> tuple[str, str]:
    """The module of a dotted name, relative to the package, and the name in it."""
    module, _, last = name.rpartition(".")
    return (padim_bench._HOMES[last], last) if not module else (module, last)


def entry(name: str) -> str:
    """What a dotted name (``PaDiM``, ``metrics.pro.own_pro``) is: heading, signature, docstring, public members."""
    module, last = home(name)
    path = ROOT / "padim_bench" / Path(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    body = ast.parse(source).body
    found = next((node for node in body if isinstance(node, Definition) and _called(node) == last), None)
    if found is None:
        raise PadimBenchError(f"{module} defines no {last}: mend the name in {PAGE.name}")
    where = "padim_bench" if last in padim_bench.__all__ else f"padim_bench.{module}"
    return "\n\n".join(part for part in (f"### {last}", f"From `{where}`.", *_described(found, module)) if part)


def _called(node: Definition) -> str:
    return node.target.id if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else getattr(
        node, "name", ""
    )  # fmt: skip


def _described(node: Definition, module: str) -> Iterator[str]:
    if isinstance(node, ast.AnnAssign):
        yield _code(f"{_called(node)}: {ast.unparse(node.annotation)}")
        value = getattr(import_module(f"padim_bench.{module}"), _called(node))
        yield f"Names: {', '.join(f'`{key}`' for key in value)}." if isinstance(value, dict) else f"`{value!r}`"
        return
    if isinstance(node, ast.FunctionDef):
        yield _code(_signature(node))
        yield prose(ast.get_docstring(node) or "")
        return
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    made = next((m for m in methods if m.name == "__init__"), None)
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and "ClassVar" not in ast.unparse(n.annotation)]
    bases = ", ".join(map(ast.unparse, node.bases))
    if made is not None:
        yield _code(_signature(made, node.name))
    elif fields:
        told = "".join(f"    {ast.unparse(n)}\n" for n in fields)
        yield _code(f"class {node.name}{f'({bases})' if bases else ''}:\n{told}")
    else:
        yield _code(f"class {node.name}({bases})")
    yield prose(ast.get_docstring(node) or "")
    for method in (m for m in methods if not m.name.startswith("_")):
        marks = {ast.unparse(d) for d in method.decorator_list}
        called = f"{node.name}.{method.name}"
        yield f"#### {called}"
        if marks & {"property", "cached_property"}:
            yield _code(f"{called} -> {ast.unparse(method.returns) if method.returns else 'None'}")
        else:
            yield _code(_signature(method, called))
        yield prose(ast.get_docstring(method) or "")


def _signature(node: ast.FunctionDef, called: str = "") -> str:
    """As it is called: without self, a line each where it is long."""
    arguments = node.args
    if called:
        arguments.args = arguments.args[1:]
    split = _apart(arguments)
    told = f"{called or node.name}({', '.join(split)})"
    returned = "" if node.returns is None or node.name == "__init__" else f" -> {ast.unparse(node.returns)}"
    if len(told + returned) > 100:
        told = f"{called or node.name}(\n" + "".join(f"    {one},\n" for one in split) + ")"
    return told + returned


def _apart(arguments: ast.arguments) -> list[str]:
    """Each argument as it is written."""
    positional = [*arguments.posonlyargs, *arguments.args]
    given: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    told = [_one(arg, default) for arg, default in zip(positional, given, strict=True)]
    if arguments.vararg is not None:
        told.append(f"*{ast.unparse(arguments.vararg)}")
    elif arguments.kwonlyargs:
        told.append("*")
    told += [_one(arg, value) for arg, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    return [*told, *([f"**{ast.unparse(arguments.kwarg)}"] if arguments.kwarg is not None else [])]


def _one(argument: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(argument) + ("" if default is None else f" = {ast.unparse(default)}")


def _code(text: str) -> str:
    """Python with strings in double quotes, as the source has them."""
    text = re.sub(r"'([^'\"\\\n]*)'", r'"\1"', text.rstrip())
    return f"```py\n{text}\n```"


def prose(docstring: str) -> str:
    """A docstring as Markdown: its sections as lists, its roles as code."""
    parts: list[str] = []
    for section in re.split(rf"\n(?=(?:{'|'.join(_SECTIONS)}):\n)", "\n" + cleandoc(docstring) + "\n"):
        title, _, rest = section.lstrip("\n").partition(":\n")
        if title not in _SECTIONS:
            parts.append(_markdown(section))
            continue
        inside = re.match(r"(?:(?:[ ]{4}.*)?\n)*", rest)  # what is indented; then goes on what stands below it
        body, after = dedent(inside[0] if inside else rest).strip("\n"), rest[inside.end() if inside else 0 :]
        parts.append(f"{title}:\n\n" + (f"```text\n{body}\n```" if title == "Example" else _items(body)))
        parts.append(_markdown(after))
    return "\n\n".join(part for part in parts if part)


def _items(body: str) -> str:
    """Each "name: what it is" as a line of a list; what is not so stays a paragraph."""
    parts: list[str] = []
    for one in re.split(r"\n(?=[\w*]+(?:, [\w*]+)*: )", body):
        found = re.match(r"([\w*]+(?:, [\w*]+)*): (.*)", one, re.DOTALL)
        text = found[2] if found else one
        told = "\n\n".join(_markdown(" ".join(part.split())) for part in text.split("\n\n"))
        parts.append(f"- `{found[1]}`: {told}" if found else told)
    return "\n".join(parts)


def _markdown(text: str) -> str:
    """Roles and double backticks as code, and no angle bracket taken for a tag."""
    text = re.sub(r":\w+:`~?(?:[\w.]+\.)?(\w+)`", r"`\1`", text.strip("\n")).replace("``", "`")
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in parts)
