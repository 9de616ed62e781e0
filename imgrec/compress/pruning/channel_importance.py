"""How much a whole channel matters: the criteria of structured pruning."""

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
"""Images as a classifier takes them, and the targets that the loss takes."""


@dataclass(frozen=True)
class _Criterion:
    """How the weights of a channel become one number.

    ``of`` gives a number for each weight; ``counts`` says which members of a group are asked; the numbers are summed
    over what belongs to a channel, averaged over members, given to ``then``, and divided by their mean over the group
    where criteria of different layers cannot be compared as they are.
    """

    of: Callable[[Tensor, Tensor | None], Tensor]
    counts: Callable[[Member], bool]
    then: Callable[[Tensor], Tensor] = lambda sums: sums
    relative: bool = True


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
    "taylor": _Criterion(_taylor, lambda _: True, relative=False),
    "bn_scale": _Criterion(_size, _scales, relative=False),
}


def check_criterion(criterion: str, where: str = "importance") -> None:
    """Raise :class:`UserError` for a criterion that does not exist."""
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
    """How much each unit of a group matters, more is more; ``None`` where the criterion says nothing of the group.

    ``l1`` and ``l2`` look at the filters that give a channel, ``group_l2`` at all weights that go with it, those
    that read it and its norms too; ``bn_scale`` at the scales of its batch norms; ``taylor`` at how much the loss would
    change to first order; ``random`` is the control.

    Args:
        group: of the network whose tensors ``weights`` are.
        criterion: see above.
        weights: every parameter by name.
        gradients: of the loss, by name; ``taylor`` needs them.
        generator: ``random`` needs it.

    Shapes: float32 ``(units,)``.

    Sources: Li et al., 2017, "Pruning filters for efficient ConvNets", arXiv 1608.08710 (l1); Fang et al., 2023,
    "DepGraph: towards any structural pruning", arXiv 2301.12900 (group_l2); Molchanov et al., 2019, "Importance
    estimation for neural network pruning", arXiv 1906.10771 (taylor); Liu et al., 2017, "Learning efficient
    convolutional networks through network slimming", arXiv 1708.06519 (bn_scale).
    """
    if criterion == "random":
        assert generator is not None
        return torch.rand(len(group.units), generator=generator)
    how = _CRITERIA[criterion]
    count = sum(map(len, group.units))
    total, members = torch.zeros(count, dtype=torch.float64), 0  # squares of small numbers
    for member in group.members:
        if -1 in member.roots or not how.counts(member):
            continue
        found = _of_member(member, how.of, weights, gradients)
        if found is not None:
            total.index_add_(0, torch.tensor(member.roots), found[list(member.indices)].double())
            members += 1
    if not members:
        return None
    channels = how.then(total / members)
    units = torch.stack([channels[unit].mean() for unit in group.units])
    return units / units.mean().clamp(min=torch.finfo(units.dtype).tiny) if how.relative else units


def _of_member(
    member: Member,
    of: Callable[[Tensor, Tensor | None], Tensor],
    weights: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor] | None,
) -> Tensor | None:
    """One number for each channel of a layer; ``None`` of a layer that has no weights of its own."""
    name = f"{member.name}.weight"
    if isinstance(member.layer, nn.Parameter) or name not in weights:
        return None
    weight = weights[name].detach().float().cpu()
    gradient = None
    if gradients is not None:
        if name not in gradients:
            return None
        gradient = gradients[name].float().cpu()
    each = of(weight, gradient)
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
    """The gradient of the mean loss over some batches, in evaluation mode, by parameter; the model stays as it is.

    Raises:
        UserError: there is no batch.
    """
    names, parameters = zip(*((n, p) for n, p in model.named_parameters()), strict=True)
    asked = [p.requires_grad for p in parameters]
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
        for parameter, was in zip(parameters, asked, strict=True):
            parameter.requires_grad_(was)
    if sums is None:
        raise UserError("the criterion taylor needs batches of images and targets, and there is none")
    return dict(zip(names, sums, strict=True))
