"""Benchmarks: ratios to plain PyMC in the same run."""
