"""Weights drawn at random, with a spread that follows from a layer's inputs and outputs."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from imgrec.models.init.base import INITIALIZERS, Weight
from imgrec.models.init.fixed import RandomInitializer, above_zero
from imgrec.models.utils.patterns import Scope

Nonlinearity = Literal["linear", "relu", "leaky_relu", "tanh", "sigmoid", "selu"]
"""What stands behind a layer; for gelu, silu and the like take relu."""


def xavier_std(fan_in: int, fan_out: int, gain: float = 1.0) -> float:
    """The standard deviation that keeps the variance of activations and gradients, as a compromise of both.

    >>> xavier_std(100, 100)
    0.1
    """
    return float(gain * (2 / (fan_in + fan_out)) ** 0.5)


def he_std(fan: int, nonlinearity: Nonlinearity = "relu", slope: float = 0.01) -> float:
    """The standard deviation that keeps a variance through a layer and the nonlinearity behind it.

    >>> he_std(200)
    0.1
    """
    return float(nn.init.calculate_gain(nonlinearity, slope) / fan**0.5)


class FanInitializer(RandomInitializer):
    """Weights around 0, normal or even, whose spread follows from what goes into a layer and what comes out."""

    even: ClassVar[bool] = False

    @abstractmethod
    def std(self, weight: Weight) -> float:
        """The standard deviation for a layer."""

    def draw(self, values: Tensor, weight: Weight) -> None:  # noqa: D102
        std = self.std(weight)
        if self.even:
            values.uniform_(-(3**0.5) * std, 3**0.5 * std)
        else:
            values.normal_(0.0, std)


class Xavier(FanInitializer):
    """Weights whose spread follows from both the inputs and the outputs of a layer.

    Args:
        gain: a factor on the spread: 1 for linear and sigmoid-like layers.
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.
    """

    def __init__(self, gain: float = 1.0, scope: Scope = None, bias: float | None = 0.0) -> None:
        super().__init__(scope, bias)
        self.check_arguments(gain)
        self.gain = gain

    @staticmethod
    def check_arguments(gain: float = 1.0, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any model."""
        above_zero("gain", gain)

    def std(self, weight: Weight) -> float:  # noqa: D102
        return xavier_std(weight.fan_in, weight.fan_out, self.gain)


@INITIALIZERS.register("xavier_normal")
class XavierNormal(Xavier):
    """Xavier (Glorot): normal weights that keep the variance of activations and gradients of linear layers.

    Args:
        gain: a factor on the spread: 1 for linear and sigmoid-like layers.
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.

    Raises:
        UserError: a gain that is not above 0.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010, AISTATS.

    Example::

        init: {name: xavier_normal, gain: 1.0}
    """


@INITIALIZERS.register("xavier_uniform")
class XavierUniform(Xavier):
    """Xavier (Glorot): even weights that keep the variance of activations and gradients of linear layers.

    Args:
        gain: a factor on the spread: 1 for linear and sigmoid-like layers.
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.

    Raises:
        UserError: a gain that is not above 0.

    Source: Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010, AISTATS.

    Example::

        init: xavier_uniform
    """

    even = True


class He(FanInitializer):
    """Weights whose spread follows from the inputs or the outputs of a layer, and the nonlinearity behind it.

    Args:
        mode: ``fan_in`` keeps the variance of activations, ``fan_out`` that of gradients.
        nonlinearity: what stands behind the layers; for gelu, silu and the like take relu.
        slope: of a ``leaky_relu`` below zero.
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.
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
    """He (Kaiming): normal weights that keep the variance through layers with a ReLU behind them.

    Args:
        mode: ``fan_in`` keeps the variance of activations, ``fan_out`` that of gradients.
        nonlinearity: what stands behind the layers; for gelu, silu and the like take relu.
        slope: of a ``leaky_relu`` below zero.
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.

    Source: He et al., Delving deep into rectifiers, 2015, arXiv:1502.01852.

    Example::

        init: {name: he_normal, mode: fan_out, scope: "*.conv?"}
    """


@INITIALIZERS.register("he_uniform")
class HeUniform(He):
    """He (Kaiming): even weights that keep the variance through layers with a ReLU behind them.

    Args:
        mode: ``fan_in`` keeps the variance of activations, ``fan_out`` that of gradients.
        nonlinearity: what stands behind the layers; for gelu, silu and the like take relu.
        slope: of a ``leaky_relu`` below zero.
        scope: names of parameters or of modules around them, or patterns; ``null`` means all.
        bias: what the biases of these layers become; ``null`` leaves them.

    Source: He et al., Delving deep into rectifiers, 2015, arXiv:1502.01852.

    Example::

        init: {name: he_uniform, nonlinearity: leaky_relu, slope: 0.1}
    """

    even = True
