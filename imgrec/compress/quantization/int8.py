"""Conversion of a quantization-aware classifier to int8."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.ao.quantization.fx._decomposed import quantized_decomposed_lib  # noqa: F401  # registers the operators

from imgrec.compress.quantization.fake_quantize import (
    ACTIVATION_LIMIT,
    WEIGHT_LIMIT,
    fake_weight,
    integer_weights,
    weight_scales,
)
from imgrec.compress.quantization.qat import QuantizedClassifier
from imgrec.compress.quantization.quantizer_placement import NORM, WEIGHTED, norm_after, preserves_quantization
from imgrec.compress.quantization.tracing import Program, is_buffer_update
from imgrec.compress.surgery import surgery_of
from imgrec.models import Classifier
from imgrec.models.backbones.base import Features

aten: Any = torch.ops.aten
steps: Any = torch.ops.quantized_decomposed


class Int8Classifier(Classifier):
    """A classifier in int8 for inference, converted from a :class:`QuantizedClassifier`.

    Weights are int8 with a scale per output channel. Batch normalization is folded into them. Quantize and dequantize
    operations are placed between the layers. PyTorch executes them one by one, with the results of int8 but not its
    speed. In ONNX they are the QDQ format, which a runtime fuses into int8 kernels.
    """

    def __init__(self, quantized: QuantizedClassifier) -> None:
        nn.Module.__init__(self)
        for name in ("mean", "std"):
            self.register_buffer(name, getattr(quantized, name).detach().clone())
        self.surgery = surgery_of(quantized)
        self.tensors = nn.Module()
        self.program = Program(_Conversion(quantized, self.tensors).graph)
        self.eval()

    def train(self, mode: bool = True) -> Int8Classifier:
        """Keep evaluation mode, because integers cannot be trained."""
        super().train(False)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float ``(batch, num_classes)``."""
        return self.program(self, self.normalize(images))[0]

    def forward_all(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return the logits, the pooled features and no auxiliary logits."""
        logits, pooled, *_ = self.program(self, self.normalize(images))
        return logits, pooled, ()

    def features(self, images: Tensor) -> Features:
        """Return the features of the backbone for unnormalized images."""
        return Features(self.forward_all(images)[1])


def to_int8(quantized: QuantizedClassifier) -> Int8Classifier:
    """Convert a quantization-aware classifier to int8. The original is not changed.

    The logits are equal to those of ``quantized`` in evaluation mode except for the order of summation. A value halfway
    between two integers may therefore be rounded to the other one.
    """
    with torch.no_grad():
        return Int8Classifier(quantized)


class _Conversion:
    """Conversion of the graph of a classifier. The tensors that the new graph uses are stored in ``tensors``."""

    def __init__(self, quantized: QuantizedClassifier, tensors: nn.Module) -> None:
        self.owner = quantized
        self.tensors = tensors
        self.graph = fx.Graph()
        given: Any = self.graph.graph_copy(quantized.program.graph, {})
        self.graph.output(given)
        self._steps: dict[fx.Node, tuple[float, int]] = {}
        for node in list(self.graph.nodes):
            if node.op == "call_module":
                self._round(node)
            elif node.op == "call_function":
                self._call(node)
        self.graph.eliminate_dead_code()
        for node in self.graph.nodes:
            if node.op == "get_attr" and not str(node.target).startswith("tensors."):
                value = operator.attrgetter(node.target)(self.owner)
                node.target = self._keep(str(node.target), value.detach().clone())
        self.graph.lint()

    def _call(self, node: fx.Node) -> None:
        if node.target in WEIGHTED and _is_rounded(node.args[1]):
            self._layer(node)
        elif node.target is NORM:
            node.update_arg(5, False)
        elif node.target in (aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default):
            node.replace_all_uses_with(_input(node))
            self.graph.erase_node(node)
        elif is_buffer_update(node):
            self.graph.erase_node(node)
        elif preserves_quantization(node) and _input(node) in self._steps:
            # the runtime requires integers before and after operations that only move values
            self._whole(node, *self._steps[_input(node)])

    def _round(self, node: fx.Node) -> None:
        scale, zero = operator.attrgetter(str(node.target))(self.owner).step()
        whole = self._whole(_input(node), float(scale), int(zero), before=node)
        node.replace_all_uses_with(whole)
        self.graph.erase_node(node)

    def _whole(self, node: fx.Node, scale: float, zero: int, before: fx.Node | None = None) -> fx.Node:
        arguments = (scale, zero, 0, ACTIVATION_LIMIT, torch.uint8)
        users = list(node.users)
        place = before if before is not None else node.next
        with self.graph.inserting_before(place):
            whole = self.graph.call_function(steps.quantize_per_tensor.default, (node, *arguments))
            back = self.graph.call_function(steps.dequantize_per_tensor.default, (whole, *arguments))
        if before is None:
            for user in users:
                user.replace_input_with(node, back)
        self._steps[back] = (scale, zero)
        return back

    def _layer(self, node: fx.Node) -> None:
        weight, bias = self._value(node.args[1].args[0]), None  # type: ignore[union-attr]
        if len(node.args) > 2 and node.args[2] is not None:
            bias = self._value(node.args[2])
        whole, scales = integer_weights(weight), weight_scales(weight)
        norm = norm_after(node)
        if norm is not None:
            gain, shift, mean, variance = (None if each is None else self._value(each) for each in norm.args[1:5])
            factor = torch.rsqrt(variance + float(norm.args[7]))  # type: ignore[operator, arg-type]
            factor = factor if gain is None else factor * gain
            bias = (0 - mean if bias is None else bias - mean) * factor  # type: ignore[operator]
            bias = bias if shift is None else bias + shift
            shape = (-1, *(1,) * (weight.dim() - 1))
            whole = whole * torch.where(factor < 0, -1, 1).to(torch.int8).view(shape)
            scales = (scales * factor.abs()).clamp_min(torch.finfo(torch.float32).tiny)
            norm.replace_all_uses_with(node)
            self.graph.erase_node(norm)
        name = str(node.args[1].args[0].target)  # type: ignore[union-attr]
        zeros = torch.zeros_like(scales, dtype=torch.int64)
        with self.graph.inserting_before(node):
            held = [
                self._get(f"{name}_{part}", value)
                for part, value in (("whole", whole), ("step", scales), ("zero", zeros))
            ]
            arguments: tuple[Any, ...] = (*held, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT, torch.int8)
            node.update_arg(1, self.graph.call_function(steps.dequantize_per_channel.default, arguments))
            if bias is not None:
                added = self._bias(node, f"{name}_bias", bias, scales)
                node.args = (*node.args[:2], added, *node.args[3:])

    def _bias(self, node: fx.Node, name: str, bias: Tensor, scales: Tensor) -> fx.Node:
        """Return the bias as int32 in units of input scale times weight scale, as int8 kernels add it."""
        source = _input(node)
        if source not in self._steps:
            return self._get(name, bias)
        unit = scales * self._steps[source][0]
        limit = 2.0**31 - 1
        whole = (bias.double() / unit.double()).round().clamp(-limit, limit)
        if bool((whole.abs() == limit).any()):
            return self._get(name, bias)
        held = [
            self._get(f"{name}_{part}", value)
            for part, value in (
                ("whole", whole.to(torch.int32)),
                ("step", unit),
                ("zero", torch.zeros_like(unit, dtype=torch.int64)),
            )
        ]
        arguments: tuple[Any, ...] = (*held, 0, -(2**31), 2**31 - 1, torch.int32)
        return self.graph.call_function(steps.dequantize_per_channel.default, arguments)

    def _value(self, node: Any) -> Tensor:
        found: Tensor = operator.attrgetter(node.target)(self.owner).detach().float()
        return found

    def _get(self, name: str, value: Tensor) -> fx.Node:
        return self.graph.create_node("get_attr", self._keep(name, value))

    def _keep(self, name: str, value: Tensor) -> str:
        plain = name.replace(".", "_")
        self.tensors.register_buffer(plain, value)
        return f"tensors.{plain}"


def _is_rounded(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.target is fake_weight


def _input(node: fx.Node) -> fx.Node:
    found = node.args[0]
    assert isinstance(found, fx.Node)
    return found
