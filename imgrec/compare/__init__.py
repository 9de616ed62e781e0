"""Comparison of runs: configs, curves, paired tests."""
