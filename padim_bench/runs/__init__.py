"""Accuracy: plans, runs and resumes configurations over categories, here, in processes or on a cluster."""
