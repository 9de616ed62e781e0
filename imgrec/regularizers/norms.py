"""Penalties on the size of the weights: L1, L2 and the elastic net."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from imgrec.errors import UserError
from imgrec.models.utils.patterns import Scope
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.weight_penalty import WeightPenalty, weight_parameters
from imgrec.utils.ranges import ClosedUnitInterval, check_ranges

Weights = nn.Module | Iterable[Tensor]
"""A module, whose trainable weights are penalized, or tensors."""


def l1_penalty(weights: Weights, norm_and_bias: bool = False, scope: Scope = None) -> Tensor:
    """Return the sum of the absolute values of the weights, a scalar.

    Args:
        weights: Module whose trainable weights are penalized, or tensors.
        norm_and_bias: ``True`` includes normalization layers and biases of a module. Defaults to ``False``.
        scope: Names or patterns of the parameters of a module. Defaults to every weight.

    Raises:
        UserError: If there is no weight, or if a pattern matches no parameter.

    Example:
        >>> l1_penalty([torch.tensor([1.0, -2.0]), torch.tensor([3.0])])
        tensor(6.)
        >>> l1_penalty(nn.Linear(2, 2)).requires_grad
        True
    """
    return torch.stack([t.abs().sum() for t in _tensors(weights, norm_and_bias, scope)]).sum()


def l2_penalty(weights: Weights, norm_and_bias: bool = False, scope: Scope = None) -> Tensor:
    """Return half the sum of the squares of the weights, a scalar.

    The gradient is the weight itself, so that ``weight: w`` has the effect of ``weight_decay: w`` in plain SGD.

    Args:
        weights: Module whose trainable weights are penalized, or tensors.
        norm_and_bias: ``True`` includes normalization layers and biases of a module. Defaults to ``False``.
        scope: Names or patterns of the parameters of a module. Defaults to every weight.

    Raises:
        UserError: If there is no weight, or if a pattern matches no parameter.

    Example:
        >>> l2_penalty([torch.tensor([1.0, -2.0]), torch.tensor([3.0])])
        tensor(7.)
    """
    return torch.stack([t.square().sum() for t in _tensors(weights, norm_and_bias, scope)]).sum() / 2


def elastic_net_penalty(
    weights: Weights, l1_ratio: float = 0.5, norm_and_bias: bool = False, scope: Scope = None
) -> Tensor:
    """Return ``l1_ratio`` times :func:`l1_penalty` plus ``1 - l1_ratio`` times :func:`l2_penalty`, a scalar.

    Args:
        weights: Module whose trainable weights are penalized, or tensors.
        l1_ratio: Share of L1, in [0, 1]. Defaults to 0.5.
        norm_and_bias: ``True`` includes normalization layers and biases of a module. Defaults to ``False``.
        scope: Names or patterns of the parameters of a module. Defaults to every weight.

    Raises:
        UserError: If there is no weight, or if a pattern matches no parameter.

    Example:
        >>> elastic_net_penalty([torch.tensor([1.0, -2.0])], l1_ratio=0.5)
        tensor(2.7500)
    """
    tensors = _tensors(weights, norm_and_bias, scope)
    return l1_ratio * l1_penalty(tensors) + (1 - l1_ratio) * l2_penalty(tensors)


def _tensors(weights: Weights, norm_and_bias: bool, scope: Scope) -> list[Tensor]:
    if isinstance(weights, nn.Module):
        found: list[Tensor] = [*weight_parameters(weights, norm_and_bias, scope)]
    else:
        found = list(weights)
    if not found:
        raise UserError("weights: expected one trainable weight or more, got none.")
    return found


@REGULARIZERS.register("l1")
class L1(WeightPenalty):
    """Sum of the absolute values of the weights, which drives weights to exactly zero.

    Args:
        norm_and_bias: ``True`` also penalizes normalization layers and biases. Defaults to ``False``.
        scope: Names or patterns of parameters, or of modules that contain them. Defaults to every weight.

    Raises:
        UserError: If a pattern matches no parameter, or if the model has no trainable weight.

    Example::

        regularizers: {name: l1, weight: 1e-4, scope: [head, "layer4.*.weight"]}

    See Also:
        :func:`l1_penalty`. Use :class:`GroupLasso` instead if whole channels are to become zero.

    Source: Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996,
    doi:10.1111/j.2517-6161.1996.tb02080.x.
    """

    def penalty(self, weights: list[Parameter]) -> Tensor:  # noqa: D102
        return l1_penalty(weights)


@REGULARIZERS.register("l2")
class L2(WeightPenalty):
    """Half the sum of the squares of the weights, which keeps weights small.

    With plain SGD it equals the ``weight_decay`` of the optimizer. With an adaptive optimizer it differs: the optimizer
    rescales the gradient of the penalty, but not the decay of ``adamw``.

    Args:
        norm_and_bias: ``True`` also penalizes normalization layers and biases. Defaults to ``False``.
        scope: Names or patterns of parameters, or of modules that contain them. Defaults to every weight.

    Raises:
        UserError: If a pattern matches no parameter, or if the model has no trainable weight.

    Example::

        regularizers: {name: l2, weight: 1e-4, scope: [head, "layer4.*.weight"]}

    See Also:
        :func:`l2_penalty`. Use ``weight_decay`` of the optimizer instead with adaptive optimizers.

    Source: Krogh and Hertz, A Simple Weight Decay Can Improve Generalization, 1991, NeurIPS 4.
    """

    def penalty(self, weights: list[Parameter]) -> Tensor:  # noqa: D102
        return l2_penalty(weights)


@REGULARIZERS.register("elastic_net")
class ElasticNet(WeightPenalty):
    """Mixture of L1 and L2: sparse weights, with a more stable choice among correlated weights.

    Args:
        l1_ratio: Share of L1, in [0, 1]. 1 is L1, 0 is L2. Defaults to 0.5.
        norm_and_bias: ``True`` also penalizes normalization layers and biases. Defaults to ``False``.
        scope: Names or patterns of parameters, or of modules that contain them. Defaults to every weight.

    Raises:
        UserError: If ``l1_ratio`` is outside [0, 1], if a pattern matches no parameter, or if the model has no
            trainable weight.

    Example::

        regularizers: {name: elastic_net, weight: 1e-5, l1_ratio: 0.3}

    See Also:
        :func:`elastic_net_penalty`.

    Source: Zou and Hastie, Regularization and Variable Selection via the Elastic Net, 2005,
    doi:10.1111/j.1467-9868.2005.00503.x.
    """

    @check_ranges
    def __init__(self, l1_ratio: ClosedUnitInterval = 0.5, norm_and_bias: bool = False, scope: Scope = None) -> None:
        super().__init__(norm_and_bias, scope)
        self.l1_ratio = float(l1_ratio)

    def penalty(self, weights: list[Parameter]) -> Tensor:  # noqa: D102
        return elastic_net_penalty(weights, self.l1_ratio)
