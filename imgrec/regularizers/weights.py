"""Which parameters count as weights, for penalties and for weight decay alike."""

from __future__ import annotations

from torch import nn
from torch.nn import Parameter

_NORMS = (
    nn.modules.batchnorm._NormBase,  # batch and instance normalization, lazy and synchronized ones too
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


def norm_and_bias_names(model: nn.Module) -> set[str]:
    """The names of the parameters that are no weights: biases, scales, and whatever a normalization layer holds.

    A parameter with fewer than two dimensions is one of them, as in timm's parameter groups, and so is one called
    ``bias`` whatever its shape.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> sorted(norm_and_bias_names(net))
    ['0.bias', '1.bias', '1.weight']
    """
    return {
        f"{prefix}.{name}" if prefix else name
        for prefix, module in model.named_modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim < 2 or name == "bias" or isinstance(module, _NORMS)
    }


def weight_parameters(model: nn.Module, norm_and_bias: bool = False) -> list[Parameter]:
    """The trainable weights of a model: what a penalty on weights, or weight decay, is about.

    Args:
        model: any module.
        norm_and_bias: normalization layers and biases too, so every trainable parameter.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> len(weight_parameters(net)), len(weight_parameters(net, norm_and_bias=True))
    (1, 4)
    """
    exempt = set() if norm_and_bias else norm_and_bias_names(model)
    return [p for name, p in model.named_parameters() if p.requires_grad and name not in exempt]
