"""Where it happens: environment, peak memory, files, console, processes apart, and what this machine computes wrong."""
