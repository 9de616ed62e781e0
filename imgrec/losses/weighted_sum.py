"""One loss, or the weighted sum of several, from specs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import count
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imgrec.errors import SpecError, UserError, suggestion
from imgrec.losses.base import LOSSES, in_range
from imgrec.registry import Registry, Spec, Specs
from imgrec.utils.signature import check_type

Weight = float | Literal["learned"]


class WeightedSum(nn.Module):
    """The weighted sum of several losses, whose weights are given, or learned with the network.

    A learned weight is ``exp(-s)`` of a parameter ``s``, the logarithm of a variance, and ``s / 2`` is added to the
    sum, so that it does not pay to weigh everything by nothing: where a loss stays at ``L``, its weight goes to
    ``1 / (2 L)``. The total may be below 0, and of two epochs it is weighed differently: watch ``val/nll`` or
    ``val/acc`` rather than ``val/loss``. A weight begins at 1, is logged as ``train/weight/<name>``, is in the
    checkpoint, has no weight decay and no part in what is exported.

    Shapes: as each of the losses takes them; see :data:`imgrec.losses.LOSSES`.

    Args:
        losses: the losses.
        weights: one factor a loss, or ``learned``; 1 each where not given.
        names: one name a loss, for :meth:`parts`; the classes' names where not given.

    Source: learned weights: Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh Losses, 2018,
    arXiv:1705.07115, equation 10.

    >>> import torch
    >>> from imgrec.losses import CrossEntropy, Focal
    >>> loss = WeightedSum([CrossEntropy(), Focal(gamma=2.0)], weights=[1.0, 0.5])
    >>> sorted(loss.parts(torch.zeros(4, 10), torch.tensor([0, 1, 2, 3])))
    ['CrossEntropy', 'Focal']
    """

    log_variances: nn.Parameter | None
    """Float ``(learned weights,)``, in the order of the losses that have one; ``None`` where all are given."""

    def __init__(
        self, losses: Sequence[nn.Module], weights: Sequence[Weight] | None = None, names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)
        self.weights: tuple[Weight, ...] = tuple(weights or [1.0] * len(losses))
        self.names = unique_names(names or [type(loss).__name__ for loss in losses])
        if not len(self.losses) == len(self.weights) == len(self.names) > 0:
            raise ValueError(
                f"{len(self.losses)} losses, {len(self.weights)} weights and {len(self.names)} names: "
                "give one or more losses, and as many of each"
            )
        learned = self.weights.count("learned")
        self.log_variances = nn.Parameter(torch.zeros(learned)) if learned else None

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The weighted sum, a scalar."""
        return self.total(self.parts(logits, targets))

    def parts(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Each loss by its name, unweighted."""
        return {name: loss(logits, targets) for name, loss in zip(self.names, self.losses, strict=True)}

    def total(self, parts: dict[str, Tensor]) -> Tensor:
        """The weighted sum of what :meth:`parts` gave, for a caller who wants both and computes once."""
        factors = self._factors()
        terms = [factor * parts[name] for factor, name in zip(factors, self.names, strict=True)]
        total = sum(terms[1:], start=terms[0])
        return total if self.log_variances is None else total + self.log_variances.sum() / 2

    def learned_weights(self) -> dict[str, float]:
        """The learned weights by the names of their losses, as they stand."""
        if self.log_variances is None:
            return {}
        names = [name for name, weight in zip(self.names, self.weights, strict=True) if weight == "learned"]
        return dict(zip(names, self.log_variances.detach().neg().exp().tolist(), strict=True))

    def _factors(self) -> list[float | Tensor]:
        learned: Iterator[Tensor] = iter(() if self.log_variances is None else self.log_variances.neg().exp())
        return [next(learned) if weight == "learned" else weight for weight in self.weights]

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        shown = (weight if isinstance(weight, str) else f"{weight:g}" for weight in self.weights)
        return ", ".join(f"{name}: {weight}" for name, weight in zip(self.names, shown, strict=True))


def build_loss(specs: Specs, where: str = "model.loss", **facts: Any) -> nn.Module:
    """The loss that the specs name: one spec gives that loss, a list gives their :class:`WeightedSum`.

    Args:
        specs: one spec or a list; a spec in a list may carry the key ``weight``, a factor of at least 0, or
            ``learned``, see :class:`WeightedSum`; 1 if not given. A spec that stands alone has no such key: what it
            carries goes to the loss.
        where: the place in the config, for messages.
        **facts: what the data says, see :meth:`imgrec.registry.Registry.build`.

    Raises:
        SpecError: an unknown name or argument, a value that is refused, an empty list.

    >>> build_loss(["cross_entropy", {"name": "focal", "gamma": 1.0, "weight": 0.5}]).weights
    (1.0, 0.5)
    """
    if not isinstance(specs, list):
        return _module(LOSSES, specs, where, facts)
    items = _items(specs, where)
    losses = [_module(LOSSES, spec, f"{where}[{i}]", facts) for i, (spec, _) in enumerate(items)]
    return WeightedSum(losses, [weight for _, weight in items], part_names(specs))


def check_losses(specs: Specs, where: str = "model.loss", facts: Collection[str] = ()) -> None:
    """Raise what :func:`build_loss` would raise, as far as it can be told from the names of the facts alone."""
    if not isinstance(specs, list):
        LOSSES.check(specs, where, facts)
        return
    for i, (spec, _) in enumerate(_items(specs, where)):
        LOSSES.check(spec, f"{where}[{i}]", facts)


def take_weight(spec: Spec, where: str, default: float | None = None) -> tuple[Spec, float]:
    """A spec without its key ``weight``, and that weight; without a default the key must be there."""
    if isinstance(spec, dict) and "weight" in spec:
        weight = check_type(spec["weight"], float, f"{where}.weight")
        try:
            return {k: v for k, v in spec.items() if k != "weight"}, in_range("weight", weight)
        except UserError as error:
            raise SpecError(f"{where}: {error}") from error
    if default is None:
        name = spec.get("name", "...") if isinstance(spec, dict) else spec
        raise SpecError(f"{where}: needs the key `weight`, such as {{name: {name}, weight: 0.0001}}.")
    return spec, default


def part_names(specs: Iterable[Spec]) -> list[str]:
    """Short, unique names for the parts of a sum: what a spec calls itself, of a dotted path the last word."""
    return unique_names(str(s.get("name", "")) if isinstance(s, dict) else str(s) for s in specs)


def unique_names(names: Iterable[str]) -> list[str]:
    """The last words of the names; a repeated one is followed by ``_2``, ``_3``, ...

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
        raise SpecError(f"{where}: an empty list of losses: give one loss or more.")
    found = [_take_weight(spec, f"{where}[{i}]") for i, spec in enumerate(specs)]
    if len(found) == 1 and found[0][1] == "learned":
        raise SpecError(f"{where}[0].weight: a learned weight is learned against others: give another loss beside it.")
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
        raise SpecError(f"{where}: {spec!r} gives a {type(built).__name__}, not a torch.nn.Module.")
    return built
