"""What a run or a measurement leaves: its configuration, its record on disk, and what may be merged."""
