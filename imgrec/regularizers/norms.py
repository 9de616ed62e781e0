"""Penalties on the size of the weights: L1, L2 and the elastic net between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from imgrec.errors import UserError
from imgrec.losses.base import in_range
from imgrec.models.utils.patterns import Scope
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.weight_penalty import WeightPenalty


def l1_penalty(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of the absolute values of all elements, a scalar.

    >>> l1_penalty([torch.tensor([1.0, -2.0]), torch.tensor([3.0])])
    tensor(6.)
    """
    return torch.stack([t.abs().sum() for t in _some(tensors)]).sum()


def l2_penalty(tensors: Iterable[Tensor]) -> Tensor:
    """Half the sum of the squares of all elements, a scalar.

    The half makes its gradient the tensor itself: with weight ``w`` it does to SGD what ``weight_decay: w`` does.

    >>> l2_penalty([torch.tensor([1.0, -2.0]), torch.tensor([3.0])])
    tensor(7.)
    """
    return torch.stack([t.square().sum() for t in _some(tensors)]).sum() / 2


def elastic_net_penalty(tensors: Iterable[Tensor], l1_ratio: float = 0.5) -> Tensor:
    """``l1_ratio`` parts of :func:`l1_penalty` and ``1 - l1_ratio`` parts of :func:`l2_penalty`, a scalar.

    >>> elastic_net_penalty([torch.tensor([1.0, -2.0])], l1_ratio=0.5)
    tensor(2.7500)
    """
    tensors = list(tensors)
    return l1_ratio * l1_penalty(tensors) + (1 - l1_ratio) * l2_penalty(tensors)


@REGULARIZERS.register("l1")
class L1(WeightPenalty):
    """The sum of the weights' absolute values: drives weights to exactly zero.

    Args:
        norm_and_bias: penalize normalization layers and biases too.
        scope: names or patterns of the parameters, or of modules that hold them; by default every weight.

    Raises:
        UserError: a pattern that matches nothing; the model has no trainable weight.

    Example::

        regularizers: {name: l1, weight: 1e-4, scope: [head, "layer4.*.weight"]}

    Source: Tibshirani, Regression Shrinkage and Selection via the Lasso, 1996,
    doi:10.1111/j.2517-6161.1996.tb02080.x.
    """

    def penalty(self, weights: list[Parameter]) -> Tensor:  # noqa: D102
        return l1_penalty(weights)


@REGULARIZERS.register("l2")
class L2(WeightPenalty):
    """Half the sum of the weights' squares: keeps weights small.

    With plain SGD it equals the optimizer's ``weight_decay`` of the same size. With an adaptive optimizer it does not:
    the penalty's gradient is rescaled there, the decay of ``adamw`` is not.

    Args:
        norm_and_bias: penalize normalization layers and biases too.
        scope: names or patterns of the parameters, or of modules that hold them; by default every weight.

    Raises:
        UserError: a pattern that matches nothing; the model has no trainable weight.

    Example::

        regularizers: {name: l2, weight: 1e-4, scope: [head, "layer4.*.weight"]}

    Source: Krogh and Hertz, A Simple Weight Decay Can Improve Generalization, 1991, NeurIPS 4.
    """

    def penalty(self, weights: list[Parameter]) -> Tensor:  # noqa: D102
        return l2_penalty(weights)


@REGULARIZERS.register("elastic_net")
class ElasticNet(WeightPenalty):
    """A mixture of L1 and L2: zeros as L1 makes them, and steadier among weights that go together.

    Args:
        l1_ratio: the part of L1, in [0, 1]; 1 is L1 alone, 0 is L2 alone.
        norm_and_bias: penalize normalization layers and biases too.
        scope: names or patterns of the parameters, or of modules that hold them; by default every weight.

    Raises:
        UserError: a ratio outside [0, 1], a pattern that matches nothing, or a model without a trainable weight.

    Example::

        regularizers: {name: elastic_net, weight: 1e-5, l1_ratio: 0.3}

    Source: Zou and Hastie, Regularization and Variable Selection via the Elastic Net, 2005,
    doi:10.1111/j.1467-9868.2005.00503.x.
    """

    def __init__(self, l1_ratio: float = 0.5, norm_and_bias: bool = False, scope: Scope = None) -> None:
        super().__init__(norm_and_bias, scope)
        self.check_arguments(l1_ratio)
        self.l1_ratio = float(l1_ratio)

    @staticmethod
    def check_arguments(l1_ratio: float = 0.5, **_: Any) -> None:
        """Refuse what is wrong whatever the model may be."""
        in_range("l1_ratio", l1_ratio, high=1.0)

    def penalty(self, weights: list[Parameter]) -> Tensor:  # noqa: D102
        return elastic_net_penalty(weights, self.l1_ratio)


def _some(tensors: Iterable[Tensor]) -> list[Tensor]:
    found = list(tensors)
    if not found:
        raise UserError("there is no weight to penalize")
    return found
