"""Runtimes that execute an exported network."""
