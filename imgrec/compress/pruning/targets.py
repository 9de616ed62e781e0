"""Target costs of pruning: a share of the parameters, of the multiply-accumulates or of the latency."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from imgrec.compress.profiling import count_macs, count_parameters, time_calls, time_ratio
from imgrec.errors import UserError, suggestion
from imgrec.models.utils.forward import evaluating

CostKind = Literal["parameters", "macs", "latency"]


class CostTarget(NamedTuple):
    """A remaining share of a cost, for example 0.5 of the MACs."""

    kind: CostKind
    share: float

    def __str__(self) -> str:
        return f"{self.share:.3g} of the {format_cost(self.kind)}"


def parse_target(target: Mapping[str, float], where: str = "target") -> CostTarget:
    """Parse a target.

    Args:
        target: Mapping of ``parameters``, ``macs`` or ``latency`` to the remaining share, in (0, 1).
        where: Key, for messages. Defaults to ``target``.

    Raises:
        UserError: If the cost is unknown or the share is out of range.

    Example:
        >>> parse_target({"macs": 0.5})
        CostTarget(kind='macs', share=0.5)
    """
    kinds = get_args(CostKind)
    if not isinstance(target, Mapping) or len(target) != 1:
        raise UserError(f"{where}: expected one of {', '.join(kinds)} and a share, such as {{macs: 0.5}}, got {target}")
    ((kind, share),) = target.items()
    if kind not in kinds:
        raise UserError(
            f'{where}: no cost is called "{kind}".{suggestion(str(kind), kinds)} Accepted: {", ".join(kinds)}.'
        )
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise UserError(f"{where}.{kind}: expected the remaining share, a float in (0, 1), got {share!r}.")
    found: CostKind = kind  # type: ignore[assignment]
    return CostTarget(found, float(share))


def format_cost(kind: CostKind) -> str:
    """Return the name of a cost for messages."""
    return {"parameters": "parameters", "macs": "MACs", "latency": "time for one image"}[kind]


def cost_of(model: nn.Module, images: Tensor, kind: CostKind, budget: float = 0.5) -> float:
    """Return the cost of a network: parameters, multiply-accumulates per image, or median seconds for one image.

    Args:
        model: Network on the device to measure.
        images: Batch of images. The first one is used.
        kind: Kind of cost.
        budget: Approximate duration of a measurement of latency in seconds. Defaults to 0.5.
    """
    first = images[:1].to(next(model.parameters()).device)
    if kind == "parameters":
        return float(count_parameters(model))
    if kind == "macs":
        return float(count_macs(model, first))
    with evaluating(model), torch.no_grad():
        return time_calls(lambda: model(first), budget, device=first.device.type).median


def share_of(model: nn.Module, reference: nn.Module, images: Tensor, kind: CostKind) -> float:
    """Return the cost of a network divided by that of another one. Latencies are measured in turn.

    Args:
        model: Network on the device to measure.
        reference: Network to compare with, on the same device.
        images: Batch of images. The first one is used.
        kind: Kind of cost.
    """
    if kind != "latency":
        return cost_of(model, images, kind) / cost_of(reference, images, kind)
    first = images[:1].to(next(model.parameters()).device)
    with evaluating(model), evaluating(reference), torch.no_grad():
        return time_ratio(lambda: model(first), lambda: reference(first), device=first.device.type)
