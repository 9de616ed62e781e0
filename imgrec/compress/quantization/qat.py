"""Quantization-aware training: a classifier that computes as int8 will, and learns on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from imgrec.compress.quantization.fake_quantize import ActivationRange, Watching, fake_weight
from imgrec.compress.quantization.quantizer_placement import place_quantizers
from imgrec.compress.quantization.tracing import Program, layer_of, trace
from imgrec.compress.surgery import note_step, refuse_parametrized, surgery_of, surgical
from imgrec.errors import UserError
from imgrec.models import Classifier
from imgrec.models.backbones.base import Features
from imgrec.models.utils.forward import evaluating


class QuantizedClassifier(Classifier):
    """A classifier whose weights and activations are rounded as int8 has them, in floating point.

    Its layers are those of the classifier it was made of, the same objects with the same parameters under the same
    names: an optimizer, an average of the weights, masks and a layer-wise learning rate go on with them. What is added
    are the bounds of the activations, in ``ranges``. The network itself is a traced graph; hooks on single layers are
    not called.

    What is rounded is what ONNX Runtime has int8 kernels for, see
    :func:`imgrec.compress.quantization.quantizer_placement.place_quantizers`; the
    pass through it is in float32, under automatic mixed precision, too.

    Args:
        classifier: is taken apart; use it no more.
        channels: of its images.
        image_size: side length of its images, which is fixed from now on.

    Attributes:
        freeze_norms: whether batch normalization in training uses its running statistics, and leaves them.
        left: layers that stay in floating point, with the reason.

    Raises:
        UserError: the network cannot be traced, or holds no layer that can be quantized.
    """

    def __init__(self, classifier: Classifier, channels: int, image_size: int) -> None:
        if type(classifier) is not Classifier:
            raise UserError(
                f"quantization takes an imgrec Classifier as its specs build it, got a {type(classifier).__name__}"
            )
        refuse_parametrized(classifier)
        graph, constants = trace(classifier, channels, image_size)
        places = place_quantizers(graph)
        if not places.layers:
            why = next(iter(places.left.values()), "it has no convolution and no linear layer")
            raise UserError(f"the network has no layer that can be quantized: {why}")
        super().__init__(classifier.backbone, classifier.head, (), (), classifier.neck, classifier.pooling)
        self.mean, self.std = classifier.mean, classifier.std
        self.channels_last = classifier.channels_last
        self.surgery = surgery_of(classifier)
        self.freeze_norms = False
        self.left = places.left
        device = self.mean.device
        self.constants = _Constants(constants)
        self.ranges = nn.ModuleDict()
        for node in places.layers:
            with graph.inserting_before(node):
                node.update_arg(1, graph.call_function(fake_weight, (node.args[1],)))
        for node in places.tensors:
            name = _unused(_name(node), self.ranges)
            self.ranges[name] = ActivationRange().to(device)
            with graph.inserting_after(node):
                rounded = graph.call_module(f"ranges.{name}", (node,))
            for user in list(node.users):
                if user is not rounded:
                    user.replace_input_with(node, rounded)
        graph.lint()
        self.program = Program(graph)
        self.train(classifier.training)
        note_step(self, {"step": "qat", "channels": channels, "image_size": image_size})

    @property
    def norms_learn(self) -> bool:
        """Whether batch normalization uses a batch's own statistics, and learns from them."""
        return self.training and not self.freeze_norms

    def forward(self, images: Tensor) -> Tensor:
        """The logits, float ``(batch, num_classes)``."""
        return self._run(images)[0]

    def forward_all(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Logits, features and auxiliary logits (none outside training) of one pass."""
        logits, pooled, *auxiliary = self._run(images)
        return logits, pooled, tuple(auxiliary) if self.training else ()

    def features(self, images: Tensor) -> Features:
        """What the backbone gives for images that are not normalized yet."""
        _, pooled, auxiliary = self.forward_all(images)
        return Features(pooled, auxiliary)

    def _run(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = self.normalize(images)
        with torch.autocast(pixels.device.type, enabled=False):
            return self.program(self, pixels.float())

    def watch(self, watching: Watching) -> None:
        """Say what the bounds of activations learn from."""
        for each in self.ranges.values():
            each.watching = watching  # type: ignore[assignment]

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Widen the bounds of activations to what they are for some images, in evaluation mode.

        Shapes: ``(batch, channels, height, width)``, uint8, or float in [0, 1].
        """
        with evaluating(self):
            bounds = [each for each in self.ranges.values() if isinstance(each, ActivationRange)]
            before = [each.watching for each in bounds]
            self.watch("widest")
            try:
                self(images)
            finally:
                for each, watching in zip(bounds, before, strict=True):
                    each.watching = watching

    @contextmanager
    def frozen_batch_stats(self) -> Iterator[None]:
        """Within, a pass in training leaves the bounds and batch normalization's running statistics as they are.

        What is learnt in the pass goes into copies: autograd may still hold the tensors that an earlier pass used.
        """
        ranges = [each for each in self.ranges.values() if isinstance(each, ActivationRange)]
        before = [each.watching for each in ranges]
        kept = [
            (module, name, buffer)
            for module in self.modules()
            if isinstance(module, nn.modules.batchnorm._NormBase)
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        self.watch("no")
        for module, name, buffer in kept:
            module._buffers[name] = buffer.clone()
        try:
            yield
        finally:
            for module, name, buffer in kept:
                module._buffers[name] = buffer
            for bounds, watching in zip(ranges, before, strict=True):
                bounds.watching = watching


class _Constants(nn.Module):
    """Tensors that a network makes anew at each pass."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name, value, persistent=False)


@surgical("qat")
def _again(model: nn.Module, step: Mapping[str, Any]) -> nn.Module:
    if not isinstance(model, Classifier):
        raise UserError(f"a {type(model).__name__} cannot be quantized, an imgrec Classifier can")
    try:
        channels, image_size = int(step["channels"]), int(step["image_size"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'the step "qat" lacks a number: {error}') from error
    return QuantizedClassifier(model, channels, image_size)


def _name(node: fx.Node) -> str:
    """A name that says what was rounded: the layer's, and for what has none of its own the operation's."""
    if node.op == "placeholder":
        return "images"
    layer = re.sub(r"\W", "_", layer_of(node)).removeprefix("backbone_network_").removeprefix("backbone_")
    operation = re.sub(r"_?\d+$", "", node.name).strip("_")
    return f"{layer}_{operation}" if layer else operation


def _unused(name: str, taken: nn.ModuleDict) -> str:
    number, wanted = 1, name
    while wanted in taken:
        number += 1
        wanted = f"{name}_{number}"
    return wanted
