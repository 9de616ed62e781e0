"""Context manager for forward hooks."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from torch.utils.hooks import RemovableHandle


class HookGroup:
    """Base class of context managers that register forward hooks and remove them on exit."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def register_hooks(self) -> list[RemovableHandle]:
        """Register the hooks and return their handles."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._handles = self.register_hooks()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
