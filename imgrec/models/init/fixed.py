"""Weights drawn at random, with a spread that is given."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.init.base import INITIALIZERS, Initializer, Weight, choose_weights
from imgrec.models.utils.patterns import Scope


class RandomInitializer(Initializer):
    """Weights of linear layers and convolutions drawn at random; their biases set to one value.

    Normalization layers, embeddings of positions and tokens, and what has one dimension stay as they are.

    Args:
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.
    """

    def __init__(self, scope: Scope = None, bias: float | None = 0.0) -> None:
        super().__init__(scope)
        self.bias = bias

    @abstractmethod
    def draw(self, values: Tensor, weight: Weight) -> None:
        """Fill ``values``, which has the shape of the weight."""

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> list[str]:
        """Draw the weights in the scope."""
        chosen = choose_weights(model, self.scope)
        for weight in chosen.values():
            values = torch.empty_like(weight.tensor, memory_format=torch.contiguous_format)
            self.draw(values, weight)
            weight.put(values)
            if weight.bias is not None and self.bias is not None:
                weight.bias.fill_(self.bias)
        return [*chosen]


@INITIALIZERS.register("uniform")
class Uniform(RandomInitializer):
    """Weights drawn evenly between two bounds.

    Args:
        low: the lower bound.
        high: the upper bound.
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.

    Raises:
        UserError: bounds in the wrong order.

    Example::

        init: {name: uniform, low: -0.05, high: 0.05, scope: head}
    """

    def __init__(self, low: float = -0.05, high: float = 0.05, scope: Scope = None, bias: float | None = 0.0) -> None:
        super().__init__(scope, bias)
        self.check_arguments(low, high)
        self.low, self.high = low, high

    @staticmethod
    def check_arguments(low: float = -0.05, high: float = 0.05, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any model."""
        if not low < high:
            raise UserError(f"`low` must be below `high`, got {low} and {high}.")

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        values.uniform_(self.low, self.high)


@INITIALIZERS.register("normal")
class Normal(RandomInitializer):
    """Weights drawn from a normal distribution.

    Args:
        std: the standard deviation.
        mean: the mean.
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.

    Raises:
        UserError: a standard deviation that is not above 0.

    Example::

        init: {name: normal, std: 0.02}
    """

    def __init__(self, std: float = 0.02, mean: float = 0.0, scope: Scope = None, bias: float | None = 0.0) -> None:
        super().__init__(scope, bias)
        self.check_arguments(std)
        self.std, self.mean = std, mean

    @staticmethod
    def check_arguments(std: float = 0.02, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any model."""
        above_zero("std", std)

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        values.normal_(self.mean, self.std)


@INITIALIZERS.register("truncated_normal")
class TruncatedNormal(RandomInitializer):
    """Weights drawn from a normal distribution whose ends are cut off, as those of vision transformers.

    Args:
        std: the standard deviation before the cut; with a bound of 2, what remains has 0.88 of it.
        mean: the mean.
        bound: how far a weight may be from the mean, in standard deviations.
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.

    Raises:
        UserError: a standard deviation or a bound that is not above 0.

    Example::

        init: {name: truncated_normal, std: 0.02}
    """

    def __init__(
        self,
        std: float = 0.02,
        mean: float = 0.0,
        bound: float = 2.0,
        scope: Scope = None,
        bias: float | None = 0.0,
    ) -> None:
        super().__init__(scope, bias)
        self.check_arguments(std, bound)
        self.std, self.mean, self.bound = std, mean, bound

    @staticmethod
    def check_arguments(std: float = 0.02, bound: float = 2.0, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any model."""
        above_zero("std", std)
        above_zero("bound", bound)

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        most = self.bound * self.std
        nn.init.trunc_normal_(values, self.mean, self.std, self.mean - most, self.mean + most)


@INITIALIZERS.register("orthogonal")
class Orthogonal(RandomInitializer):
    """Weights as parts of rotations: what each output of a layer looks at is orthogonal to the others, and as long.

    A convolution is taken as a matrix of outputs by everything that goes into one, each group for itself. Where there
    are more outputs than inputs, the inputs are orthogonal.

    Args:
        gain: the length of each row (or column).
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.

    Raises:
        UserError: a gain that is not above 0.

    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural networks, 2013,
    arXiv:1312.6120.

    Example::

        init: {name: orthogonal, gain: 1.4}
    """

    def __init__(self, gain: float = 1.0, scope: Scope = None, bias: float | None = 0.0) -> None:
        super().__init__(scope, bias)
        self.check_arguments(gain)
        self.gain = gain

    @staticmethod
    def check_arguments(gain: float = 1.0, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any model."""
        above_zero("gain", gain)

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        for part in values.chunk(weight.groups):
            nn.init.orthogonal_(part, self.gain)


def above_zero(name: str, value: float) -> None:
    """Raise :class:`UserError` for a number that is not."""
    if value <= 0:
        raise UserError(f"`{name}` must be above 0, got {value}.")
