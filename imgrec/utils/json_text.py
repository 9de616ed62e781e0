"""JSON from files of unknown origin. Every parse error is a ``JSONDecodeError``."""

from __future__ import annotations

import json
import math
from typing import Any


def loads(text: str | bytes, finite: bool = False) -> Any:
    """Return the plain data in ``text``.

    Args:
        text: JSON document.
        finite: If True, replace NaN and infinite numbers by ``None``. Defaults to False.

    Raises:
        json.JSONDecodeError: If it is not JSON, is nested too deeply, or has an integer with too many digits.

    >>> loads('{"seconds": 1e400, "acc": 0.5}', finite=True)
    {'seconds': None, 'acc': 0.5}
    """
    try:
        return json.loads(text, parse_float=_finite, parse_constant=lambda _: None) if finite else json.loads(text)
    except RecursionError as error:
        raise json.JSONDecodeError("nested too deeply", "", 0) from error
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:
        raise json.JSONDecodeError("an integer has too many digits", "", 0) from error


def _finite(text: str) -> float | None:
    value = float(text)
    return value if math.isfinite(value) else None
