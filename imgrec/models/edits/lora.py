"""LoRA: a frozen network whose weights learn a change of low rank."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from imgrec.errors import UserError
from imgrec.models.edits.base import EDITS, Edit
from imgrec.models.edits.placement import select_layers
from imgrec.models.utils.patterns import Scope, scope_names
from imgrec.models.utils.simplify import fold_weights

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def low_rank_change(up: Tensor, down: Tensor, scale: float, shape: torch.Size) -> Tensor:
    """``scale * up @ down`` in the shape of a weight.

    Shapes: ``up`` ``(outputs, rank)``, ``down`` ``(rank, inputs)``; a convolution has channels times kernel as inputs.

    >>> low_rank_change(torch.ones(2, 1), torch.ones(1, 3), 0.5, torch.Size([2, 3]))[0]
    tensor([0.5000, 0.5000, 0.5000])
    """
    return (scale * (up @ down)).view(shape)


class LowRank(nn.Module):
    """A parametrization: a weight plus a change of low rank, which is 0 at first.

    Args:
        weight: what is changed.
        rank: of the change.
        alpha: the change is multiplied by this over the rank.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The changed weight, in its own precision under autocast, too: what is merged later is what was trained."""
        kind = weight.device.type
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            return weight + low_rank_change(self.up, self.down, self.scale, weight.shape)


@EDITS.register("lora")
class LoRA(Edit):
    """LoRA: the backbone is frozen, and weights of some layers learn a change of low rank; merged when it is shared.

    What trains are two small matrices a layer, and whatever stands outside the backbone, such as the head. The model
    folder of the run holds the backbone as an ordinary one: the change is added to the weights, which gives the same
    logits, and this edit is no part of it. Checkpoints hold both, and a resumed run goes on exactly.

    A change is added to the weight, and not computed from the layer's input: so it works in layers whose weights a
    network uses by itself (attention of BEiT and EVA), at the cost of a copy of each such weight in memory. The fused
    `qkv` of a ViT has one change for all three. Layers that edits before this one have added are frozen with the rest.

    Args:
        rank: of the change.
        alpha: the change is multiplied by this over the rank.
        scope: the layers, linear or convolutional ones: names of modules, or patterns; ``null``: all of them.
        train: parameters of the backbone that train as they are, such as ``"*.bias"`` or ``"*norm*"``.

    Raises:
        UserError: a number that cannot be; a pattern that matches no such layer; a rank above what a layer has.

    Example::

        model:
          backbone: {name: vit_tiny_patch16_224, pretrained: true}
          edits: [{name: lora, rank: 8, scope: "*.attn.*"}]

    Source: Hu et al. 2021, "LoRA: low-rank adaptation of large language models", arXiv 2106.09685.
    """

    def __init__(self, rank: int = 8, alpha: float = 16.0, scope: Scope = "*.attn.*", train: Scope = None) -> None:
        super().__init__(scope)
        self.check_arguments(rank, alpha)
        self.rank = rank
        self.alpha = alpha
        self.train = train

    @classmethod
    def check_arguments(cls, rank: int = 8, alpha: float = 16.0, **_: object) -> None:
        """Raise an error if the arguments are invalid for any network."""
        if rank < 1:
            raise UserError(f"`rank` is 1 or more, got {rank}.")
        if alpha <= 0:
            raise UserError(f"`alpha` is above 0, got {alpha:g}.")

    def __call__(self, network: nn.Module) -> nn.Module:
        """The network with the changes; of all that it had, only what ``train`` means has a gradient."""
        layers = select_layers(
            network,
            self.scope,
            lambda _, module: isinstance(module, _LAYERS) and not parametrize.is_parametrized(module, "weight"),
            "linear or convolutional layer",
        )
        for name, layer in layers.items():
            weight: Tensor = layer.get_parameter("weight")
            most = min(weight.shape[0], weight[0].numel())
            if self.rank > most:
                raise UserError(f"`rank` {self.rank} is more than the {most} that the weight of {name} has.")
        chosen = set(scope_names(network, self.train, "train")) if self.train is not None else set()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in chosen)
        for layer in layers.values():
            parametrize.register_parametrization(
                layer, "weight", LowRank(layer.get_parameter("weight").detach(), self.rank, self.alpha)
            )
        return network

    def fold(self, network: nn.Module) -> bool:
        """Add each change to its weight, in place, and leave ordinary layers."""
        fold_weights(network, LowRank)
        return True
