"""Random weights whose standard deviation is an argument."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.init.base import INITIALIZERS, Initializer, Weight, select_weights
from imgrec.models.utils.patterns import Scope
from imgrec.utils.ranges import PositiveFloat, check_ranges


class RandomInitializer(Initializer):
    """Base class of initializers of the weights of linear layers and convolutions, which set their biases to one value.

    Normalization layers, embeddings and parameters of one dimension are unchanged.

    Args:
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.
    """

    def __init__(self, scope: Scope = None, bias: float | None = 0.0) -> None:
        super().__init__(scope)
        self.bias = bias

    @abstractmethod
    def draw(self, values: Tensor, weight: Weight) -> None:
        """Fill ``values``, a tensor of the shape of the weight."""

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> list[str]:
        """Draw the weights in the scope, and return their names."""
        selected = select_weights(model, self.scope)
        for weight in selected.values():
            values = torch.empty_like(weight.tensor, memory_format=torch.contiguous_format)
            self.draw(values, weight)
            weight.put(values)
            if weight.bias is not None and self.bias is not None:
                weight.bias.fill_(self.bias)
        return [*selected]


@INITIALIZERS.register("uniform")
class Uniform(RandomInitializer):
    """Uniform initialization between two bounds.

    Args:
        low: Lower bound. Defaults to -0.05.
        high: Upper bound, above ``low``. Defaults to 0.05.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.

    Raises:
        UserError: If ``low`` is not below ``high``.

    Example::

        init: {name: uniform, low: -0.05, high: 0.05, scope: head}

    >>> layer = nn.Linear(3, 2)
    >>> _ = Uniform(low=1.0, high=2.0)(layer)
    >>> bool((layer.weight >= 1).all())
    True
    """

    def __init__(self, low: float = -0.05, high: float = 0.05, scope: Scope = None, bias: float | None = 0.0) -> None:
        super().__init__(scope, bias)
        self.check_arguments(low, high)
        self.low, self.high = low, high

    @staticmethod
    def check_arguments(low: float = -0.05, high: float = 0.05, **_: Any) -> None:
        """Raise an error if ``low`` is not below ``high``."""
        if not low < high:
            raise UserError(f"low: expected a number below high ({high}), got {low}.")

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        values.uniform_(self.low, self.high)


@INITIALIZERS.register("normal")
class Normal(RandomInitializer):
    """Normal initialization.

    Args:
        std: Standard deviation, above 0. Defaults to 0.02.
        mean: Mean. Defaults to 0.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.

    Raises:
        UserError: If ``std`` is out of range.

    Example::

        init: {name: normal, std: 0.02}

    >>> Normal(scope="1")(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)))
    ['1.weight']
    """

    @check_ranges
    def __init__(
        self, std: PositiveFloat = 0.02, mean: float = 0.0, scope: Scope = None, bias: float | None = 0.0
    ) -> None:
        super().__init__(scope, bias)
        self.std, self.mean = std, mean

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        values.normal_(self.mean, self.std)


@INITIALIZERS.register("truncated_normal")
class TruncatedNormal(RandomInitializer):
    """Truncated normal initialization, as in vision transformers.

    Args:
        std: Standard deviation before truncation, above 0. With a bound of 2 it is 0.88 of this value after truncation.
            Defaults to 0.02.
        mean: Mean. Defaults to 0.
        bound: Maximum distance from the mean in standard deviations, above 0. Defaults to 2.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.

    Raises:
        UserError: If ``std`` or ``bound`` is out of range.

    Example::

        init: {name: truncated_normal, std: 0.02}

    >>> layer = nn.Linear(30, 20)
    >>> _ = TruncatedNormal(std=1.0, bound=1.5)(layer)
    >>> bool(layer.weight.abs().max() <= 1.5)
    True
    """

    @check_ranges
    def __init__(
        self,
        std: PositiveFloat = 0.02,
        mean: float = 0.0,
        bound: PositiveFloat = 2.0,
        scope: Scope = None,
        bias: float | None = 0.0,
    ) -> None:
        super().__init__(scope, bias)
        self.std, self.mean, self.bound = std, mean, bound

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        distance = self.bound * self.std
        nn.init.trunc_normal_(values, self.mean, self.std, self.mean - distance, self.mean + distance)


@INITIALIZERS.register("orthogonal")
class Orthogonal(RandomInitializer):
    """Orthogonal initialization: the weights of the outputs of a layer are orthogonal vectors of equal length.

    A convolution is a matrix of outputs by inputs times kernel positions, for each group separately. If there are more
    outputs than inputs, the columns are orthogonal.

    Args:
        gain: Length of each row or column, above 0. Defaults to 1.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.

    Raises:
        UserError: If ``gain`` is out of range.

    Source: Saxe et al., Exact solutions to the nonlinear dynamics of learning in deep linear neural networks, 2013,
    arXiv:1312.6120.

    Example::

        init: {name: orthogonal, gain: 1.4}

    >>> layer = nn.Linear(4, 3)
    >>> _ = Orthogonal()(layer)
    >>> bool(torch.allclose(layer.weight @ layer.weight.T, torch.eye(3), atol=1e-5))
    True
    """

    @check_ranges
    def __init__(self, gain: PositiveFloat = 1.0, scope: Scope = None, bias: float | None = 0.0) -> None:
        super().__init__(scope, bias)
        self.gain = gain

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        for part in values.chunk(weight.groups):
            nn.init.orthogonal_(part, self.gain)
