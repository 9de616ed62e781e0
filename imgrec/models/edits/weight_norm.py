"""Weight normalization: separate parameters for the length and direction of each filter."""

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
    """Weight normalization: each filter is a length times a direction, so that updates do not depend on the length.

    This is a reparametrization and no penalty. The present weights and outputs are unchanged. It is mainly useful in
    networks without batch normalization, after which the length of a filter has no effect. A checkpoint contains two
    parameters per weight. Weight decay on the length acts as on a plain weight, on the direction it has no effect. The
    model folder contains ordinary weights without this edit.

    Args:
        scope: Names or patterns of linear or convolutional layers. Defaults to all of them.

    Raises:
        UserError: If a pattern matches no such layer, or if a filter is zero and has no direction.

    See Also:
        :class:`imgrec.models.WeightStandardization`. Use it instead together with group normalization.

    Example::

        edits: {name: weight_norm, scope: [layer3, layer4]}

    >>> [name for name, _ in WeightNorm()(nn.Sequential(nn.Linear(2, 1, bias=False))).named_parameters()]
    ['0.parametrizations.weight.original0', '0.parametrizations.weight.original1']

    Source: Salimans and Kingma, Weight normalization: a simple reparameterization to accelerate training of deep
    neural networks, 2016, arXiv:1602.07868.
    """

    def __init__(self, scope: Scope = None) -> None:
        super().__init__(scope)

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with lengths and directions instead of weights."""
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
                    f"a filter of {name} is all zeros and has no direction. Exclude the layer from `scope`."
                )
        for layer in layers.values():
            is_trainable = layer.get_parameter("weight").requires_grad
            parametrizations.weight_norm(layer)
            layer.get_submodule("parametrizations.weight").requires_grad_(is_trainable)
        return network

    def fold(self, network: nn.Module) -> bool:
        """Multiply lengths and directions into ordinary weights, in place."""
        fold_weights(network, parametrizations._WeightNorm)
        return True
