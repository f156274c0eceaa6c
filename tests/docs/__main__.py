"""``python -m tests.docs``: writes the made parts of docs/ anew, and says which pages changed."""

from __future__ import annotations

from tests.docs import command_line, python_api


def main() -> None:
    """Rewrites every page that has made parts."""
    for maker in (command_line, python_api):
        before = maker.PAGE.read_text(encoding="utf-8")
        after = maker.page(before)
        if after != before:
            maker.PAGE.write_text(after, encoding="utf-8", newline="\n")
        print(f"{maker.PAGE.name}: {'as it was' if after == before else 'made anew'}")


if __name__ == "__main__":
    main()
