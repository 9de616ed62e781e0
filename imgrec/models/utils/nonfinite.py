"""Search for tensors and module outputs with NaN or infinite values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from imgrec.models.utils.hooks import HookGroup


@torch.no_grad()
def nonfinite(tensors: Mapping[str, Tensor | None]) -> list[str]:
    """Return the names of the tensors with a NaN or infinite value, in their order, with one synchronization.

    >>> nonfinite({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": None})
    ['b']
    """
    found = {name: tensor for name, tensor in tensors.items() if tensor is not None and _has_values(tensor)}
    if not found:
        return []
    largest = torch._foreach_norm(list(found.values()), float("inf"))
    finite = torch.isfinite(torch.stack([value.float() for value in largest])).tolist()
    return [name for name, is_finite in zip(found, finite, strict=True) if not is_finite]


@dataclass(frozen=True)
class BadOutput:
    """The first output of a module with a NaN or infinite value.

    Args:
        module: Name of the module.
        kind: Class name of the module.
        rows: Indices in the batch with such values, if the output has one row per sample.
    """

    module: str
    kind: str
    rows: tuple[int, ...]


class FirstNonfinite(HookGroup):
    """Context manager that checks the output of every module inside ``root`` and stores the first bad one.

    A module returns before its caller, so the innermost module is stored. The check synchronizes with the device at
    every module, and is meant for the search of a fault.

    >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    >>> _ = nn.init.constant_(net[0].bias, float("inf"))
    >>> with FirstNonfinite(net) as watch:
    ...     _ = net(torch.ones(3, 2))
    >>> watch.found
    BadOutput(module='0', kind='Linear', rows=(0, 1, 2))
    """

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self.root = root
        self.found: BadOutput | None = None

    def register_hooks(self) -> list[RemovableHandle]:
        """Register a hook on every module inside."""
        return [
            module.register_forward_hook(self._hook(name))
            for name, module in self.root.named_modules()
            if module is not self.root
        ]

    def _hook(self, name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if self.found is not None:
                return
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor) and _has_values(tensor) and not bool(torch.isfinite(tensor).all()):
                    rows = torch.isfinite(tensor.detach()).flatten(1).all(1) if tensor.ndim > 1 else torch.ones(0)
                    bad = tuple(torch.nonzero(~rows.bool()).flatten().tolist())
                    self.found = BadOutput(name, type(module).__name__, bad)
                    return

        return hook


def _has_values(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and (tensor.is_floating_point() or tensor.is_complex())
