"""Activation functions as layers, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import timm.layers.activations as timms
from torch import nn

from imgrec.errors import UserError, suggestion

Activation = Literal[
    "relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "gelu_tanh", "silu", "mish", "hardswish",
    "sigmoid", "hardsigmoid", "tanh", "hardtanh", "softplus", "identity",
]  # fmt: skip

_MAKERS: dict[Activation, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "elu": nn.ELU,
    "celu": nn.CELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
    "hardsigmoid": nn.Hardsigmoid,
    "tanh": nn.Tanh,
    "hardtanh": nn.Hardtanh,
    "softplus": nn.Softplus,
    "identity": nn.Identity,
}

_CLASSES: dict[type[nn.Module], Activation] = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.LeakyReLU: "leaky_relu",
    nn.PReLU: "prelu",
    nn.ELU: "elu",
    nn.CELU: "celu",
    nn.SELU: "selu",
    nn.GELU: "gelu",
    nn.SiLU: "silu",
    nn.Mish: "mish",
    nn.Hardswish: "hardswish",
    nn.Sigmoid: "sigmoid",
    nn.Hardsigmoid: "hardsigmoid",
    nn.Tanh: "tanh",
    nn.Hardtanh: "hardtanh",
    nn.Softplus: "softplus",
    timms.Swish: "silu",
    timms.Mish: "mish",
    timms.Sigmoid: "sigmoid",
    timms.Tanh: "tanh",
    timms.HardSwish: "hardswish",
    timms.HardSigmoid: "hardsigmoid",
    timms.HardMish: "mish",
    timms.PReLU: "prelu",
    timms.GELU: "gelu",
    timms.GELUTanh: "gelu_tanh",
    timms.QuickGELU: "gelu",
}


def make_activation(name: Activation) -> nn.Module:
    """Return the layer of an activation, never in-place.

    Raises:
        UserError: If the name is unknown.

    >>> make_activation("silu")
    SiLU()
    """
    if name not in _MAKERS:
        raise UserError(f'activation: expected one of {", ".join(_MAKERS)}, got "{name}".{suggestion(name, _MAKERS)}')
    return _MAKERS[name]()


def activation_of(module: nn.Module) -> Activation | None:
    """Return the name of an activation layer of torch or timm, or ``None`` for other modules.

    >>> activation_of(nn.ReLU(inplace=True)), activation_of(nn.Identity())
    ('relu', None)
    """
    found = _CLASSES.get(type(module))
    return "gelu_tanh" if isinstance(module, nn.GELU) and module.approximate == "tanh" else found
