"""Placement of quantizers so that ONNX Runtime can run the operators between them in int8."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from imgrec.compress.quantization.tracing import layer_of_node

aten: Any = torch.ops.aten

WEIGHTED = (aten.conv2d.default, aten.conv2d.padding, aten.linear.default)
"""Layers with int8 weights. Argument 0 is the input, 1 the weight, 2 the bias."""

NORM = aten.batch_norm.default

_OTHER_WEIGHTED = (
    aten.conv1d.default,
    aten.conv3d.default,
    aten.conv_transpose2d.input,
    aten.conv_transpose1d.default,
    aten.bilinear.default,
    aten.addmm.default,
)
_CUTS = (aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default)
_JOINS = (aten.add.Tensor, aten.mul.Tensor)
_POOLS = (aten.avg_pool2d.default, aten.adaptive_avg_pool2d.default, aten.mean.dim)
_PRESERVING = (
    aten.max_pool2d.default,
    aten.flatten.using_ints,
    aten.view.default,
    aten.reshape.default,
    aten.permute.default,
    aten.transpose.int,
    aten.contiguous.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.unsqueeze.default,
    aten.dropout.default,
    aten.feature_dropout.default,
    aten.pad.default,
)
"""Operators whose outputs are input values or zeros, so that a quantized input has a quantized output."""


@dataclass(frozen=True)
class QuantizerPlacement:
    """Quantized weights and activations of a graph.

    Attributes:
        layers: Convolutions and linear layers with quantized weights.
        tensors: Nodes with quantized outputs.
        float_layers: Names of layers that stay in floating point, each with the reason.
    """

    layers: tuple[fx.Node, ...]
    tensors: tuple[fx.Node, ...]
    float_layers: dict[str, str]


def place_quantizers(graph: fx.Graph) -> QuantizerPlacement:
    """Select the weights and activations of a graph that are quantized.

    Quantized are the weights and inputs of convolutions and linear layers, and the outputs of convolutions after fused
    batch normalization and ReLU. Sums, products and concatenations of these outputs and average pools are also
    quantized. The sums of a transformer and the outputs of its linear layers stay in floating point. ONNX Runtime
    multiplies int8 there and adds in float32.

    Args:
        graph: Graph of :func:`imgrec.compress.quantization.tracing.trace`.
    """
    layers: list[fx.Node] = []
    float_layers: dict[str, str] = {}
    found: dict[fx.Node, None] = {}
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if node.target in WEIGHTED:
            weight = node.args[1]
            if not _is_own_weight(weight, node):
                float_layers[layer_of_node(node)] = "its weight is computed or shared with another layer"
                continue
            layers.append(node)
            found[_source(node.args[0])] = None
            if node.target is not aten.linear.default:
                found[_end(node)] = None
        elif node.target in _OTHER_WEIGHTED:
            float_layers[layer_of_node(node)] = f"there is no int8 kernel for {node.target.__name__.partition('.')[0]}"
        elif _is_join(node):
            found |= dict.fromkeys(_source(each) for each in _operands(node))
            found[_end(node)] = None
        elif node.target in _POOLS and _of_maps(node):
            found |= {_source(node.args[0]): None, node: None}
    return QuantizerPlacement(tuple(layers), tuple(node for node in graph.nodes if node in found), float_layers)


def preserves_quantization(node: fx.Node) -> bool:
    """Return True if the output of a node is quantized if its input is."""
    return node.op == "call_function" and node.target in _PRESERVING


def norm_after(layer: fx.Node) -> fx.Node | None:
    """Return the batch normalization that is the only user of a convolution and can be folded into it, or ``None``."""
    user = next(iter(layer.users)) if len(layer.users) == 1 else None
    with_statistics = user is not None and user.target is NORM and user.args[3] is not None
    return user if with_statistics and layer.target in WEIGHTED[:2] else None


def _is_own_weight(weight: Any, layer: fx.Node) -> bool:
    return isinstance(weight, fx.Node) and weight.op == "get_attr" and list(weight.users) == [layer]


def _source(node: Any) -> fx.Node:
    """Return the node that computed the values, before operators that only move them."""
    while preserves_quantization(node):
        node = node.args[0]
    found: fx.Node = node
    return found


def _end(node: fx.Node) -> fx.Node:
    """Return the last node that is fused with a layer or a sum."""
    node = norm_after(node) or node
    while len(node.users) == 1 and (user := next(iter(node.users))).target in _CUTS and user.args[0] is node:
        node = user
    return node


def _operands(node: fx.Node) -> list[fx.Node]:
    given: Iterable[Any] = node.args[0] if node.target is aten.cat.default else node.args[:2]  # type: ignore[assignment]
    return [each for each in given if isinstance(each, fx.Node)]


def _is_join(node: fx.Node) -> bool:
    if node.target is not aten.cat.default and (node.target not in _JOINS or node.kwargs):
        return False
    operands = _operands(node)
    if node.target in _JOINS and len(operands) < 2:
        return False
    maps = [each for each in operands if each.op != "get_attr" and _rank(each) == 4]
    return len(maps) == len(operands) and any(_is_convolved(each) for each in operands)


def _is_convolved(node: fx.Node) -> bool:
    """Return True if a node computes elementwise functions of the output of a convolution."""
    while node.op == "call_function":
        if node.target in WEIGHTED[:2] or node.target is aten.cat.default or node.target in _POOLS:
            return True
        if node.target in _JOINS:
            return any(_is_convolved(each) for each in _operands(node))
        first = node.args[0] if node.args else None
        if not isinstance(first, fx.Node) or node.target in (aten.linear.default, aten.layer_norm.default):
            return False
        node = first
    return False


def _of_maps(node: fx.Node) -> bool:
    if _rank(node.args[0]) != 4:
        return False
    if node.target is not aten.mean.dim:
        return True
    over: Any = node.args[1]
    return sorted(each % 4 for each in over) == [2, 3]


def _rank(node: Any) -> int:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dim() if isinstance(value, torch.Tensor) else -1
