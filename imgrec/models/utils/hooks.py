"""Forward hooks that are there for a while."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from torch.utils.hooks import RemovableHandle


class Watch:
    """Within ``with``: forward hooks are registered by :meth:`begin`, and removed at the end, also after an error."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def begin(self) -> list[RemovableHandle]:
        """Register the hooks."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._handles = self.begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
