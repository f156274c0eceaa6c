"""Time and bytes, each measured in a process that does nothing else."""
