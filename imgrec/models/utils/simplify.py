"""Layers whose weight is computed from other tensors, and how they become ordinary ones."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.utils import parametrize


def fold_weights(network: nn.Module, kind: type[nn.Module]) -> None:
    """Make ordinary layers, in place, of those whose weight a parametrization of this ``kind`` computes.

    Torch's own way takes the weight from the class, which copies of a layer share. It has to be the one parametrization
    of the layer.

    >>> from torch.nn.utils.parametrizations import _WeightNorm, weight_norm
    >>> network = nn.Sequential(weight_norm(nn.Linear(2, 2)))
    >>> fold_weights(network, _WeightNorm)
    >>> list(network.state_dict())
    ['0.weight', '0.bias']
    """
    for layer in network.modules():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        made = layer.get_submodule("parametrizations.weight")
        if not any(isinstance(each, kind) for each in made.children()):
            continue
        weight: Tensor = layer.weight.detach().clone()  # type: ignore[operator]
        trains = any(each.requires_grad for each in made.parameters(recurse=False))
        del layer._modules["parametrizations"]
        layer.__class__ = type(layer).__mro__[1]
        others = dict(layer._parameters)
        layer._parameters.clear()
        layer._parameters.update({"weight": nn.Parameter(weight, trains), **others})
