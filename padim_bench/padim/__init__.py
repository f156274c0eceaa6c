"""The model, and nothing about benchmarks."""
