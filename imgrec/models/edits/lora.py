"""LoRA: low-rank updates of the weights of a frozen network."""

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
from imgrec.utils.ranges import PositiveFloat, PositiveInt, check_ranges

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def low_rank_change(up: Tensor, down: Tensor, scale: float, shape: torch.Size) -> Tensor:
    """Return ``scale * up @ down`` in the shape of a weight.

    Shapes: ``up`` ``(outputs, rank)``, ``down`` ``(rank, inputs)``. The inputs of a convolution are its input channels
    times its kernel size.

    >>> low_rank_change(torch.ones(2, 1), torch.ones(1, 3), 0.5, torch.Size([2, 3]))[0]
    tensor([0.5000, 0.5000, 0.5000])
    """
    return (scale * (up @ down)).view(shape)


class LowRank(nn.Module):
    """Parametrization of a weight that adds a low-rank update, initially 0.

    Args:
        weight: Weight to update.
        rank: Rank of the update.
        alpha: Numerator of the scale ``alpha / rank`` of the update.
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(weight.new_empty(rank, weight[0].numel()))
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight.

        Autocast is disabled, so that the merged weight equals the trained one.
        """
        device = weight.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return weight + low_rank_change(self.up, self.down, self.scale, weight.shape)


@EDITS.register("lora")
class LoRA(Edit):
    """LoRA: trainable low-rank updates of the weights of a frozen backbone.

    Two small matrices per layer train, together with all modules outside the backbone, such as the head. The model
    folder contains an ordinary backbone without this edit: the updates are merged into the weights, which leaves the
    logits unchanged. Checkpoints contain both, and a resumed run continues exactly.

    An update is added to the weight instead of being computed from the input of the layer. It therefore works if the
    network reads a weight directly, as in the attention of BEiT and EVA. It needs memory for a copy of each weight. The
    fused `qkv` of a ViT has one update for all three. Layers of earlier edits are frozen as well.

    Args:
        rank: Rank of the updates, at least 1. Defaults to 8.
        alpha: Numerator of the scale ``alpha / rank`` of the updates, above 0. Defaults to 16.
        scope: Names or patterns of linear or convolutional layers. ``null`` selects all of them. Defaults to
            ``"*.attn.*"``.
        train: Names or patterns of parameters of the backbone that train as well, such as ``"*.bias"`` or ``"*norm*"``.

    Raises:
        UserError: If ``rank`` or ``alpha`` is out of range, if a pattern matches no such layer, or if ``rank`` exceeds
            the rank of a weight.

    Example::

        model:
          backbone: {name: vit_tiny_patch16_224, pretrained: true}
          edits: [{name: lora, rank: 8, scope: "*.attn.*"}]

    >>> network = LoRA(rank=2, scope=None)(nn.Sequential(nn.Linear(4, 3)))
    >>> [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    ['0.parametrizations.weight.0.down', '0.parametrizations.weight.0.up']

    Source: Hu et al., LoRA: low-rank adaptation of large language models, 2021, arXiv:2106.09685.
    """

    @check_ranges
    def __init__(
        self,
        rank: PositiveInt = 8,
        alpha: PositiveFloat = 16.0,
        scope: Scope = "*.attn.*",
        train: Scope = None,
    ) -> None:
        super().__init__(scope)
        self.rank = rank
        self.alpha = alpha
        self.train = train

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network with the updates. Only these and the parameters of ``train`` require gradients."""
        layers = select_layers(
            network,
            self.scope,
            lambda _, module: isinstance(module, _LAYERS) and not parametrize.is_parametrized(module, "weight"),
            "linear or convolutional layer",
        )
        for name, layer in layers.items():
            weight: Tensor = layer.get_parameter("weight")
            full_rank = min(weight.shape[0], weight[0].numel())
            if self.rank > full_rank:
                raise UserError(
                    f"rank: expected at most {full_rank}, the rank of the weight of {name}, got {self.rank}."
                )
        trainable = set(scope_names(network, self.train, "train")) if self.train is not None else set()
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(name in trainable)
        for layer in layers.values():
            parametrize.register_parametrization(
                layer, "weight", LowRank(layer.get_parameter("weight").detach(), self.rank, self.alpha)
            )
        return network

    def fold(self, network: nn.Module) -> bool:
        """Merge each update into its weight, in place."""
        fold_weights(network, LowRank)
        return True
