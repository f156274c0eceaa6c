"""``padim-bench``, and ``python -m padim_bench``: the command line, which may be interrupted while it loads."""

import signal
import sys


def main() -> int:
    """Runs the command line and returns its exit code."""
    try:
        from padim_bench.cli import main as command

        code = command()
    except KeyboardInterrupt:
        if sys.stderr is not None:
            print("padim-bench: interrupted", file=sys.stderr)
        code = 130
    if code > 128:  # a second Ctrl-C would find the interpreter half taken down, and print how far
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
