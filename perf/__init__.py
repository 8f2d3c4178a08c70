"""Benchmarks of ntkla: `python -m perf` from a checkout (see perf/README.md)."""
