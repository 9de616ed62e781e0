"""Recorder of the function calls and module outputs of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from imgrec.models.utils.probe_records import LayerOutput, ModelProbe, ResidualBranch

_ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
_PRODUCTS = {"mul", "mul_", "multiply", "div", "div_", "__mul__", "__rmul__", "__truediv__"}
_WEIGHTED = {"linear", "bilinear", "multi_head_attention_forward", "_native_multi_head_attention"} | {
    f"conv{transposed}{dims}d" for transposed in ("", "_transpose") for dims in (1, 2, 3)
}
_NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"}
_LAST_IS_CHANNEL = {"linear", "layer_norm", "rms_norm"}
_FIRST_IS_CHANNEL = {"batch_norm", "group_norm", "instance_norm", *(name for name in _WEIGHTED if "conv" in name)}
_LINEAR = {
    *("permute", "transpose", "swapaxes", "movedim", "reshape", "view", "flatten", "unflatten", "contiguous", "roll"),
    *("squeeze", "unsqueeze", "dropout", "dropout1d", "dropout2d", "to", "float", "pad", "__getitem__", "neg"),
}
"""Functions that map only zeros to zero and pass gradients on."""
_SMOOTH = {"gelu", "silu", "mish", "tanh"}
"""Functions that are 0 at 0, with a nonzero derivative."""
ACTIVATIONS = {"sigmoid", "relu", "relu_", "relu6", "leaky_relu", "elu", "celu", "selu", "prelu", "hardswish"} | {
    *("hardtanh", "hardsigmoid", "softplus", "logsigmoid", *_SMOOTH)
}
"""Functions that are separate layers in most networks."""


@dataclass
class _Node:
    """Version of a tensor, with the versions from which it was computed."""

    parents: tuple[int, ...]
    before: int
    """Bit mask of the nodes on which this one depends, including itself."""
    weighted: bool
    channels: int | None
    last: str | None
    ends: list[str] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)
    scaled: int | None = None
    """Index of the node of which this is a multiple, or ``None``."""


class Recorder(TorchFunctionMode):
    """Recorder of every function call and module output while it is active."""

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.modules = dict(network.named_modules())
        self.handles: list[RemovableHandle] = []
        self._nodes: list[_Node] = []
        self._of: dict[int, int] = {}
        self._alive: list[Tensor] = []
        self._inside: list[str] = []
        self._additions: list[tuple[int, int]] = []
        self._probe = ModelProbe()
        self._calls: dict[str, int] = {}
        self._note(images, (), channels=1)
        for name, module in self.modules.items():
            self.handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            self.handles.append(module.register_forward_hook(partial(self._leave, name)))

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        tensors = list(_tensors((args, kwargs)))
        known = [self._of[id(t)] for t in tensors if id(t) in self._of]
        if not known:
            return result
        if name in _ADDITIONS and len(known) == 2 and tensors[0].shape == tensors[1].shape:
            self._additions.append((known[0], known[1]))
        if name in ACTIVATIONS:
            self._probe.functions.append((name, self._inside[-1]))
        changes = name.endswith("_") or name.startswith("__i") or kwargs.get("inplace") is True
        for out in _tensors(result):
            if changes or id(out) not in self._of:
                self._note(out, tuple(known), name, args, kwargs, len(tensors))
        return result

    def _note(
        self,
        tensor: Tensor,
        parents: tuple[int, ...],
        name: str = "",
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        count: int = 0,
        channels: int | None = None,
    ) -> None:
        number = len(self._nodes)
        before = 1 << number
        for parent in parents:
            before |= self._nodes[parent].before
        if parents:
            channels = self._channels(tensor, parents, name, args, kwargs or {})
        weighted = name in _WEIGHTED or (name in ("matmul", "__matmul__", "einsum") and count > len(parents))
        scaled = parents[0] if name in _PRODUCTS and len(parents) == 1 else None
        node = _Node(parents, before, weighted, channels, self._last(name, parents, weighted), scaled=scaled)
        self._nodes.append(node)
        self._of[id(tensor)] = number
        self._alive.append(tensor)  # an id is unique only among living objects

    def _last(self, name: str, parents: tuple[int, ...], weighted: bool) -> str | None:
        if weighted or name in _NORMS:
            inside = self._inside[-1]
            if isinstance(self.modules[inside], nn.MultiheadAttention):
                return f"{inside}.out_proj"
            return inside if isinstance(getattr(self.modules[inside], "weight", None), Tensor) else None
        if name in _LINEAR | _SMOOTH | _PRODUCTS:
            found = [last for parent in parents if (last := self._nodes[parent].last) is not None]
            return found[0] if len(found) == 1 else None
        return None

    def _channels(
        self, out: Tensor, parents: tuple[int, ...], name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> int | None:
        if name in _LAST_IS_CHANNEL:
            return out.dim() - 1
        if name in _FIRST_IS_CHANNEL:
            return 1
        before = next((c for parent in parents if (c := self._nodes[parent].channels) is not None), None)
        if before is None:
            return None
        if name in ("permute", "transpose", "swapaxes"):
            order = _order(name, args[1:], kwargs, out.dim())
            return order.index(before) if order is not None else None
        if name in ("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "movedim", "__getitem__"):
            same = isinstance(args[0], Tensor) and args[0].dim() == out.dim() and args[0].shape == out.shape
            return before if same else None
        return before if before < out.dim() else None

    def _enter(self, name: str, module: nn.Module, inputs: Any) -> None:
        self._inside.append(name)

    def _leave(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._inside.pop()
        self._calls[name] = self._calls.get(name, 0) + 1
        if not isinstance(output, Tensor):
            return
        if id(output) not in self._of:  # made by code that the mode does not see
            known = tuple(self._of[id(t)] for t in _tensors(inputs) if id(t) in self._of)
            self._note(output, known, "" if known else "unknown")
        node = self._nodes[self._of[id(output)]]
        (node.slots if any(each is output for each in inputs) else node.ends).append(name)
        self._probe.outputs[name] = LayerOutput(tuple(output.shape), node.channels, self._calls[name])

    def result(self) -> ModelProbe:
        """Return the recorded outputs, functions and residual branches."""
        for one, other in self._additions:
            common = self._nodes[one].before & self._nodes[other].before
            if not common:
                continue
            start = common.bit_length() - 1
            costs = [self._cost(node, start) for node in (one, other)]
            if min(costs) <= _MOST_IN_SHORTCUT and costs[0] != costs[1]:
                self._probe.branches.append(self._branch(one if costs[0] > costs[1] else other))
        return self._probe

    def _cost(self, number: int, start: int) -> int:
        """Return the maximum number of layers with weights on a path from one node to another."""
        costs = {start: 0}
        for each in range(start + 1, number + 1):
            node = self._nodes[each]
            ways = [costs[parent] for parent in node.parents if parent in costs]
            if ways:
                costs[each] = node.weighted + max(ways)
        return costs[number]

    def _branch(self, number: int) -> ResidualBranch:
        node = self._nodes[number]
        last = node.last
        while not node.ends and not node.slots and node.scaled is not None:
            node = self._nodes[node.scaled]
        slots = [s for s in node.slots if type(self.modules[s]) is nn.Identity and self._calls[s] == 1]
        ends = [name for name in (*node.ends, *reversed(node.slots)) if self._calls[name] == 1]
        return ResidualBranch(ends[0] if ends else None, slots[-1] if slots else None, last)


_MOST_IN_SHORTCUT = 2
"""A shortcut is the identity, a 1x1 convolution, or a depthwise and a 1x1 convolution."""


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _order(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], dims: int) -> list[int] | None:
    """Return the input dimension of each dimension of the result."""
    dims_given = list(args) or list(kwargs.values())
    if len(dims_given) == 1 and isinstance(dims_given[0], Sequence):
        dims_given = list(dims_given[0])
    if not all(isinstance(each, int) for each in dims_given):
        return None
    dims_given = [each % dims for each in dims_given]
    if name == "permute":
        return dims_given
    order = list(range(dims))
    order[dims_given[0]], order[dims_given[1]] = order[dims_given[1]], order[dims_given[0]]
    return order
