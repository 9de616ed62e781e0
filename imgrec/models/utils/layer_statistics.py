"""How large weights, gradients and activations are, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imgrec.models.utils.hooks import HookGroup

_AROUND = ("model", "backbone", "network")
"""What stands around the layers of a task: parts of their names that say nothing."""
_RECTIFIERS = (nn.ReLU, nn.ReLU6)


def layer_of(name: str, depth: int = 1) -> str:
    """The layer that a module or a parameter belongs to, by its name: at most ``depth`` parts of it.

    >>> layer_of("model.backbone.network.layer1.0.conv1"), layer_of("model.head.linear")
    ('layer1', 'head')
    >>> layer_of("model.backbone.network.layer1.0.conv1", depth=2)
    'layer1.0'
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _AROUND:
        parts = parts[1:]
    return ".".join(parts[:depth])


@torch.no_grad()
def layer_norms(tensors: Mapping[str, Tensor], depth: int = 1) -> dict[str, Tensor]:
    """The Euclidean norm of all tensors of a layer together, by layer, as scalars on the device.

    Args:
        tensors: by the names of their parameters.
        depth: see :func:`layer_of`.
    """
    found: dict[str, list[Tensor]] = {}
    if tensors:
        norms = torch._foreach_norm(list(tensors.values()))
        for name, norm in zip(tensors, norms, strict=True):
            found.setdefault(layer_of(name.rpartition(".")[0] or name, depth), []).append(norm.float())
    return {layer: torch.linalg.vector_norm(torch.stack(parts)) for layer, parts in found.items()}


class ActivationProbe(HookGroup):
    """Within ``with``: the mean and the spread of what each layer gives, and how many of its units are dead.

    A unit, that is a channel of a ReLU's output, is dead where it is 0 everywhere, in every image of the batch.
    ``figures`` holds ``<layer>/mean``, ``<layer>/std`` and ``<layer>/dead``, a share, as scalars on the device; of a
    layer that is passed several times, what the last one gave, and the mean share. Modules that are compiled into one
    graph are not seen, nor are rectifiers that are no module.

    Args:
        root: the module around the layers.
        depth: see :func:`layer_of`.
    """

    def __init__(self, root: nn.Module, depth: int = 1) -> None:
        super().__init__()
        self.root = root
        self.depth = depth
        self._outputs: dict[str, Tensor] = {}
        self._dead: dict[str, list[Tensor]] = {}

    def register_hooks(self) -> list[RemovableHandle]:
        """Watch the layers and their rectifiers, with nothing seen yet."""
        self._outputs, self._dead = {}, {}
        seen: set[str] = set()
        handles: list[RemovableHandle] = []
        for name, module in self.root.named_modules():
            if not name or name.rpartition(".")[2] in _AROUND:
                continue
            layer = layer_of(name, self.depth)
            if isinstance(module, _RECTIFIERS):
                handles.append(module.register_forward_hook(self._count(layer)))
            whole = layer_of(name, self.depth + 1) == layer
            if whole and layer not in seen and any(True for _ in module.parameters()):
                seen.add(layer)
                handles.append(module.register_forward_hook(self._keep(layer)))
        return handles

    @property
    def figures(self) -> dict[str, Tensor]:
        """What was seen so far."""
        found: dict[str, Tensor] = {}
        for layer, output in self._outputs.items():
            found[f"{layer}/mean"], found[f"{layer}/std"] = output[0], output[1]
        for layer, shares in self._dead.items():
            found[f"{layer}/dead"] = torch.stack(shares).mean()
        return found

    def _keep(self, layer: str) -> Any:
        def look(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                values = output.detach().float()
                self._outputs[layer] = torch.stack([values.mean(), values.std(correction=0)])

        return look

    def _count(self, layer: str) -> Any:
        def look(module: nn.Module, arguments: Any, output: Tensor) -> None:
            channels = 1 if output.ndim == 4 else output.ndim - 1
            others = [d for d in range(output.ndim) if d != channels]
            self._dead.setdefault(layer, []).append((output.detach().amax(others) <= 0).float().mean())

        return look
