"""Norms of weights and gradients, and statistics of activations, by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from imgrec.models.utils.hooks import HookGroup

_AROUND = ("model", "backbone", "network")
"""Names of the modules that contain the layers of a task, which are omitted."""
_RECTIFIERS = (nn.ReLU, nn.ReLU6)


def layer_name(name: str, depth: int = 1) -> str:
    """Return the name of the layer that contains a module or parameter, with at most ``depth`` parts.

    >>> layer_name("model.backbone.network.layer1.0.conv1"), layer_name("model.head.linear")
    ('layer1', 'head')
    >>> layer_name("model.backbone.network.layer1.0.conv1", depth=2)
    'layer1.0'
    """
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _AROUND:
        parts = parts[1:]
    return ".".join(parts[:depth])


@torch.no_grad()
def layer_norms(tensors: Mapping[str, Tensor], depth: int = 1) -> dict[str, Tensor]:
    """Return the Euclidean norm of all tensors of each layer, as scalars on the device.

    Args:
        tensors: Tensors by parameter name.
        depth: Number of parts of the name of a layer. See :func:`layer_name`. Defaults to 1.
    """
    found: dict[str, list[Tensor]] = {}
    if tensors:
        norms = torch._foreach_norm(list(tensors.values()))
        for name, norm in zip(tensors, norms, strict=True):
            found.setdefault(layer_name(name.rpartition(".")[0] or name, depth), []).append(norm.float())
    return {layer: torch.linalg.vector_norm(torch.stack(parts)) for layer, parts in found.items()}


class ActivationProbe(HookGroup):
    """Context manager that records the mean, the standard deviation and the share of dead units of each layer.

    A unit is a channel of the output of a ReLU. It is dead if it is 0 everywhere, in every image of the batch.
    ``figures`` contains ``<layer>/mean``, ``<layer>/std`` and the share ``<layer>/dead`` as scalars on the device. If a
    layer is called several times, the first two belong to its last call, and the share is the mean of all calls.
    Modules in a compiled graph and rectifiers that are functions are not recorded.

    Args:
        root: Module that contains the layers.
        depth: Number of parts of the name of a layer. See :func:`layer_name`. Defaults to 1.
    """

    def __init__(self, root: nn.Module, depth: int = 1) -> None:
        super().__init__()
        self.root = root
        self.depth = depth
        self._outputs: dict[str, Tensor] = {}
        self._dead: dict[str, list[Tensor]] = {}

    def register_hooks(self) -> list[RemovableHandle]:
        """Register hooks on the layers and their rectifiers, and discard earlier records."""
        self._outputs, self._dead = {}, {}
        hooked: set[str] = set()
        handles: list[RemovableHandle] = []
        for name, module in self.root.named_modules():
            if not name or name.rpartition(".")[2] in _AROUND:
                continue
            layer = layer_name(name, self.depth)
            if isinstance(module, _RECTIFIERS):
                handles.append(module.register_forward_hook(self._count(layer)))
            is_layer = layer_name(name, self.depth + 1) == layer
            if is_layer and layer not in hooked and any(True for _ in module.parameters()):
                hooked.add(layer)
                handles.append(module.register_forward_hook(self._record(layer)))
        return handles

    @property
    def figures(self) -> dict[str, Tensor]:
        """Recorded statistics."""
        found: dict[str, Tensor] = {}
        for layer, output in self._outputs.items():
            found[f"{layer}/mean"], found[f"{layer}/std"] = output[0], output[1]
        for layer, shares in self._dead.items():
            found[f"{layer}/dead"] = torch.stack(shares).mean()
        return found

    def _record(self, layer: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                values = output.detach().float()
                self._outputs[layer] = torch.stack([values.mean(), values.std(correction=0)])

        return hook

    def _count(self, layer: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            channels = 1 if output.ndim == 4 else output.ndim - 1
            others = [d for d in range(output.ndim) if d != channels]
            self._dead.setdefault(layer, []).append((output.detach().amax(others) <= 0).float().mean())

        return hook
