"""Loggers: CSV, TensorBoard and W&B."""
