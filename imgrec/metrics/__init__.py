"""How good a classifier is, and how sure one may be of it: NumPy in, NumPy out."""
