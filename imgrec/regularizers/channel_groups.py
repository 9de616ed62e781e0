"""Groups of weights that belong to the same channel, for structured sparsity."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.utils.forward import preserve_modes
from imgrec.utils.optional import require

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Slices:
    """Part of one weight in a group: slices along ``dim``, and the channel of each slice."""

    name: str
    dim: int
    at: Tensor
    """Int64 ``(slices,)``, positions along ``dim``."""
    channel: Tensor
    """Int64 ``(slices,)``, indices of their channels."""
    size: float
    """Number of weights in all slices."""


@dataclass(frozen=True)
class PenaltyGroup:
    """Group of channels that can be pruned one by one, with every slice of every weight that belongs to them."""

    channels: int
    slices: tuple[Slices, ...]

    @property
    def size(self) -> float:
        """Number of weights per channel."""
        return sum(part.size for part in self.slices) / self.channels

    def restricted_to(self, names: Collection[str]) -> PenaltyGroup | None:
        """Return the same channels with only the weights of these names, or ``None`` if there are none."""
        slices = tuple(part for part in self.slices if part.name in names)
        return PenaltyGroup(self.channels, slices) if slices else None

    def squares(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the squares of the weights per channel, float ``(channels,)``."""
        first = weights[self.slices[0].name]
        total = torch.zeros(self.channels, dtype=torch.float32, device=first.device)
        for part in self.slices:
            weight = weights[part.name].float()
            others = [dim for dim in range(weight.dim()) if dim != part.dim]
            squares = weight.square().sum(others) if others else weight.square()
            total = total.index_add(0, part.channel.to(weight.device), squares[part.at.to(weight.device)])
        return total


def channel_groups(model: nn.Module, images: Tensor) -> list[PenaltyGroup]:
    """Return the groups of channels of a network that can be pruned together, without its outputs.

    A channel consists of its filter, its scale in a normalization layer, and the weights of every layer that reads it.
    If branches are added, it includes the channels of all of them. The dependency graph of torch-pruning finds the
    groups.

    Args:
        model: Network, which is not changed. Its outputs are those of its ``head``, or of its last linear layer.
        images: Batch of images that the network accepts.

    Raises:
        UserError: If torch-pruning is missing, or if there is no channel to prune.

    Source: Fang et al., 2023, "DepGraph: towards any structural pruning", arXiv 2301.12900.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 2))
    >>> [(g.channels, g.size, [s.name for s in g.slices]) for g in channel_groups(net, torch.zeros(1, 3, 4, 4))]
    [(8, 36.0, ['0.weight', '1.weight', '3.weight'])]
    """
    pruning = require("torch_pruning", "compress", "a penalty on groups of channels")
    names = {module: name for name, module in model.named_modules()}
    with _traceable(model):
        graph = pruning.DependencyGraph().build_dependency(model, images[:1], verbose=False)
    weights = dict(model.named_parameters(remove_duplicate=False))
    found = []
    for group in graph.get_all_groups(ignored_layers=_outputs(model)):
        parts: dict[tuple[str, int], Slices] = {}
        for item in group.items:
            module = item.dep.target.module
            dim = _dim(module, graph.is_out_channel_pruning_fn(item.dep.handler))
            channels = item.root_idxs
            if dim is None or module not in names or any(channel is None for channel in channels):
                continue
            name = f"{names[module]}.weight" if names[module] else "weight"
            if name not in weights:
                raise UserError(f"{name} is computed from other weights, so its channels cannot be penalized.")
            size = len(item.idxs) * weights[name].numel() / weights[name].shape[dim]
            parts.setdefault((name, dim), Slices(name, dim, torch.tensor(item.idxs), torch.tensor(channels), size))
        if parts:
            found.append(PenaltyGroup(len(group.items[0].idxs), tuple(parts.values())))
    if not found:
        raise UserError("model: expected a network with channels that can be pruned, got none.")
    return found


def _dim(module: Any, out: bool) -> int | None:
    """Return the dimension of the weight of a module along which channels are slices, or ``None``."""
    if isinstance(module, nn.Linear):
        return 0 if out else 1
    if isinstance(module, nn.modules.conv._ConvNd):
        if module.transposed:
            return None if module.groups > 1 else int(out)
        if out or module.groups == module.in_channels == module.out_channels:
            return 0
        return 1 if module.groups == 1 else None
    return 0 if isinstance(module, _NORMS) and module.weight is not None and module.weight.dim() == 1 else None


def _outputs(model: nn.Module) -> list[nn.Module]:
    head = getattr(model, "head", None)
    if isinstance(head, nn.Module) and list(head.parameters()):
        return list(head.modules())
    linear: list[nn.Module] = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return linear[-1:]


@contextmanager
def _traceable(model: nn.Module) -> Iterator[None]:
    """Disable compilation and fused attention inside the context, so that the network can be traced."""
    kind = next((p.device.type for p in model.parameters()), "cpu")
    fused = [module for module in model.modules() if getattr(module, "fused_attn", False) is True]
    with ExitStack() as stack:
        stack.enter_context(preserve_modes(model))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(torch.enable_grad())
        for module in fused:
            vars(module)["fused_attn"] = False
        try:
            yield
        finally:
            for module in fused:
                vars(module)["fused_attn"] = True
