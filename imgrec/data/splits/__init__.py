"""Splits: the assignment of images to training, validation and test, and its stored table."""
