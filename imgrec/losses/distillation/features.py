"""Learning how another network sees: its intermediate features, and where it looks."""

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
    """What a layer gave as maps ``(batch, channels, height, width)``.

    Shapes: maps as they are; vectors ``(batch, channels)`` as maps of one place; tokens ``(batch, tokens, channels)``
    as the square that they are, without a class token before them.

    Raises:
        UserError: it is none of the three.
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
    raise UserError(f"a layer gives a tensor of shape {tuple(output.shape)}, which are no maps, tokens or vectors")


def of_one_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Two maps with the lesser height and width of the two; the larger one is averaged over areas."""
    size = (min(one.shape[2], other.shape[2]), min(one.shape[3], other.shape[3]))
    smaller = [each if each.shape[2:] == size else F.adaptive_avg_pool2d(each, size) for each in (one, other)]
    return smaller[0], smaller[1]


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the mean squared difference of two maps of as many channels, after :func:`of_one_size`.

    Shapes: ``(batch, channels, height, width)``; a scalar, float32 or wider.
    """
    student, teacher = of_one_size(full_precision(student), full_precision(teacher))
    return F.mse_loss(student, teacher) / 2


def attention_map(output: Tensor) -> Tensor:
    """Where a layer is active: the sum of the squares over its channels, of length 1 as a vector.

    Shapes: ``(batch, channels, height, width)`` to ``(batch, height * width)``.
    """
    scaled, _ = of_size_one(full_precision(output), (1, 2, 3))
    return unit_length(scaled.square().mean(1).flatten(1))


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference of two :func:`attention_map`, after :func:`of_one_size`.

    Shapes: ``(batch, channels, height, width)``, of any numbers of channels; a scalar, float32 or wider.
    """
    student, teacher = of_one_size(full_precision(student), full_precision(teacher))
    return F.mse_loss(attention_map(student), attention_map(teacher))


@DISTILLATIONS.register("features")
class Hints(Distillation):
    """The squared distance from the teacher's features, through a 1x1 convolution that is learnt with the student.

    The convolution brings the student's channels to the teacher's; it is in the checkpoint and not in the model folder.

    Args:
        layers: by patterns of the student's layers those of the teacher's: ``{layer2: blocks.3}``; two patterns that
            mean several layers each pair them in order. Left out, it is the pooled features before the head.

    Raises:
        UserError: the layers give no maps.

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
        """Refuse what is wrong whatever the networks may be."""
        if layers is not None and not layers:
            raise UserError("`layers` is empty: leave it out for the pooled features, or name one.")

    def fit_to(self, student: Signals, teacher: Signals) -> None:
        """Make the convolutions."""
        made = [
            nn.Conv2d(ours.shape[1], theirs.shape[1], 1, bias=False) for ours, theirs in self._pairs(student, teacher)
        ]
        self.adapters = nn.ModuleList(made)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """A scalar, the sum over the layers."""
        total = student.logits.new_zeros(())
        for adapter, (ours, theirs) in zip(self.adapters, self._pairs(student, teacher), strict=True):
            if ours.shape[1] != adapter.in_channels:
                raise UserError(
                    f"the distillation features learns a map of {adapter.in_channels} channels, and its layer has "
                    f"{ours.shape[1]} now: channels cannot be pruned beside it; take attention or logits"
                )
            ours, theirs = of_one_size(ours, theirs)
            total = total + hint_loss(adapter(ours), theirs)
        return total

    def _pairs(self, student: Signals, teacher: Signals) -> list[tuple[Tensor, Tensor]]:
        if not self.layers:
            return [(as_map(student.features), as_map(teacher.features))]
        return [(as_map(a), as_map(b)) for a, b in zip(student.maps, teacher.maps, strict=True)]


@DISTILLATIONS.register("attention")
class AttentionTransfer(Distillation):
    """The squared distance from where the teacher's layers are active, whatever their channels.

    A weight of 1000 is usual.

    Args:
        layers: by patterns of the student's layers those of the teacher's: ``{layer2: blocks.3}``; two patterns that
            mean several layers each pair them in order.

    Raises:
        UserError: no layers, or layers that give no maps.

    Source: Zagoruyko and Komodakis, 2017, "Paying more attention to attention", arXiv 1612.03928; as in its authors'
    code, the mean over images and places.

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
        """Refuse what is wrong whatever the networks may be."""
        if not layers:
            raise UserError("`layers` is empty: name a layer of the student, and the teacher's: {layer2: layer3}.")

    def fit_to(self, student: Signals, teacher: Signals) -> None:
        """Refuse layers without places."""
        for ours, theirs in zip(student.maps, teacher.maps, strict=True):
            for each in (as_map(ours), as_map(theirs)):
                if each.shape[2] * each.shape[3] == 1:
                    raise UserError("a layer gives one place only, where there is no attention to be learnt")

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """A scalar, the sum over the layers."""
        total = student.logits.new_zeros(())
        for ours, theirs in zip(student.maps, teacher.maps, strict=True):
            total = total + attention_loss(as_map(ours), as_map(theirs))
        return total
