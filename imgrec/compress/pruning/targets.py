"""How small a network is to become: a share of its parameters, of its multiplications or of its measured time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from imgrec.compress.profiling import count_macs, count_parameters, time_calls, time_ratio
from imgrec.errors import UserError, suggestion
from imgrec.models.utils.forward import evaluating

CostKind = Literal["parameters", "macs", "latency"]


class Target(NamedTuple):
    """A share of a cost that is to be left: 0.5 of the MACs."""

    kind: CostKind
    share: float

    def __str__(self) -> str:
        return f"{self.share:.3g} of the {said(self.kind)}"


def parse_target(target: Mapping[str, float], where: str = "target") -> Target:
    """A target from plain data: one of ``parameters``, ``macs`` and ``latency``, and the share that is to be left.

    Raises:
        UserError: it names nothing of the kind, or is no share.

    >>> parse_target({"macs": 0.5})
    Target(kind='macs', share=0.5)
    """
    kinds = get_args(CostKind)
    if not isinstance(target, Mapping) or len(target) != 1:
        raise UserError(f"{where}: expected one of {', '.join(kinds)} and a share, such as {{macs: 0.5}}; got {target}")
    ((kind, share),) = target.items()
    if kind not in kinds:
        raise UserError(
            f'{where}: no cost is called "{kind}".{suggestion(str(kind), kinds)} Accepted: {", ".join(kinds)}.'
        )
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise UserError(f"{where}.{kind}: expected the share that is to be left, above 0 and below 1; got {share!r}")
    found: CostKind = kind  # type: ignore[assignment]
    return Target(found, float(share))


def said(kind: CostKind) -> str:
    """A cost in the words of a sentence."""
    return {"parameters": "parameters", "macs": "MACs", "latency": "time for one image"}[kind]


def cost_of(model: nn.Module, images: Tensor, kind: CostKind, budget: float = 0.5) -> float:
    """What a network costs: parameters, multiply-accumulates of one image, or the median seconds of one image.

    Args:
        model: on the device where time is measured.
        images: a batch; its first image is used.
        kind: what is counted or measured.
        budget: about how many seconds a measurement of time may take.
    """
    first = images[:1].to(next(model.parameters()).device)
    if kind == "parameters":
        return float(count_parameters(model))
    if kind == "macs":
        return float(count_macs(model, first))
    with evaluating(model), torch.no_grad():
        return time_calls(lambda: model(first), budget, device=first.device.type).median


def share_of(model: nn.Module, reference: nn.Module, images: Tensor, kind: CostKind) -> float:
    """What a network costs as a share of what another one costs; their times are measured in turn.

    Args:
        model: on the device where time is measured.
        reference: on the same device.
        images: a batch; its first image is used.
        kind: what is counted or measured.
    """
    if kind != "latency":
        return cost_of(model, images, kind) / cost_of(reference, images, kind)
    first = images[:1].to(next(model.parameters()).device)
    with evaluating(model), evaluating(reference), torch.no_grad():
        return time_ratio(lambda: model(first), lambda: reference(first), device=first.device.type)
