"""Structured sparsity: penalties that shrink whole channels before pruning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.utils.patterns import Scope
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.channel_groups import PenaltyGroup, channel_groups
from imgrec.regularizers.weight_penalty import scoped
from imgrec.types import StepOutput
from imgrec.utils.ranges import NonNegativeFloat, check_ranges

_TINY = 1e-16


def bn_scale_penalty(model: nn.Module, scope: Scope = None) -> Tensor:
    """Return the sum of the absolute trainable scales of batch normalization, a scalar.

    Args:
        model: Network with batch normalization.
        scope: Names or patterns of the scales. Defaults to all.

    Raises:
        UserError: If a pattern matches no parameter, or if there is no such trainable scale.

    Example:
        >>> bn_scale_penalty(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))).item()
        8.0
    """
    scales = [scale.abs().sum() for scale in _batch_norm_scales(model, scope) if scale.requires_grad]
    if not scales:
        raise UserError("model: expected batch normalization with a trainable scale, got none.")
    return torch.stack(scales).sum()


def group_lasso_penalty(model: nn.Module, images: Tensor, scope: Scope = None) -> Tensor:
    """Return the sum over channels of the norm of their weights, times the square root of their number, a scalar.

    Args:
        model: Network whose channels can be pruned.
        images: Batch of images that the network accepts.
        scope: Names or patterns of the weights. Defaults to all.

    Raises:
        UserError: If torch-pruning is missing, if a pattern matches no parameter, or if the network has no channel to
            prune.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 2))
        >>> bool(group_lasso_penalty(model, torch.zeros(1, 3, 4, 4)) > 0)
        True
    """
    return torch.stack([norms.sum() * size**0.5 for norms, size in _Groups(scope).norms(images, model)]).sum()


def growing_group_norm_penalty(model: nn.Module, images: Tensor, alpha: float = 4.0, scope: Scope = None) -> Tensor:
    """Return half the squared norms of the weights of channels, with larger factors for smaller norms, a scalar.

    Args:
        model: Network whose channels can be pruned.
        images: Batch of images that the network accepts.
        alpha: Logarithm to base 2 of the largest factor, at least 0. Defaults to 4.
        scope: Names or patterns of the weights. Defaults to all.

    Raises:
        UserError: If torch-pruning is missing, if a pattern matches no parameter, or if the network has no channel to
            prune.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 2))
        >>> bool(growing_group_norm_penalty(model, torch.zeros(1, 3, 4, 4)) > 0)
        True
    """
    return torch.stack([growing_squares(norms, alpha) for norms, _ in _Groups(scope).norms(images, model)]).sum()


def growing_squares(norms: Tensor, alpha: float) -> Tensor:
    """Return half the sum of squares, each times ``2 ** (alpha * (max - norm) / (max - min))``, a scalar.

    The smallest channel shrinks ``2 ** alpha`` times as fast as the largest. The factors have no gradient.

    >>> growing_squares(torch.tensor([1.0, 2.0]), alpha=4.0)  # (16 * 1 + 1 * 4) / 2
    tensor(10.)
    """
    constant = norms.detach()
    span = (constant.amax() - constant.amin()).clamp_min(1e-12)
    factors = torch.exp2(alpha * (constant.amax() - constant) / span)
    return (factors * norms.square()).sum() / 2


def _batch_norm_scales(model: nn.Module, scope: Scope) -> list[nn.Parameter]:
    """Return the scales in the scope. Without a scope, only the trainable ones."""
    ids = {id(parameter) for parameter in scoped(model, scope).values()}
    scales = [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.weight is not None
    ]
    found = [scale for scale in scales if id(scale) in ids]
    return found if scope is not None else [scale for scale in found if scale.requires_grad]


@REGULARIZERS.register("bn_scale")
class BatchNormScale(nn.Module):
    """Sum of the absolute scales of batch normalization: scales of unnecessary channels go to zero (network slimming).

    It is made for pruning with ``importance: bn_scale``. A weight of 1e-4 is usual.

    Args:
        scope: Names or patterns of the scales, or of modules that contain them. Defaults to all.

    Raises:
        UserError: If a pattern matches no parameter, or if the model has no batch normalization with a trainable scale.

    Example::

        regularizers: {name: bn_scale, weight: 1e-4}

    See Also:
        :func:`bn_scale_penalty`. Use :class:`GroupLasso` instead for networks without batch normalization.

    Source: Liu et al., 2017, "Learning efficient convolutional networks through network slimming", arXiv 1708.06519.
    """

    def __init__(self, scope: Scope = None) -> None:
        super().__init__()
        self.scope = scope

    def check_model(self, model: nn.Module) -> None:
        """Raise an error if the network has no such scales, before it is trained."""
        if not _batch_norm_scales(model, self.scope):
            raise UserError(
                "the regularizer bn_scale requires batch normalization with a trainable scale, and this network has "
                "none. group_lasso and group_norm accept any network."
            )

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar. It is zero while all scales in the scope are frozen."""
        if any(scale.requires_grad for scale in _batch_norm_scales(model, self.scope)):
            return bn_scale_penalty(model, self.scope)
        if self.scope is None:
            self.check_model(model)
        return output.logits.new_zeros(())


class _Groups:
    """Groups of channels of a network, restricted to a scope, and updated after its widths changed."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self._shapes: tuple[tuple[int, ...], ...] = ()
        self._groups: list[PenaltyGroup] = []

    def norms(self, images: Tensor, model: nn.Module) -> list[tuple[Tensor, float]]:
        """Return for each group the norms of the weights per channel, and the number of weights per channel."""
        weights = dict(model.named_parameters(remove_duplicate=False))
        shapes = tuple(tuple(weight.shape) for weight in weights.values())
        if shapes != self._shapes:
            self._groups, self._shapes = self._find(model, images), shapes
        # the clamp gives groups of zeros a gradient of zero. Their norm has no gradient
        return [(group.squares(weights).clamp_min(_TINY).sqrt(), group.size) for group in self._groups]

    def _find(self, model: nn.Module, images: Tensor) -> list[PenaltyGroup]:
        groups = channel_groups(model, images)
        if self.scope is None:
            return groups
        names = scoped(model, self.scope)
        found = [part for group in groups if (part := group.restricted_to(names)) is not None]
        if not found:
            raise UserError(f"scope: {self.scope!r} matches no weight of a channel that can be pruned.")
        return found


@REGULARIZERS.register("group_lasso")
class GroupLasso(nn.Module):
    """Sum of the norms of the weights of each channel, which drives whole channels to zero.

    The weights of a channel are its filter, its scale in normalization layers, and the weights of all layers that read
    it. Channels of branches that are added form one channel.

    Args:
        scope: Names or patterns of the weights to include, or of modules that contain them. Defaults to all.

    Raises:
        UserError: If torch-pruning is missing, if a pattern matches no parameter, or if the network has no channel to
            prune.

    Example::

        regularizers: {name: group_lasso, weight: 1e-5}

    See Also:
        :func:`group_lasso_penalty`. Use :class:`GrowingGroupNorm` instead if a decay of the large channels is
        undesired.

    Source: Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006,
    10.1111/j.1467-9868.2005.00532.x; Wen et al., 2016, "Learning structured sparsity in deep neural networks",
    arXiv 1608.03665.
    """

    def __init__(self, scope: Scope = None) -> None:
        super().__init__()
        self._groups = _Groups(scope)

    def check_model(self, model: nn.Module) -> None:
        """Raise an error if a pattern of the scope matches nothing, before the network is trained."""
        scoped(model, self._groups.scope)

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        groups = self._groups.norms(output.images, model)
        return torch.stack([norms.sum() * size**0.5 for norms, size in groups]).sum()


@REGULARIZERS.register("group_norm")
class GrowingGroupNorm(nn.Module):
    """Half the squared norms of the weights of each channel, with larger factors for smaller channels.

    Sparse training of DepGraph, before pruning by the same norms (``importance: group_l2``). A weight of 5e-4 is usual
    for networks on CIFAR-10.

    Args:
        alpha: Logarithm to base 2 of the rate at which the smallest channel of a group shrinks relative to the largest,
            at least 0. 0 is weight decay. Defaults to 4.
        scope: Names or patterns of the weights to include, or of modules that contain them. Defaults to all.

    Raises:
        UserError: If ``alpha`` is negative, if torch-pruning is missing, if a pattern matches no parameter, or if the
            network has no channel to prune.

    Example::

        regularizers: {name: group_norm, weight: 5e-4, alpha: 4}

    See Also:
        :func:`growing_group_norm_penalty`. Use :class:`GroupLasso` instead if channels are to become exactly zero.

    Source: Fang et al., 2023, "DepGraph: towards any structural pruning", arXiv 2301.12900, section 3.3.
    """

    @check_ranges
    def __init__(self, alpha: NonNegativeFloat = 4.0, scope: Scope = None) -> None:
        super().__init__()
        self.alpha = float(alpha)
        self._groups = _Groups(scope)

    def check_model(self, model: nn.Module) -> None:
        """Raise an error if a pattern of the scope matches nothing, before the network is trained."""
        scoped(model, self._groups.scope)

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        groups = self._groups.norms(output.images, model)
        return torch.stack([growing_squares(norms, self.alpha) for norms, _ in groups]).sum()
