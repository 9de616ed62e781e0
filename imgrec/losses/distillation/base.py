"""What a network is to learn from another one: a registry, and the weighted sum of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from imgrec.errors import SpecError, UserError
from imgrec.losses.weighted_sum import part_names, take_weight, unique_names
from imgrec.registry import Registry, Spec, Specs, as_list


@dataclass(frozen=True, slots=True)
class Signals:
    """What a network gives for a batch, for another one to learn from.

    Shapes: ``logits`` float ``(batch, num_classes)``; ``features`` float ``(batch, feature_dim)``, the pooled vector
    before the head; ``maps`` what the layers give that a distillation names, one tensor each.
    """

    logits: Tensor
    features: Tensor
    maps: tuple[Tensor, ...] = ()


class Distillation(nn.Module):
    """The base class of what is in :data:`DISTILLATIONS`; one method is a kind."""

    layers: Mapping[str, str] = {}
    """By patterns of the student's layers those of the teacher's whose outputs are compared; see ``Signals.maps``."""

    needs_logits: bool = True
    """Whether it takes the teacher's logits, and so a teacher with a trained head."""

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """How far the student is from the teacher, a scalar.

        Args:
            student: with gradients.
            teacher: without.
            targets: as in a :class:`imgrec.types.Batch`.
        """
        raise NotImplementedError

    def fit_to(self, student: Signals, teacher: Signals) -> None:
        """Make what has to fit the two networks, from what they give for one image; nothing by default."""


DISTILLATIONS: Registry[Distillation] = Registry("distillation", "distillations", specific=("layers",))
"""Distillations by name: modules whose ``forward(student, teacher, targets)`` gives a scalar with a gradient."""


class DistillationSum(nn.Module):
    """The weighted sum of several distillations.

    Args:
        kinds: one or more.
        weights: one factor each.
        names: one name each; the classes' names where not given.
    """

    def __init__(
        self, kinds: Sequence[Distillation], weights: Sequence[float], names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(kinds)
        self.weights = tuple(weights)
        self.names = unique_names(names or [type(kind).__name__ for kind in kinds])
        if not len(self.kinds) == len(self.weights) == len(self.names) > 0:
            raise ValueError("give one or more distillations, and as many weights and names")

    @property
    def each(self) -> list[tuple[str, Distillation]]:
        """The kinds by their names."""
        return [(name, kind) for name, kind in zip(self.names, self.kinds, strict=True)]  # type: ignore[misc]

    def forward(
        self, student: Signals, teacher: Signals, targets: Tensor, counts: Sequence[int] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total, and the weighted parts by name, detached.

        Args:
            student: with gradients; its maps are those of all kinds, one kind after the other.
            teacher: without gradients, likewise.
            targets: as in a :class:`imgrec.types.Batch`.
            counts: how many maps each kind has; none where left out.
        """
        total = student.logits.new_zeros(())
        parts: dict[str, Tensor] = {}
        shares = self._shared_out(student, teacher, counts)
        for (name, kind), weight, pair in zip(self.each, self.weights, shares, strict=True):
            part = weight * kind(*pair, targets)
            parts[name] = part.detach()
            total = total + part
        return total, parts

    def fit_to(self, student: Signals, teacher: Signals, counts: Sequence[int] | None = None) -> None:
        """Make what has to fit the two networks; the arguments are those of :meth:`forward`."""
        for (name, kind), pair in zip(self.each, self._shared_out(student, teacher, counts), strict=True):
            try:
                kind.fit_to(*pair)
            except UserError as error:
                raise UserError(f"the distillation {name}: {error}") from error

    def _shared_out(
        self, student: Signals, teacher: Signals, counts: Sequence[int] | None
    ) -> list[tuple[Signals, Signals]]:
        shares, first = [], 0
        for count in counts or [0] * len(self.kinds):
            own = slice(first, first + count)
            shares.append(
                (
                    Signals(student.logits, student.features, student.maps[own]),
                    Signals(teacher.logits, teacher.features, teacher.maps[own]),
                )
            )
            first += count
        return shares

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return ", ".join(f"{name}: {weight:g}" for name, weight in zip(self.names, self.weights, strict=True))


def build_distillations(specs: Specs, where: str = "model.distillation", **facts: Any) -> DistillationSum:
    """The distillations that the specs name.

    Args:
        specs: one spec or a list; each may carry the key ``weight``, at least 0, 1 if not given.
        where: the place in the config, for messages.
        **facts: what the data says, see :meth:`imgrec.registry.Registry.build`.

    Raises:
        SpecError: an unknown name or argument, a value that is refused, an empty list.

    >>> build_distillations([{"name": "logits", "temperature": 2.0, "weight": 0.9}, "hard"]).weights
    (0.9, 1.0)
    """
    items = _items(specs, where)
    built = []
    for place, spec, _ in items:
        kind: object = DISTILLATIONS.build(spec, place, **facts)
        if not isinstance(kind, Distillation):
            raise SpecError(f"{place}: {spec!r} gives a {type(kind).__name__}, not an imgrec.losses.Distillation.")
        built.append(kind)
    return DistillationSum(built, [weight for _, _, weight in items], part_names(as_list(specs)))


def check_distillations(specs: Specs, where: str = "model.distillation") -> None:
    """Raise what :func:`build_distillations` would raise, as far as it can be told without the facts."""
    for place, spec, _ in _items(specs, where):
        DISTILLATIONS.check(spec, place)


def _items(specs: Specs, where: str) -> list[tuple[str, Spec, float]]:
    listed = as_list(specs)
    if not listed:
        raise SpecError(f"{where}: an empty list: give one distillation or more, or take ClassificationTask.")
    places = [f"{where}[{i}]" if isinstance(specs, list) else where for i in range(len(listed))]
    return [(place, *take_weight(spec, place, default=1.0)) for place, spec in zip(places, listed, strict=True)]
