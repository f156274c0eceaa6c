"""``padim-bench``, and ``python -m padim_bench``: the command line, which may be interrupted while it loads."""

import sys


def main() -> int:
    """Runs the command line and returns its exit code."""
    try:
        from padim_bench.cli import main as command

        return command()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("padim-bench: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
