"""Penalties that make whole channels small, so that little is lost when they are removed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.channel_groups import ChannelGroup, channel_groups
from imgrec.types import StepOutput

_TINY = 1e-16


def group_lasso_penalty(norms: Tensor, size: float) -> Tensor:
    """The sum of the norms of groups, times the square root of how many weights a group has: a scalar.

    The root makes groups of different sizes alike: a group of weights of size ``x`` costs ``x`` a weight.

    >>> group_lasso_penalty(torch.tensor([3.0, 4.0]), size=4.0)
    tensor(14.)
    """
    penalty: Tensor = norms.sum() * size**0.5
    return penalty


def growing_penalty(norms: Tensor, alpha: float) -> Tensor:
    """Half the squares of the norms of groups, each times ``2 ** (alpha * (most - norm) / (most - least))``: a scalar.

    The smallest channel shrinks ``2 ** alpha`` times as fast as the largest. The factors have no gradient.

    >>> growing_penalty(torch.tensor([1.0, 2.0]), alpha=4.0)  # (16 * 1 + 1 * 4) / 2
    tensor(10.)
    """
    known = norms.detach()
    apart = (known.amax() - known.amin()).clamp_min(1e-12)
    factors = torch.exp2(alpha * (known.amax() - known) / apart)
    return (factors * norms.square()).sum() / 2


@REGULARIZERS.register("bn_scale")
class BatchNormScale(nn.Module):
    """The sum of the absolute scales of batch normalization: channels that are not needed go to zero.

    Made for pruning with ``importance: bn_scale``. A weight of 1e-4 is usual.

    Raises:
        UserError: the model has no batch normalization with a scale that is trained.

    Source: Liu et al., 2017, "Learning efficient convolutional networks through network slimming", arXiv 1708.06519.
    """

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        scales = [
            module.weight.abs().sum()
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.weight is not None
            and module.weight.requires_grad
        ]
        if not scales:
            raise UserError(
                "the regularizer bn_scale needs batch normalization with a scale that is trained, and this network "
                "has none: group_lasso and group_norm take any network."
            )
        return torch.stack(scales).sum()


class _Groups:
    """The groups of a network, found anew where its widths have changed."""

    def __init__(self) -> None:
        self._shapes: tuple[tuple[int, ...], ...] = ()
        self._groups: list[ChannelGroup] = []

    def norms(self, output: StepOutput, model: nn.Module) -> list[tuple[Tensor, float]]:
        """For each group the norms of its channels' weights, and how many weights a channel has."""
        weights = dict(model.named_parameters(remove_duplicate=False))
        shapes = tuple(tuple(weight.shape) for weight in weights.values())
        if shapes != self._shapes:
            self._groups, self._shapes = channel_groups(model, output.images), shapes
        # no gradient where a group is zero, whose norm has none
        return [(group.squares(weights).clamp_min(_TINY).sqrt(), group.size) for group in self._groups]


@REGULARIZERS.register("group_lasso")
class GroupLasso(nn.Module):
    """The norms of all weights of each channel, summed: drives whole channels to zero.

    A channel's weights are the filter that makes it, its scale in normalization layers, and what every layer that reads
    it gives to it. Channels that branches add up are one.

    Raises:
        UserError: torch-pruning is missing; the network has no channel that could be removed.

    Source: Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006,
    10.1111/j.1467-9868.2005.00532.x; Wen et al., 2016, "Learning structured sparsity in deep neural networks",
    arXiv 1608.03665.
    """

    def __init__(self) -> None:
        super().__init__()
        self._groups = _Groups()

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        return torch.stack([group_lasso_penalty(*group) for group in self._groups.norms(output, model)]).sum()


@REGULARIZERS.register("group_norm")
class GrowingGroupNorm(nn.Module):
    """Half the squared norms of each channel's weights, more for small ones: these shrink until they can be removed.

    As DepGraph learns sparse groups, before it prunes by their norms (``importance: group_l2``). Its weight is 5e-4
    for networks on CIFAR-10.

    Args:
        alpha: the smallest channel of a group shrinks ``2 ** alpha`` times as fast as the largest; 0 is weight decay.

    Raises:
        UserError: an ``alpha`` below 0; torch-pruning is missing; the network has no channel that could be removed.

    Source: Fang et al., 2023, "DepGraph: towards any structural pruning", arXiv 2301.12900, section 3.3.
    """

    def __init__(self, alpha: float = 4.0) -> None:
        super().__init__()
        self.check_arguments(alpha)
        self.alpha = float(alpha)
        self._groups = _Groups()

    @staticmethod
    def check_arguments(alpha: float = 4.0, **_: Any) -> None:
        """Refuse what is wrong whatever the model may be."""
        in_range("alpha", alpha)

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        groups = self._groups.norms(output, model)
        return torch.stack([growing_penalty(norms, self.alpha) for norms, _ in groups]).sum()
