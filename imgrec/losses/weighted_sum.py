"""Weighted sum of losses, built from specs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imgrec.errors import SpecError, suggestion
from imgrec.losses.base import LOSSES
from imgrec.registry import Registry, Spec, Specs
from imgrec.utils.ranges import NonNegativeFloat
from imgrec.utils.signature import check_type

Weight = float | Literal["learned"]


class WeightedSum(nn.Module):
    """Weighted sum of several losses, with given weights or with weights learned with the network.

    A learned weight is ``exp(-s)`` of a parameter ``s``, the logarithm of a variance. ``s / 2`` is added to the sum,
    which prevents weights of 0. If a loss stays at ``L``, its weight converges to ``1 / (2 L)``. The total may be
    negative, and its weights change between epochs, so monitor ``val/nll`` or ``val/acc`` instead of ``val/loss``. A
    weight starts at 1 and is logged as ``train/weight/<name>``. It is saved in checkpoints, has no weight decay and is
    not exported.

    Shapes: those of the losses, see :data:`imgrec.losses.LOSSES`.

    Args:
        losses: Losses.
        weights: Factor or ``learned``, one per loss. Defaults to 1 each.
        names: Names for :meth:`parts`, one per loss. Defaults to the names of the classes.

    Source: learned weights: Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, 2018,
    arXiv:1705.07115, equation 10.

    >>> import torch
    >>> from imgrec.losses import CrossEntropy, Focal
    >>> loss = WeightedSum([CrossEntropy(), Focal(gamma=2.0)], weights=[1.0, 0.5])
    >>> sorted(loss.parts(torch.zeros(4, 10), torch.tensor([0, 1, 2, 3])))
    ['CrossEntropy', 'Focal']
    """

    log_variances: nn.Parameter | None
    """Float ``(learned weights,)``, in the order of the losses that have one, or ``None`` without learned weights."""

    def __init__(
        self, losses: Sequence[nn.Module], weights: Sequence[Weight] | None = None, names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.weights: tuple[Weight, ...] = tuple(weights or [1.0] * len(losses))
        self.names = unique_names(names or [type(loss).__name__ for loss in losses])
        if not len(self.losses) == len(self.weights) == len(self.names) > 0:
            raise ValueError(
                "losses: expected one or more, with one weight and one name each, got "
                f"{len(self.losses)} losses, {len(self.weights)} weights and {len(self.names)} names"
            )
        learned = self.weights.count("learned")
        self.log_variances = nn.Parameter(torch.zeros(learned)) if learned else None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the weighted sum, a scalar."""
        return self.total(self.parts(logits, targets))

    def parts(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return each loss by its name, unweighted."""
        return {name: loss(logits, targets) for name, loss in zip(self.names, self.losses, strict=True)}

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of the result of :meth:`parts`, so that the losses are computed once."""
        factors = self._factors()
        terms = [factor * parts[name] for factor, name in zip(factors, self.names, strict=True)]
        total = sum(terms[1:], start=terms[0])
        return total if self.log_variances is None else total + self.log_variances.sum() / 2

    def learned_weights(self) -> dict[str, float]:
        """Return the current learned weights by the names of their losses."""
        if self.log_variances is None:
            return {}
        names = [name for name, weight in zip(self.names, self.weights, strict=True) if weight == "learned"]
        return dict(zip(names, self.log_variances.detach().neg().exp().tolist(), strict=True))

    def _factors(self) -> list[float | Tensor]:
        learned: Iterator[Tensor] = iter(() if self.log_variances is None else self.log_variances.neg().exp())
        return [next(learned) if weight == "learned" else weight for weight in self.weights]

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        shown = (weight if isinstance(weight, str) else f"{weight:g}" for weight in self.weights)
        return ", ".join(f"{name}: {weight}" for name, weight in zip(self.names, shown, strict=True))


def build_loss(specs: Specs, where: str = "model.loss", **facts: Any) -> nn.Module:
    """Build the loss that the specs name. A list gives a :class:`WeightedSum`.

    Args:
        specs: One spec or a list. A spec in a list may have the key ``weight``, a factor of at least 0 or ``learned``,
            see :class:`WeightedSum`. Defaults to 1. A single spec has no such key: all its keys are arguments of the
            loss.
        where: Key in the config for messages.
        **facts: Facts of the data, see :meth:`imgrec.registry.Registry.build`.

    Raises:
        SpecError: If a name or an argument is unknown, a value is invalid, or the list is empty.

    >>> build_loss(["cross_entropy", {"name": "focal", "gamma": 1.0, "weight": 0.5}]).weights
    (1.0, 0.5)
    """
    if not isinstance(specs, list):
        return _module(LOSSES, specs, where, facts)
    items = _items(specs, where)
    losses = [_module(LOSSES, spec, f"{where}[{i}]", facts) for i, (spec, _) in enumerate(items)]
    return WeightedSum(losses, [weight for _, weight in items], part_names(specs))


def check_losses(specs: Specs, where: str = "model.loss", facts: Collection[str] = ()) -> None:
    """Raise the errors of :func:`build_loss` that depend only on the names of the facts."""
    if not isinstance(specs, list):
        LOSSES.check(specs, where, facts)
        return
    for i, (spec, _) in enumerate(_items(specs, where)):
        LOSSES.check(spec, f"{where}[{i}]", facts)


def take_weight(spec: Spec, where: str, default: float | None = None) -> tuple[Spec, float]:
    """Return a spec without its key ``weight``, and the weight.

    Args:
        spec: Spec.
        where: Key in the config for messages.
        default: Weight of a spec without the key. Defaults to ``None``, for which the key is required.

    Raises:
        SpecError: If the weight is missing, or if it is negative.
    """
    if isinstance(spec, dict) and "weight" in spec:
        weight: float = check_type(spec["weight"], NonNegativeFloat, f"{where}.weight")
        return {k: v for k, v in spec.items() if k != "weight"}, weight
    if default is None:
        name = spec.get("name", "...") if isinstance(spec, dict) else spec
        raise SpecError(f"{where}: requires the key `weight`, for example {{name: {name}, weight: 0.0001}}.")
    return spec, default


def part_names(specs: Iterable[Spec]) -> list[str]:
    """Return short, unique names for the parts of a sum: the name of a spec, or the last word of a dotted path."""
    return unique_names(str(s.get("name", "")) if isinstance(s, dict) else str(s) for s in specs)


def unique_names(names: Iterable[str]) -> list[str]:
    """Return the last words of the names. A repeated one is followed by ``_2``, ``_3``, ...

    >>> unique_names(["focal", "my_lab.losses.Mine", "focal"])
    ['focal', 'Mine', 'focal_2']
    """
    unique: list[str] = []
    for name in (n.rpartition(".")[2] for n in names):
        numbered = (f"{name}_{i}" for i in count(2))
        unique.append(name if name not in unique else next(n for n in numbered if n not in unique))
    return unique


def _items(specs: list[Spec], where: str) -> list[tuple[Spec, Weight]]:
    if not specs:
        raise SpecError(f"{where}: expected one loss or more, got an empty list.")
    found = [_take_weight(spec, f"{where}[{i}]") for i, spec in enumerate(specs)]
    if len(found) == 1 and found[0][1] == "learned":
        raise SpecError(f"{where}[0].weight: a learned weight requires a second loss, got one loss.")
    return found


def _take_weight(spec: Spec, where: str) -> tuple[Spec, Weight]:
    if isinstance(spec, dict) and isinstance(given := spec.get("weight"), str):
        if given != "learned":
            raise SpecError(
                f"{where}.weight: expected float or learned, got {given!r}.{suggestion(given, ['learned'])}"
            )
        return {k: v for k, v in spec.items() if k != "weight"}, "learned"
    return take_weight(spec, where, default=1.0)


def _module(registry: Registry[nn.Module], spec: Spec, where: str, facts: dict[str, Any]) -> nn.Module:
    built: object = registry.build(spec, where, **facts)
    if not isinstance(built, nn.Module):
        raise SpecError(f"{where}: expected a torch.nn.Module, got a {type(built).__name__} from {spec!r}.")
    return built
