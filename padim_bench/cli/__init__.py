"""The command line: one file per command, its parser beside its function; options that several share, once."""

from padim_bench.cli.program import main

__all__ = ["main"]
