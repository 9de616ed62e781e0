"""Benchmarks of runs and exports: latency, memory, size, accuracy."""
