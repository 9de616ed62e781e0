"""Fixtures shared with metrics."""

from tests.metrics.conftest import drawn

__all__ = ["drawn"]
