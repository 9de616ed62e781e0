"""Callbacks that write the run folder."""
