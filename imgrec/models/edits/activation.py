"""Other activations in the place of a network's own."""

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
    """Another activation in the place of those that a network has: silu for relu, say, or sigmoid as in old textbooks.

    Sigmoids that gate channels, in squeeze-and-excitation say, stay as they are unless ``only`` names them. The new
    ones work on a copy, also where the old ones changed their input.

    Args:
        to: the new activation.
        only: the activations that are swapped; by default all but ``sigmoid`` and ``hardsigmoid``.
        scope: names of modules, or patterns; ``null`` means all.
        in_channels: of the images that the network is tried out with.
        image_size: their side, in pixels.

    Raises:
        UserError: there is none to swap; or one is a function that the network's code calls, and no layer.

    Source: the functions are compared in Ramachandran et al., Searching for activation functions, 2017,
    arXiv:1710.05941.

    Example::

        edits: {name: swap_activation, to: silu, only: relu}
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
        self.images = in_channels, image_size

    @staticmethod
    def check_arguments(to: Activation = "silu", only: Activation | list[Activation] | None = None, **_: Any) -> None:
        """Raise an error if the arguments are invalid for any network."""
        if only is not None and (not _as_list(only) or _as_list(only) == [to]):
            raise UserError(f"`only` names the activations that become {to}, got {only!r}.")

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with the other activations."""
        kind = " or ".join(self.only) + " layer" if self.only else "activation layer"
        chosen = select_layers(network, self.scope, lambda _, module: self._wanted(activation_of(module)), kind)
        modules = dict(network.named_modules())
        called = {
            name: function
            for function, name in probe(network, *self.images).functions
            if activation_of(modules[name]) is None
            and self._wanted(function.rstrip("_"))
            and in_scope(SHORT + name, self.scope)
        }
        refuse_layers(
            [f"{name or 'the network'} ({function})" for name, function in called.items()],
            "activation layer",
            "the activation there is a function that the network's code calls, and no layer that can be swapped",
        )
        return replace_modules(network, {old: make_activation(self.to) for old in chosen.values()})

    def _wanted(self, name: str | None) -> bool:
        return name is not None and (name in self.only if self.only else name not in _GATES)


def _as_list(only: Activation | list[Activation] | None) -> list[Activation]:
    return [only] if isinstance(only, str) else list(only or [])
