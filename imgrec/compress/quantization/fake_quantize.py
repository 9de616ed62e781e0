"""The rounding of int8 in floating point: what a network in training feels of it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

WEIGHT_LIMIT = 127
"""Weights are whole numbers from -127 to 127: symmetric, so that a sign can be turned."""

ACTIVATION_LIMIT = 255
"""Activations are whole numbers from 0 to 255."""

_SMALLEST = 1e-12

Watching = Literal["no", "average", "widest"]
"""What a range makes of the values that pass: nothing; in training, a moving average; in any mode, the widest."""


def weight_scales(weight: Tensor) -> Tensor:
    """The step between two neighbouring values of each output channel's weights in int8, ``(out_channels,)``.

    >>> weight_scales(torch.tensor([[1.27, -0.5], [0.0, -2.54]]))
    tensor([0.0100, 0.0200])
    """
    return (weight.detach().flatten(1).abs().amax(1) / WEIGHT_LIMIT).clamp_min(_SMALLEST)


def whole_weights(weight: Tensor) -> Tensor:
    """The weights in int8, of the same shape: multiples of :func:`weight_scales`."""
    inverse = (1 / weight_scales(weight)).view(-1, *(1,) * (weight.dim() - 1))
    return (weight.detach() * inverse).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int8)


def fake_weight(weight: Tensor) -> Tensor:
    """The weights as int8 has them, in floating point; the gradient passes as if nothing had been rounded.

    The step of each output channel follows from its largest weight. A factor for each channel, batch normalization's
    say, gives the same whole numbers before or after: int8 needs no weights with the normalization folded in while it
    is learnt.

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", arXiv 1712.05877; Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons",
    arXiv 1308.3432.

    >>> fake_weight(torch.tensor([[1.27, -0.504]]))
    tensor([[ 1.2700, -0.5000]])
    """
    scales = weight_scales(weight)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    rounded: Tensor = torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT)
    return rounded


class ActivationRange(nn.Module):
    """Rounds what passes to 256 values between two bounds, which it learns from what passes.

    The bounds always hold zero. They are buffers: in a checkpoint, averaged as batch norm's statistics are, the same in
    all processes. Values outside are cut off, and pass no gradient.

    Args:
        momentum: how much of a training batch's extremes goes into the moving average.

    >>> _ = (bounds := ActivationRange()).watching = "widest"
    >>> _ = bounds(torch.tensor([0.0, 2.55]))
    >>> bounds.watching = "no"
    >>> bounds(torch.tensor([0.004, 1.0, 9.0]))
    tensor([0.0000, 1.0000, 2.5500])
    """

    low: Tensor
    high: Tensor
    watching: Watching = "average"

    def __init__(self, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """Round, of any shape."""
        if self.watching == "widest" or (self.watching == "average" and self.training):
            self._watch(values.detach())
        scale, zero = self.step()
        rounded: Tensor = torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, ACTIVATION_LIMIT)
        return rounded

    def step(self) -> tuple[Tensor, Tensor]:
        """The step between two neighbouring values, float32, and the whole number that stands for zero, int32."""
        low, high = self.low.clamp_max(0), self.high.clamp_min(0)
        scale = ((high - low) / ACTIVATION_LIMIT).clamp_min(_SMALLEST)
        return scale, (-low / scale).round().to(torch.int32)

    @torch.no_grad()
    def _watch(self, values: Tensor) -> None:
        low, high = torch.aminmax(values)
        if self.watching == "widest":
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        else:
            self.low.lerp_(low, self.momentum)
            self.high.lerp_(high, self.momentum)
