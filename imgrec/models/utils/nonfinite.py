"""Where numbers stop being numbers: which tensor, and which module's output first."""

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
    """The names of the tensors that hold a NaN or an infinity, in their order; waits for the device once.

    >>> nonfinite({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")]), "c": None})
    ['b']
    """
    found = {name: tensor for name, tensor in tensors.items() if tensor is not None and _has_values(tensor)}
    if not found:
        return []
    largest = torch._foreach_norm(list(found.values()), float("inf"))
    finite = torch.isfinite(torch.stack([value.float() for value in largest])).tolist()
    return [name for name, fine in zip(found, finite, strict=True) if not fine]


@dataclass(frozen=True)
class BadOutput:
    """The output of a module that is the first to hold a NaN or an infinity.

    ``rows`` are the places in the batch that do, where the output has one row a sample.
    """

    module: str
    kind: str
    rows: tuple[int, ...]


class FirstNonfinite(HookGroup):
    """Within ``with``: looks at what every module inside ``root`` gives, and keeps the first bad output.

    A module that is called by another one ends first, so the innermost is the one that is kept. It waits for the
    device at every module: it is for the search of a fault.

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
        """Watch every module inside."""
        return [
            module.register_forward_hook(self._hook(name))
            for name, module in self.root.named_modules()
            if module is not self.root
        ]

    def _hook(self, name: str) -> Any:
        def look(module: nn.Module, arguments: Any, output: Any) -> None:
            if self.found is not None:
                return
            for tensor in tree_leaves(output):
                if isinstance(tensor, Tensor) and _has_values(tensor) and not bool(torch.isfinite(tensor).all()):
                    rows = torch.isfinite(tensor.detach()).flatten(1).all(1) if tensor.ndim > 1 else torch.ones(0)
                    bad = tuple(torch.nonzero(~rows.bool()).flatten().tolist())
                    self.found = BadOutput(name, type(module).__name__, bad)
                    return

        return look


def _has_values(tensor: Tensor) -> bool:
    return tensor.numel() > 0 and (tensor.is_floating_point() or tensor.is_complex())
