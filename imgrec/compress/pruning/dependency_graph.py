"""Groups of dependent channels of a network, from the dependency graph of torch-pruning."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imgrec.compress.pruning.widths import all_tensors
from imgrec.compress.surgery import surgical_copy
from imgrec.errors import UserError
from imgrec.models import AttentionPooling, Classifier, CosineHead
from imgrec.utils.optional import require

Attention = Literal["dims", "heads"]
"""Pruning of attention: dimensions of every head, or whole heads."""

_QUERIES = ("qkv", "q", "k", "v", "kv", "q_proj", "k_proj", "v_proj")


@dataclass(frozen=True)
class Member:
    """A layer that belongs to a group of channels.

    Attributes:
        name: Name of the layer.
        layer: Layer, or a parameter outside layers.
        output: True if the channels are outputs of the layer, False if they are inputs.
        indices: Channels of the layer.
        roots: Channels of the group that they belong to.
    """

    name: str
    layer: nn.Module | nn.Parameter
    output: bool
    indices: tuple[int, ...]
    roots: tuple[int, ...]


class ChannelGroup:
    """Channels that can only be removed together.

    Attributes:
        name: Name of the layer that represents the group.
        members: Layers that lose inputs or outputs with the channels of the group.
        units: Sets of channels that are removed at once. A unit is one channel, one channel per group of a grouped
            convolution, one dimension per attention head, or a whole head.
        heads: True if a unit is a whole head.
    """

    def __init__(
        self, name: str, root: Any, handler: Any, members: list[Member], units: list[list[int]], heads: bool
    ) -> None:
        self.heads = heads
        self.name = name
        self.members = members
        self.units = units
        self._root, self._handler = root, handler
        self._alive = sorted(channel for unit in units for channel in unit)

    def remove(self, graph: Any, units: Collection[int]) -> None:
        """Remove units from every member. Units that are already removed are ignored.

        Args:
            graph: Dependency graph of torch-pruning.
            units: Positions in :attr:`units`.
        """
        removed = {channel for unit in units for channel in self.units[unit]} & set(self._alive)
        if removed:
            places = [place for place, channel in enumerate(self._alive) if channel in removed]
            graph.get_pruning_group(self._root, self._handler, places).prune(record_history=False)
            self._alive = [channel for channel in self._alive if channel not in removed]


class ChannelGraph:
    """Groups of channels of a classifier, with a copy of it for pruning.

    The tensors of the copy contain the indices of their values, so that pruning returns the indices that remain.

    Args:
        classifier: Classifier. It is not changed.
        images: Batch of valid input for tracing.
        attention: Pruning of attention, see :data:`Attention`. Defaults to ``dims``.
        frozen: Names of layers whose outputs are not pruned. Defaults to none.

    Attributes:
        groups: Groups that may be pruned.

    Raises:
        UserError: If the network cannot be traced, or torch-pruning is not installed.
    """

    def __init__(
        self, classifier: Classifier, images: Tensor, attention: Attention = "dims", frozen: Collection[str] = ()
    ) -> None:
        self._tp = require("torch_pruning", "compress", "pruning channels")
        if isinstance(classifier.pooling, AttentionPooling):  # its query is not computed from the images
            raise UserError(
                "pooling: expected average, max or gem for a network to prune, got attention. Its dependencies between "
                "channels cannot be traced."
            )
        self.work = copy_for_tracing(classifier)
        self._names = {module: name for name, module in self.work.named_modules()}
        self._by_heads = attention == "heads"
        for module in self.work.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # the fused operator hides the dependencies of its inputs
        self._heads: dict[Any, int] = dict(_heads(self.work))
        layers = dict(self.work.named_modules())
        self._frozen = [*self.work.head.modules(), *(layers[name] for name in frozen)]
        self._graph = self._trace(images)
        with torch.no_grad():
            for _, tensor in all_tensors(self.work):
                if tensor.is_floating_point():
                    codes = torch.arange(tensor.numel(), dtype=torch.float64)
                    tensor.data = codes.view(tensor.shape)
        self.groups = list(self._find_groups())

    def _trace(self, images: Tensor) -> Any:
        found = images.detach().cpu()[:2]
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")  # parameters outside layers are pruned in their last dimension
            try:
                return self._tp.DependencyGraph().build_dependency(
                    self.work, found, forward_fn=lambda model, given: model(given), verbose=False
                )
            except UserError:
                raise
            except Exception as error:  # the library and the network raise exceptions of many classes
                raise UserError(
                    f"the channels of this network cannot be pruned: torch-pruning cannot trace it "
                    f"({type(error).__name__}: {str(error).partition(chr(10))[0][:200]})"
                ) from error

    def _find_groups(self) -> Iterator[ChannelGroup]:
        for found in self._graph.get_all_groups(
            ignored_layers=self._frozen, root_module_types=[nn.modules.conv._ConvNd, nn.Linear]
        ):
            group = self._reroot(found)
            if group is None:
                continue
            members = [self._member(item) for item in group]
            root = group[0].dep
            name = self._names.get(found[0].dep.target.module, "")
            units, heads = self._units(members, len(group[0].idxs))
            yield ChannelGroup(name, root.target.module, root.handler, members, units, heads)

    def _reroot(self, group: Any) -> Any:
        """Return a group of attention with its output projection as root, which contains each channel once."""
        is_attention = any(member.output and member.layer in self._heads for member in map(self._member, group))
        if not is_attention:
            return group
        projections = [
            item
            for item in group
            if isinstance(item.dep.target.module, nn.Linear | nn.Conv2d)
            and self._graph.is_in_channel_pruning_fn(item.dep.handler)
        ]
        if not projections:
            return None
        last = projections[-1]
        return self._graph.get_pruning_group(last.dep.target.module, last.dep.handler, last.idxs)

    def _member(self, item: Any) -> Member:
        layer = item.dep.target.module
        return Member(
            name=self._names.get(layer, ""),
            layer=layer,
            output=bool(self._graph.is_out_channel_pruning_fn(item.dep.handler)),
            indices=tuple(item.idxs),
            roots=tuple(-1 if root is None else int(root) for root in item.root_idxs),
        )

    def _units(self, members: list[Member], count: int) -> tuple[list[list[int]], bool]:
        heads = max((self._heads.get(member.layer, 1) for member in members if member.output), default=1)
        if heads > 1 and self._by_heads and not any(isinstance(m.layer, nn.MultiheadAttention) for m in members):
            size = count // heads
            return [list(range(head * size, (head + 1) * size)) for head in range(heads)], True
        parts = max([heads, *(_parts(member.layer) for member in members)])
        size = count // parts
        return [[unit + part * size for part in range(parts)] for unit in range(size)], False

    def remove(self, group: ChannelGroup, units: Collection[int]) -> None:
        """Remove units of a group."""
        group.remove(self._graph, units)
        if group.heads:
            for layer in {m.layer for m in group.members if m.output and m.layer in self._heads}:
                self._heads[layer] = len(group.units) - len(set(units))

    def pruned(self) -> tuple[nn.Module, dict[str, Tensor]]:
        """Return the pruned copy with updated attributes, and the indices of the remaining values of each tensor."""
        _update_attributes(self.work, self._heads)
        kept = {name: tensor.detach().long() for name, tensor in all_tensors(self.work) if tensor.is_floating_point()}
        return self.work, kept


def copy_for_tracing(classifier: Classifier) -> Any:
    """Return a copy on the CPU, in double precision and evaluation mode, with gradients for all parameters."""
    found: Any = surgical_copy(classifier).cpu().double().eval()
    found.requires_grad_(True)
    if isinstance(found.head, CosineHead):  # its product is not a layer and would not be traced
        weight = found.head.weight
        found.head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        found.head.weight = weight
    return found


def _heads(model: nn.Module) -> Iterator[tuple[nn.Module, int]]:
    for module in model.modules():
        count = getattr(module, "num_heads", None)
        if not isinstance(count, int):
            continue
        if isinstance(module, nn.MultiheadAttention):
            yield module, count
        for name in _QUERIES:
            child = getattr(module, name, None)
            if isinstance(child, nn.Linear):
                yield child, count


def _parts(layer: nn.Module | nn.Parameter) -> int:
    if isinstance(layer, nn.modules.conv._ConvNd) and layer.groups < layer.out_channels:
        return layer.groups
    return layer.num_groups if isinstance(layer, nn.GroupNorm) else 1


def _update_attributes(model: nn.Module, heads: dict[Any, int]) -> None:
    """Update the attributes of modules that torch-pruning does not support."""
    for module in model.modules():
        first = next((getattr(module, n) for n in _QUERIES if getattr(module, n, None) in heads), None)
        if first is not None and isinstance(first, nn.Linear):
            total: int = first.out_features // (3 if first is getattr(module, "qkv", None) else 1)
            size = total // heads[first]
            _set(module, num_heads=heads[first], head_dim=size, attn_dim=total)
            if isinstance(getattr(module, "scale", None), float):
                _set(module, scale=size**-0.5)  # the default of the fused operator for heads of this size
        patches = getattr(module, "conv_proj", None)  # torchvision's ViT
        if isinstance(patches, nn.Conv2d):
            _set(module, hidden_dim=patches.out_channels)


def _set(module: nn.Module, **numbers: float) -> None:
    for name, value in numbers.items():
        if isinstance(getattr(module, name, None), int | float):
            setattr(module, name, value)
