"""Random weights whose standard deviation follows from the numbers of inputs and outputs of a layer."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from imgrec.models.init.base import INITIALIZERS, Weight
from imgrec.models.init.fixed import RandomInitializer
from imgrec.models.utils.patterns import Scope
from imgrec.utils.ranges import PositiveFloat, check_ranges

Nonlinearity = Literal["linear", "relu", "leaky_relu", "tanh", "sigmoid", "selu"]
"""Nonlinearity after a layer. Use ``relu`` for GELU, SiLU and similar functions."""


def xavier_std(fan_in: int, fan_out: int, gain: float = 1.0) -> float:
    """Return the standard deviation that preserves, as a compromise, the variance of activations and gradients.

    >>> xavier_std(100, 100)
    0.1
    """
    return float(gain * (2 / (fan_in + fan_out)) ** 0.5)


def he_std(fan: int, nonlinearity: Nonlinearity = "relu", slope: float = 0.01) -> float:
    """Return the standard deviation that preserves a variance through a layer and the following nonlinearity.

    >>> he_std(200)
    0.1
    """
    return float(nn.init.calculate_gain(nonlinearity, slope) / fan**0.5)


class FanInitializer(RandomInitializer):
    """Base class of initializers with mean 0 whose standard deviation follows from the fans of a layer."""

    is_uniform: ClassVar[bool] = False
    """True for a uniform instead of a normal distribution."""

    @abstractmethod
    def std(self, weight: Weight) -> float:
        """Return the standard deviation for a weight."""

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        std = self.std(weight)
        if self.is_uniform:
            values.uniform_(-(3**0.5) * std, 3**0.5 * std)
        else:
            values.normal_(0.0, std)


class Xavier(FanInitializer):
    """Base class of initializers whose standard deviation follows from both fans of a layer.

    Args:
        gain: Factor on the standard deviation, above 0. 1 for linear and sigmoid-like layers. Defaults to 1.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.
    """

    @check_ranges
    def __init__(self, gain: PositiveFloat = 1.0, scope: Scope = None, bias: float | None = 0.0) -> None:
        super().__init__(scope, bias)
        self.gain = gain

    def std(self, weight: Weight) -> float:  # noqa: D102
        return xavier_std(weight.fan_in, weight.fan_out, self.gain)


@INITIALIZERS.register("xavier_normal")
class XavierNormal(Xavier):
    """Xavier (Glorot) normal initialization, which preserves the variance in linear layers.

    Args:
        gain: Factor on the standard deviation, above 0. 1 for linear and sigmoid-like layers. Defaults to 1.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.

    Raises:
        UserError: If ``gain`` is out of range.

    See Also:
        :class:`HeNormal`. Use it instead for layers before a ReLU.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010, AISTATS.

    Example::

        init: {name: xavier_normal, gain: 1.0}

    >>> from torch import nn
    >>> XavierNormal(scope="0")(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)))
    ['0.weight']
    """


@INITIALIZERS.register("xavier_uniform")
class XavierUniform(Xavier):
    """Xavier (Glorot) uniform initialization, which preserves the variance in linear layers.

    Args:
        gain: Factor on the standard deviation, above 0. 1 for linear and sigmoid-like layers. Defaults to 1.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.

    Raises:
        UserError: If ``gain`` is out of range.

    See Also:
        :class:`HeUniform`. Use it instead for layers before a ReLU.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010, AISTATS.

    Example::

        init: xavier_uniform

    >>> layer = nn.Linear(100, 50)
    >>> _ = XavierUniform()(layer)
    >>> bool(layer.weight.abs().max() <= (6 / 150) ** 0.5)
    True
    """

    is_uniform = True


class He(FanInitializer):
    """Base class of initializers whose standard deviation follows from one fan of a layer and its nonlinearity.

    Args:
        mode: ``fan_in`` preserves the variance of activations, ``fan_out`` that of gradients. Defaults to ``fan_in``.
        nonlinearity: Nonlinearity after the layers. Use ``relu`` for GELU and SiLU. Defaults to ``relu``.
        slope: Negative slope of ``leaky_relu``. Defaults to 0.01.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.
    """

    def __init__(
        self,
        mode: Literal["fan_in", "fan_out"] = "fan_in",
        nonlinearity: Nonlinearity = "relu",
        slope: float = 0.01,
        scope: Scope = None,
        bias: float | None = 0.0,
    ) -> None:
        super().__init__(scope, bias)
        self.mode = mode
        self.nonlinearity: Nonlinearity = nonlinearity
        self.slope = slope

    def std(self, weight: Weight) -> float:  # noqa: D102
        fan = weight.fan_in if self.mode == "fan_in" else weight.fan_out
        return he_std(fan, self.nonlinearity, self.slope)


@INITIALIZERS.register("he_normal")
class HeNormal(He):
    """Kaiming (He) normal initialization, which preserves the variance through layers followed by a ReLU.

    Args:
        mode: ``fan_in`` preserves the variance of activations, ``fan_out`` that of gradients. Defaults to ``fan_in``.
        nonlinearity: Nonlinearity after the layers. Use ``relu`` for GELU and SiLU. Defaults to ``relu``.
        slope: Negative slope of ``leaky_relu``. Defaults to 0.01.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.

    See Also:
        :class:`XavierNormal`. Use it instead for layers before a tanh or a sigmoid.

    Source: He et al., Delving deep into rectifiers, 2015, arXiv:1502.01852.

    Example::

        init: {name: he_normal, mode: fan_out, scope: "*.conv?"}

    >>> layer = nn.Linear(3, 2)
    >>> HeNormal()(layer), layer.bias.tolist()
    (['weight'], [0.0, 0.0])
    """


@INITIALIZERS.register("he_uniform")
class HeUniform(He):
    """Kaiming (He) uniform initialization, which preserves the variance through layers followed by a ReLU.

    Args:
        mode: ``fan_in`` preserves the variance of activations, ``fan_out`` that of gradients. Defaults to ``fan_in``.
        nonlinearity: Nonlinearity after the layers. Use ``relu`` for GELU and SiLU. Defaults to ``relu``.
        slope: Negative slope of ``leaky_relu``. Defaults to 0.01.
        scope: Names or patterns of parameters or of modules that contain them. Defaults to all.
        bias: Value of the biases of these layers. ``null`` keeps them. Defaults to 0.

    See Also:
        :class:`XavierUniform`. Use it instead for layers before a tanh or a sigmoid.

    Source: He et al., Delving deep into rectifiers, 2015, arXiv:1502.01852.

    Example::

        init: {name: he_uniform, nonlinearity: leaky_relu, slope: 0.1}

    >>> layer = nn.Linear(96, 50)
    >>> _ = HeUniform()(layer)
    >>> bool(layer.weight.abs().max() <= (6 / 96) ** 0.5)
    True
    """

    is_uniform = True
