"""Fixtures shared with runs."""

from tests.runs.conftest import finished, images, run

__all__ = ["finished", "images", "run"]
