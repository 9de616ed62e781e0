"""Distillation of intermediate features and of attention maps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import full_precision
from imgrec.losses.distillation.base import DISTILLATIONS, Distillation, Signals
from imgrec.utils.vectors import of_size_one, unit_length


def as_map(output: Tensor) -> Tensor:
    """Return the output of a layer as maps ``(batch, channels, height, width)``.

    Shapes: maps are returned unchanged. Vectors ``(batch, channels)`` become maps of one position. Tokens ``(batch,
        tokens,
    channels)`` become a square, without a class token in front.

    Raises:
        UserError: If the tensor has another shape.
    """
    if output.dim() == 4:
        return output
    if output.dim() == 2:
        return output[:, :, None, None]
    if output.dim() == 3:
        for first in (0, 1):
            side = math.isqrt(output.shape[1] - first)
            if side**2 == output.shape[1] - first > 0:
                return output[:, first:].transpose(1, 2).reshape(len(output), -1, side, side)
    raise UserError(f"layers: expected maps, tokens or vectors, got a tensor of shape {tuple(output.shape)}.")


def match_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Return two maps at the smaller height and width of both. The larger one is averaged over areas."""
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    smaller = [each if each.shape[2:] == size else F.adaptive_avg_pool2d(each, size) for each in (student, teacher)]
    return smaller[0], smaller[1]


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return half the mean squared difference of two maps with the same channels, after :func:`match_size`.

    Shapes: ``(batch, channels, height, width)`` to a scalar, float32 or wider.

    Example:
        >>> import torch
        >>> hint_loss(torch.ones(1, 2, 4, 4), torch.zeros(1, 2, 2, 2))
        tensor(0.5000)
    """
    student, teacher = match_size(full_precision(student), full_precision(teacher))
    return F.mse_loss(student, teacher) / 2


def attention_map(output: Tensor) -> Tensor:
    """Return the sum of squares over the channels, normalized to length 1 as a vector.

    Shapes: ``(batch, channels, height, width)`` to ``(batch, height * width)``.
    """
    scaled, _ = of_size_one(full_precision(output), (1, 2, 3))
    return unit_length(scaled.square().mean(1).flatten(1))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two results of :func:`attention_map`, after :func:`match_size`.

    Shapes: ``(batch, channels, height, width)``, with any numbers of channels, to a scalar, float32 or wider.

    Example:
        >>> import torch
        >>> attention_loss(torch.ones(1, 2, 4, 4), 3 * torch.ones(1, 8, 4, 4))
        tensor(0.)
    """
    student, teacher = match_size(full_precision(student), full_precision(teacher))
    return F.mse_loss(attention_map(student), attention_map(teacher))


@DISTILLATIONS.register("features")
class Hints(Distillation):
    """Squared distance from the features of the teacher, through a learned 1x1 convolution (FitNets).

    The convolution maps the channels of the student to those of the teacher. It is saved in checkpoints and not
    exported.

    Args:
        layers: Patterns of teacher layers by patterns of student layers: ``{layer2: blocks.3}``. Patterns that match
            several layers pair them in order. Defaults to the pooled features before the head.

    Raises:
        UserError: If the layers do not return maps.

    See Also:
        :func:`hint_loss`. Use :class:`AttentionTransfer` instead if channels are pruned during training.

    Source: Romero et al., 2015, "FitNets: hints for thin deep nets", arXiv 1412.6550.

    Example::

        distillation: {name: features, layers: {layer4: layer4}}
    """

    needs_logits = False

    def __init__(self, layers: dict[str, str] | None = None) -> None:
        super().__init__()
        self.check_arguments(layers)
        self.layers: Mapping[str, str] = dict(layers or {})
        self.adapters = nn.ModuleList()

    @staticmethod
    def check_arguments(layers: dict[str, str] | None = None, **_: Any) -> None:
        """Raise an error if ``layers`` is empty."""
        if layers is not None and not layers:
            raise UserError("layers: expected one layer or more, got {}. Omit the key for the pooled features.")

    def fit_to(self, student: Signals, teacher: Signals) -> None:
        """Build the convolutions."""
        made = [
            nn.Conv2d(ours.shape[1], theirs.shape[1], 1, bias=False) for ours, theirs in self._pairs(student, teacher)
        ]
        self.adapters = nn.ModuleList(made)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """Return the sum over the layers, a scalar."""
        total = student.logits.new_zeros(())
        for adapter, (ours, theirs) in zip(self.adapters, self._pairs(student, teacher), strict=True):
            if ours.shape[1] != adapter.in_channels:
                raise UserError(
                    f"layers: expected {adapter.in_channels} channels, got {ours.shape[1]}. The distillation features "
                    "does not support pruning of channels. Use attention or logits instead."
                )
            ours, theirs = match_size(ours, theirs)
            total = total + hint_loss(adapter(ours), theirs)
        return total

    def _pairs(self, student: Signals, teacher: Signals) -> list[tuple[Tensor, Tensor]]:
        if not self.layers:
            return [(as_map(student.features), as_map(teacher.features))]
        return [(as_map(a), as_map(b)) for a, b in zip(student.maps, teacher.maps, strict=True)]


@DISTILLATIONS.register("attention")
class AttentionTransfer(Distillation):
    """Squared distance between the attention maps of student and teacher, independent of their channels.

    A weight of 1000 is usual.

    Args:
        layers: Patterns of teacher layers by patterns of student layers: ``{layer2: blocks.3}``. Patterns that match
            several layers pair them in order.

    Raises:
        UserError: If ``layers`` is empty, or if the layers do not return maps.

    See Also:
        :func:`attention_loss`. Use :class:`Hints` instead to match all channels.

    Source: Zagoruyko and Komodakis, 2017, "Paying more attention to attention", arXiv 1612.03928; as in the authors'
    code, the mean over images and positions.

    Example::

        distillation: {name: attention, layers: {layer3: layer3}, weight: 100}
    """

    needs_logits = False

    def __init__(self, layers: dict[str, str]) -> None:
        super().__init__()
        self.check_arguments(layers)
        self.layers: Mapping[str, str] = dict(layers)

    @staticmethod
    def check_arguments(layers: dict[str, str], **_: Any) -> None:
        """Raise an error if ``layers`` is empty."""
        if not layers:
            raise UserError("layers: expected {student layer: teacher layer}, for example {layer2: layer3}, got {}.")

    def fit_to(self, student: Signals, teacher: Signals) -> None:
        """Raise an error if a layer returns a map of one position."""
        for ours, theirs in zip(student.maps, teacher.maps, strict=True):
            for each in (as_map(ours), as_map(theirs)):
                if each.shape[2] * each.shape[3] == 1:
                    raise UserError("layers: expected maps of more than one position, got 1 x 1.")

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """Return the sum over the layers, a scalar."""
        total = student.logits.new_zeros(())
        for ours, theirs in zip(student.maps, teacher.maps, strict=True):
            total = total + attention_loss(as_map(ours), as_map(theirs))
        return total
