"""Importance criteria of channels for structured pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.compress.pruning.dependency_graph import ChannelGroup, Member
from imgrec.errors import UserError, suggestion
from imgrec.models.utils.forward import evaluating

ChannelCriterion = Literal["group_l2", "l1", "l2", "taylor", "bn_scale", "random"]

Batches = Iterable[tuple[Tensor, Tensor]]
"""Batches of images for a classifier and of targets for the loss."""


@dataclass(frozen=True)
class _Criterion:
    """Reduction of the weights of a channel to one number.

    The scores of the weights are summed per channel, averaged over the selected members, and transformed.

    Attributes:
        score: Function that returns a score for each weight, from the weight and its gradient.
        selects: Function that returns True for the members of a group that are used.
        transform: Function that is applied to the averaged sums.
        is_relative: If True, scores are divided by their mean over the group, to be comparable between layers.
    """

    score: Callable[[Tensor, Tensor | None], Tensor]
    selects: Callable[[Member], bool]
    transform: Callable[[Tensor], Tensor] = lambda sums: sums
    is_relative: bool = True


def _square(weight: Tensor, _: Tensor | None) -> Tensor:
    return weight.double().square()


def _size(weight: Tensor, _: Tensor | None) -> Tensor:
    return weight.abs()


def _taylor(weight: Tensor, gradient: Tensor | None) -> Tensor:
    assert gradient is not None
    return (weight.double() * gradient).square()


def _writes(member: Member) -> bool:
    return member.output and isinstance(member.layer, nn.modules.conv._ConvNd | nn.Linear)


def _scales(member: Member) -> bool:
    return isinstance(member.layer, nn.modules.batchnorm._BatchNorm)


_CRITERIA: dict[str, _Criterion] = {
    "group_l2": _Criterion(_square, lambda _: True, torch.sqrt),
    "l1": _Criterion(_size, _writes),
    "l2": _Criterion(_square, _writes, torch.sqrt),
    "taylor": _Criterion(_taylor, lambda _: True, is_relative=False),
    "bn_scale": _Criterion(_size, _scales, is_relative=False),
}


def check_criterion(criterion: str, where: str = "importance") -> None:
    """Raise if a criterion does not exist.

    Raises:
        UserError: If it does not.
    """
    accepted = get_args(ChannelCriterion)
    if criterion not in accepted:
        raise UserError(
            f'{where}: there is no criterion "{criterion}".{suggestion(criterion, accepted)} '
            f"Accepted: {', '.join(accepted)}."
        )


def channel_importance(
    group: ChannelGroup,
    criterion: ChannelCriterion,
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Tensor | None:
    """Return the importance of each unit of a group, or ``None`` if the criterion does not apply to the group.

    ``l1`` and ``l2`` use the filters that compute a channel. ``group_l2`` uses all weights that belong to the channel,
    including those of its consumers and of its normalization. ``bn_scale`` uses the scales of batch normalization.
    ``taylor`` uses the first-order change of the loss. ``random`` is the control.

    Args:
        group: Group of channels.
        criterion: Name of the criterion.
        weights: Parameters of the network by name.
        gradients: Gradients of the loss by name, required by ``taylor``.
        generator: Random generator, required by ``random``.

    Returns:
        Importance of the units, float ``(units,)``. A higher value is more important.

    Sources: Li et al., 2017, "Pruning filters for efficient ConvNets", arXiv 1608.08710 (l1); Fang et al., 2023,
    "DepGraph: towards any structural pruning", arXiv 2301.12900 (group_l2); Molchanov et al., 2019, "Importance
    estimation for neural network pruning", arXiv 1906.10771 (taylor); Liu et al., 2017, "Learning efficient
    convolutional networks through network slimming", arXiv 1708.06519 (bn_scale).
    """
    if criterion == "random":
        assert generator is not None
        return torch.rand(len(group.units), generator=generator)
    rule = _CRITERIA[criterion]
    count = sum(map(len, group.units))
    total, members = torch.zeros(count, dtype=torch.float64), 0  # squares of small numbers
    for member in group.members:
        if -1 in member.roots or not rule.selects(member):
            continue
        found = _member_scores(member, rule.score, weights, gradients)
        if found is not None:
            total.index_add_(0, torch.tensor(member.roots), found[list(member.indices)].double())
            members += 1
    if not members:
        return None
    channels = rule.transform(total / members)
    units = torch.stack([channels[unit].mean() for unit in group.units])
    return units / units.mean().clamp(min=torch.finfo(units.dtype).tiny) if rule.is_relative else units


def _member_scores(
    member: Member,
    score: Callable[[Tensor, Tensor | None], Tensor],
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor] | None,
) -> Tensor | None:
    """Return the sum of scores for each channel of a layer, or ``None`` for a layer without weights."""
    name = f"{member.name}.weight"
    if isinstance(member.layer, nn.Parameter) or name not in weights:
        return None
    weight = weights[name].detach().float().cpu()
    gradient = None
    if gradients is not None:
        if name not in gradients:
            return None
        gradient = gradients[name].float().cpu()
    each = score(weight, gradient)
    layer = member.layer
    if isinstance(layer, nn.LayerNorm):
        return each.flatten(0, -2).sum(0) if each.dim() > 1 else each
    if isinstance(layer, nn.Linear) or (isinstance(layer, nn.modules.conv._ConvNd) and not layer.transposed):
        depthwise = not isinstance(layer, nn.Linear) and layer.groups == layer.out_channels and layer.groups > 1
        if member.output or depthwise:
            return each.flatten(1).sum(1)
        groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        return each.view(groups, each.shape[0] // groups, each.shape[1], -1).sum((1, 3)).flatten()
    return each if each.dim() == 1 else None


def loss_gradients(
    model: nn.Module, batches: Batches, loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy
) -> dict[str, Tensor]:
    """Return the gradients of the loss, summed over batches in evaluation mode, by parameter name.

    Args:
        model: Network. It is not changed.
        batches: Batches of images and targets.
        loss: Loss of logits and targets. Defaults to cross-entropy.

    Raises:
        UserError: If there is no batch.
    """
    names, parameters = zip(*((n, p) for n, p in model.named_parameters()), strict=True)
    required = [p.requires_grad for p in parameters]
    device = parameters[0].device
    sums: Sequence[Tensor] | None = None
    try:
        for parameter in parameters:
            parameter.requires_grad_(True)
        with evaluating(model), torch.enable_grad():
            for images, targets in batches:
                value = loss(model(images.to(device)), targets.to(device))
                found = torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)
                sums = found if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    finally:
        for parameter, requires_grad in zip(parameters, required, strict=True):
            parameter.requires_grad_(requires_grad)
    if sums is None:
        raise UserError("batches: the criterion taylor requires at least one batch of images and targets, got none.")
    return dict(zip(names, sums, strict=True))
