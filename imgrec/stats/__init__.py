"""Confidence intervals, paired tests and Pareto fronts: NumPy in, NumPy out."""
