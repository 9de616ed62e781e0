"""The purpose of a source: training by default, or the evaluation of everything in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_EVALUATION: ContextVar[bool] = ContextVar("evaluation", default=False)


@contextmanager
def for_evaluation() -> Iterator[None]:
    """Build sources within this context for evaluation only.

    Such a source may have a single class, no training images, or classes that its training images lack.
    """
    token = _EVALUATION.set(True)
    try:
        yield
    finally:
        _EVALUATION.reset(token)


def is_evaluation() -> bool:
    """Return True if the source that is being built is for evaluation only."""
    return _EVALUATION.get()
