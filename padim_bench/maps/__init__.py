"""Anomaly maps as files: written by a run, and anybody's read and scored."""
