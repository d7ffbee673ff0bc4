"""Benchmarks against named peers in the same run; `python -m tests.benchmarks` runs them all."""
