"""Fake quantization of weights and activations to int8."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

WEIGHT_LIMIT = 127
"""Weights are integers from -127 to 127. The range is symmetric, so that a factor of -1 can be folded in."""

ACTIVATION_LIMIT = 255
"""Activations are integers from 0 to 255."""

_SMALLEST = 1e-12

ObserverMode = Literal["no", "average", "widest"]
"""Update of an activation range: none, a moving average in training mode, or the running extremes in any mode."""


def weight_scales(weight: Tensor) -> Tensor:
    """Return the int8 scale of the weights of each output channel, ``(out_channels,)``.

    Example:
        >>> weight_scales(torch.tensor([[1.27, -0.5], [0.0, -2.54]]))
        tensor([0.0100, 0.0200])
    """
    return (weight.detach().flatten(1).abs().amax(1) / WEIGHT_LIMIT).clamp_min(_SMALLEST)


def integer_weights(weight: Tensor) -> Tensor:
    """Return the weights in int8, in units of :func:`weight_scales`, with the same shape."""
    inverse = (1 / weight_scales(weight)).view(-1, *(1,) * (weight.dim() - 1))
    return (weight.detach() * inverse).round().clamp(-WEIGHT_LIMIT, WEIGHT_LIMIT).to(torch.int8)


def fake_weight(weight: Tensor) -> Tensor:
    """Return the weights rounded to int8, in floating point. The gradient is that of the identity (straight-through).

    The scale of each output channel is determined by its largest weight. A factor per channel does not change the
    integers. Batch normalization can therefore be folded in after the training instead of during it.

    Source: Jacob et al. 2018, "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", arXiv 1712.05877; Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons",
    arXiv 1308.3432.

    Example:
        >>> fake_weight(torch.tensor([[1.27, -0.504]]))
        tensor([[ 1.2700, -0.5000]])
    """
    scales = weight_scales(weight)
    zeros = torch.zeros_like(scales, dtype=torch.int32)
    rounded: Tensor = torch.fake_quantize_per_channel_affine(weight, scales, zeros, 0, -WEIGHT_LIMIT, WEIGHT_LIMIT)
    return rounded


class ActivationRange(nn.Module):
    """Fake quantization of activations to 256 values between two bounds, which are observed.

    The range always contains zero. The bounds are buffers, so that they are stored in checkpoints, averaged like the
    statistics of batch normalization, and equal in all processes. Values outside are clamped and have no gradient.

    Args:
        momentum: Weight of the extremes of a training batch in the moving average, in [0, 1]. Defaults to 0.01.

    Example:
        >>> bounds = ActivationRange()
        >>> bounds.observer_mode = "widest"
        >>> _ = bounds(torch.tensor([0.0, 2.55]))
        >>> bounds.observer_mode = "no"
        >>> bounds(torch.tensor([0.004, 1.0, 9.0]))
        tensor([0.0000, 1.0000, 2.5500])
    """

    low: Tensor
    high: Tensor
    observer_mode: ObserverMode = "average"

    def __init__(self, momentum: float = 0.01) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, values: Tensor) -> Tensor:
        """Quantize values of any shape."""
        if self.observer_mode == "widest" or (self.observer_mode == "average" and self.training):
            self._observe(values.detach())
        scale, zero = self.step()
        rounded: Tensor = torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, ACTIVATION_LIMIT)
        return rounded

    def step(self) -> tuple[Tensor, Tensor]:
        """Return the scale, float32, and the zero point, int32."""
        low, high = self.low.clamp_max(0), self.high.clamp_min(0)
        scale = ((high - low) / ACTIVATION_LIMIT).clamp_min(_SMALLEST)
        return scale, (-low / scale).round().to(torch.int32)

    @torch.no_grad()
    def _observe(self, values: Tensor) -> None:
        low, high = torch.aminmax(values)
        if self.observer_mode == "widest":
            self.low.copy_(torch.minimum(self.low, low))
            self.high.copy_(torch.maximum(self.high, high))
        else:
            self.low.lerp_(low, self.momentum)
            self.high.lerp_(high, self.momentum)
