"""Penalties that make whole channels small, so that little is lost when they are removed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.models.utils.patterns import Scope
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.channel_groups import ChannelGroup, channel_groups
from imgrec.regularizers.weight_penalty import scoped
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

    Args:
        scope: names or patterns of the scales, or of modules that hold them; by default all.

    Raises:
        UserError: a pattern that matches nothing; the model has no batch normalization with a scale that is trained.

    Example::

        regularizers: {name: bn_scale, weight: 1e-4}

    Source: Liu et al., 2017, "Learning efficient convolutional networks through network slimming", arXiv 1708.06519.
    """

    def __init__(self, scope: Scope = None) -> None:
        super().__init__()
        self.scope = scope

    def check_model(self, model: nn.Module) -> None:
        """Refuse a network without such scales, before it is trained."""
        if not self._scales(model):
            raise UserError(
                "the regularizer bn_scale needs batch normalization with a scale that is trained, and this network "
                "has none: group_lasso and group_norm take any network."
            )

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar; zero while all that the scope means is frozen."""
        scales = [scale.abs().sum() for scale in self._scales(model) if scale.requires_grad]
        if not scales and self.scope is None:
            self.check_model(model)
        return torch.stack(scales).sum() if scales else output.logits.new_zeros(())

    def _scales(self, model: nn.Module) -> list[nn.Parameter]:
        meant = scoped(model, self.scope)
        scales = [
            module.weight
            for module in model.modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
        ]
        ids = {id(parameter) for parameter in meant.values()}
        found = [scale for scale in scales if id(scale) in ids]
        return found if self.scope is not None else [scale for scale in found if scale.requires_grad]


class _Groups:
    """The groups of a network, found anew where its widths have changed; of each, what the scope means."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._shapes: tuple[tuple[int, ...], ...] = ()
        self._groups: list[ChannelGroup] = []

    def norms(self, output: StepOutput, model: nn.Module) -> list[tuple[Tensor, float]]:
        """For each group the norms of its channels' weights, and how many weights a channel has."""
        weights = dict(model.named_parameters(remove_duplicate=False))
        shapes = tuple(tuple(weight.shape) for weight in weights.values())
        if shapes != self._shapes:
            self._groups, self._shapes = self._find(model, output.images), shapes
        # no gradient where a group is zero, whose norm has none
        return [(group.squares(weights).clamp_min(_TINY).sqrt(), group.size) for group in self._groups]

    def _find(self, model: nn.Module, images: Tensor) -> list[ChannelGroup]:
        groups = channel_groups(model, images)
        if self.scope is None:
            return groups
        meant = scoped(model, self.scope)
        found = [part for group in groups if (part := group.only(meant)) is not None]
        if not found:
            raise UserError(f"the scope {self.scope!r} holds no weight of a channel that can be removed.")
        return found


@REGULARIZERS.register("group_lasso")
class GroupLasso(nn.Module):
    """The norms of all weights of each channel, summed: drives whole channels to zero.

    A channel's weights are the filter that makes it, its scale in normalization layers, and what every layer that reads
    it gives to it. Channels that branches add up are one.

    Args:
        scope: names or patterns of the weights of a channel that count, or of modules that hold them; by default all.

    Raises:
        UserError: torch-pruning is missing; a pattern that matches nothing; the network has no channel that could be
            removed.

    Example::

        regularizers: {name: group_lasso, weight: 1e-5}

    Source: Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006,
    10.1111/j.1467-9868.2005.00532.x; Wen et al., 2016, "Learning structured sparsity in deep neural networks",
    arXiv 1608.03665.
    """

    def __init__(self, scope: Scope = None) -> None:
        super().__init__()
        self._groups = _Groups(scope)

    def check_model(self, model: nn.Module) -> None:
        """Refuse a scope that means nothing, before the network is trained."""
        scoped(model, self._groups.scope)

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
        scope: names or patterns of the weights of a channel that count, or of modules that hold them; by default all.

    Raises:
        UserError: an ``alpha`` below 0; torch-pruning is missing; a pattern that matches nothing; the network has no
            channel that could be removed.

    Example::

        regularizers: {name: group_norm, weight: 5e-4, alpha: 4}

    Source: Fang et al., 2023, "DepGraph: towards any structural pruning", arXiv 2301.12900, section 3.3.
    """

    def __init__(self, alpha: float = 4.0, scope: Scope = None) -> None:
        super().__init__()
        self.check_arguments(alpha)
        self.alpha = float(alpha)
        self._groups = _Groups(scope)

    def check_model(self, model: nn.Module) -> None:
        """Refuse a scope that means nothing, before the network is trained."""
        scoped(model, self._groups.scope)

    @staticmethod
    def check_arguments(alpha: float = 4.0, **_: Any) -> None:
        """Refuse what is wrong whatever the model may be."""
        in_range("alpha", alpha)

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        groups = self._groups.norms(output, model)
        return torch.stack([growing_penalty(norms, self.alpha) for norms, _ in groups]).sum()
