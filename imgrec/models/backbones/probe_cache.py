"""Cache of the checks of a backbone, so that a process builds each specification on the meta device once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

Result = TypeVar("Result")

_RESULTS: dict[str, Any] = {}


def compute_once(key: tuple[Any, ...], compute: Callable[[], Result]) -> Result:
    """Return the result of ``compute`` for a key, from the cache if this process has computed it before.

    An error is not stored. A key with values that JSON cannot represent, for example a class, is computed each time.

    Args:
        key: Kind of the result and everything that the result depends on.
        compute: Function without arguments.

    >>> compute_once(("example", 3), lambda: 3 * 3), compute_once(("example", 3), lambda: 0)
    (9, 9)
    """
    try:
        text = json.dumps(key, sort_keys=True)
    except (TypeError, ValueError):
        return compute()
    if text not in _RESULTS:
        _RESULTS[text] = compute()
    found: Result = _RESULTS[text]
    return found
