"""Replacement of the activations of a network."""

from __future__ import annotations

from typing import Any

from torch import nn

from imgrec.errors import UserError
from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import refuse_layers, replace_modules, select_layers
from imgrec.models.utils.activations import Activation, activation_of, make_activation
from imgrec.models.utils.layers import SHORT
from imgrec.models.utils.patterns import Scope, in_scope
from imgrec.models.utils.probe import probe

_GATES = ("sigmoid", "hardsigmoid")


@EDITS.register("swap_activation")
class SwapActivation(Edit):
    """Replacement of activations, for example SiLU instead of ReLU.

    Gates such as the sigmoid of squeeze-and-excitation are unchanged unless ``only`` names them. The new activations
    are never in-place, even if the replaced ones were.

    Args:
        to: Name of the new activation. Defaults to ``silu``.
        only: Names of the activations to replace. Defaults to all except ``sigmoid`` and ``hardsigmoid``.
        scope: Names or patterns of modules. Defaults to the whole network.
        in_channels: Number of channels of the images, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.

    Raises:
        UserError: If there is no activation to replace, or if one is a function call in the code of the network.

    Source: the functions are compared in Ramachandran et al., Searching for activation functions, 2017,
    arXiv:1710.05941.

    Example::

        edits: {name: swap_activation, to: silu, only: relu}

    >>> SwapActivation("gelu", image_size=8)(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()))[1]
    GELU(approximate='none')
    """

    def __init__(
        self,
        to: Activation = "silu",
        only: Activation | list[Activation] | None = None,
        scope: Scope = None,
        in_channels: int = 3,
        image_size: int = 32,
    ) -> None:
        super().__init__(scope)
        self.check_arguments(to, only)
        self.to = to
        self.only = _as_list(only)
        self.image_format = in_channels, image_size

    @staticmethod
    def check_arguments(to: Activation = "silu", only: Activation | list[Activation] | None = None, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any network."""
        if only is not None and (not _as_list(only) or _as_list(only) == [to]):
            raise UserError(f"only: expected activations other than {to}, got {only!r}.")

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with the new activations."""
        kind = " or ".join(self.only) + " layer" if self.only else "activation layer"
        selected = select_layers(network, self.scope, lambda _, module: self._is_replaced(activation_of(module)), kind)
        modules = dict(network.named_modules())
        called = {
            name: function
            for function, name in probe(network, *self.image_format).functions
            if activation_of(modules[name]) is None
            and self._is_replaced(function.rstrip("_"))
            and in_scope(SHORT + name, self.scope)
        }
        refuse_layers(
            [f"{name or 'the network'} ({function})" for name, function in called.items()],
            "activation layer",
            "the activation is a function call in the code of the network, which cannot be replaced",
        )
        return replace_modules(network, {old: make_activation(self.to) for old in selected.values()})

    def _is_replaced(self, name: str | None) -> bool:
        return name is not None and (name in self.only if self.only else name not in _GATES)


def _as_list(only: Activation | list[Activation] | None) -> list[Activation]:
    return [only] if isinstance(only, str) else list(only or [])
