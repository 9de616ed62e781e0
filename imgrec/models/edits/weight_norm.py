"""Weight normalization: the length and the direction of each filter are learnt apart."""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrizations, parametrize

from imgrec.errors import UserError
from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import select_layers
from imgrec.models.utils.patterns import Scope
from imgrec.models.utils.simplify import fold_weights

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@EDITS.register("weight_norm")
class WeightNorm(Edit):
    """Each filter as a length times a direction, which are learnt apart: steps do not depend on how long it is.

    A reparametrization, and no penalty: at first the network gives what it gave, with the weights that were there. For
    networks without batch normalization above all, behind which a filter's length plays no part. In a checkpoint a
    weight is two parameters; weight decay on the length does what it does to a plain weight, on the direction nothing.
    The model folder of the run holds ordinary weights, and this edit is no part of it.

    Args:
        scope: the layers, linear or convolutional ones: names of modules, or patterns; ``null``: all of them.

    Raises:
        UserError: a pattern that matches no such layer; a filter of zeros, which has no direction.

    Example::

        edits: {name: weight_norm, scope: [layer3, layer4]}

    Source: Salimans and Kingma, Weight normalization: a simple reparameterization to accelerate training of deep
    neural networks, 2016, arXiv:1602.07868.
    """

    def __init__(self, scope: Scope = None) -> None:
        super().__init__(scope)

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with its weights as lengths and directions."""
        layers = select_layers(
            network,
            self.scope,
            lambda _, module: isinstance(module, _LAYERS) and not parametrize.is_parametrized(module, "weight"),
            "linear or convolutional layer",
        )
        for name, layer in layers.items():
            weight = layer.get_parameter("weight")
            if not weight.is_meta and not bool(weight.detach().flatten(1).any(1).all()):
                raise UserError(
                    f"a filter of {name} is all zeros and has no direction; leave the layer out of `scope`."
                )
        for layer in layers.values():
            trains = layer.get_parameter("weight").requires_grad
            parametrizations.weight_norm(layer)
            layer.get_submodule("parametrizations.weight").requires_grad_(trains)
        return network

    def fold(self, network: nn.Module) -> bool:
        """Multiply lengths and directions, in place, and leave ordinary layers."""
        fold_weights(network, parametrizations._WeightNorm)
        return True
