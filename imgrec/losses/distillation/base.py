"""Registry of distillation losses, and their weighted sum."""

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
    """Outputs of a network for a batch, for distillation.

    Shapes: ``logits`` float ``(batch, num_classes)``. ``features`` float ``(batch, feature_dim)``, the pooled vector
        before
    the head. ``maps`` holds the outputs of the layers that a distillation names.
    """

    logits: Tensor
    features: Tensor
    maps: tuple[Tensor, ...] = ()


class Distillation(nn.Module):
    """Base class of distillation losses, the entries of :data:`DISTILLATIONS`."""

    layers: Mapping[str, str] = {}
    """Patterns of teacher layers by patterns of student layers, whose outputs are in ``Signals.maps``."""

    needs_logits: bool = True
    """True if it requires the logits of the teacher, and so a teacher with a trained head."""

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """Return the distance of the student from the teacher, a scalar.

        Args:
            student: Outputs of the student, with gradients.
            teacher: Outputs of the teacher, without gradients.
            targets: Targets as in a :class:`imgrec.types.Batch`.
        """
        raise NotImplementedError

    def fit_to(self, student: Signals, teacher: Signals) -> None:
        """Build modules whose sizes depend on both networks, from their outputs for one image."""


DISTILLATIONS: Registry[Distillation] = Registry("distillation", "distillations", specific=("layers",))
"""Distillations by name: modules whose ``forward(student, teacher, targets)`` returns a scalar with a gradient."""


class DistillationSum(nn.Module):
    """Weighted sum of several distillations.

    Args:
        kinds: One distillation or more.
        weights: Factors, one per distillation.
        names: Names, one per distillation. Defaults to the names of the classes.
    """

    def __init__(
        self, kinds: Sequence[Distillation], weights: Sequence[float], names: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.kinds = nn.ModuleList(kinds)
        self.weights = tuple(weights)
        self.names = unique_names(names or [type(kind).__name__ for kind in kinds])
        if not len(self.kinds) == len(self.weights) == len(self.names) > 0:
            raise ValueError("kinds: expected one or more, with one weight and one name each")

    @property
    def named_kinds(self) -> list[tuple[str, Distillation]]:
        """Distillations with their names."""
        return [(name, kind) for name, kind in zip(self.names, self.kinds, strict=True)]  # type: ignore[misc]

    def forward(
        self, student: Signals, teacher: Signals, targets: Tensor, counts: Sequence[int] | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total, and the weighted parts by name, detached.

        Args:
            student: Outputs of the student, with gradients. Its maps are those of all distillations, one after another.
            teacher: Outputs of the teacher, without gradients, in the same order.
            targets: Targets as in a :class:`imgrec.types.Batch`.
            counts: Number of maps per distillation. Defaults to 0 each.
        """
        total = student.logits.new_zeros(())
        parts: dict[str, Tensor] = {}
        shares = self._split_maps(student, teacher, counts)
        for (name, kind), weight, pair in zip(self.named_kinds, self.weights, shares, strict=True):
            part = weight * kind(*pair, targets)
            parts[name] = part.detach()
            total = total + part
        return total, parts

    def fit_to(self, student: Signals, teacher: Signals, counts: Sequence[int] | None = None) -> None:
        """Build the modules that depend on both networks. The arguments are those of :meth:`forward`."""
        for (name, kind), pair in zip(self.named_kinds, self._split_maps(student, teacher, counts), strict=True):
            try:
                kind.fit_to(*pair)
            except UserError as error:
                raise UserError(f"the distillation {name}: {error}") from error

    def _split_maps(
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
        """Return the arguments that ``print`` shows."""
        return ", ".join(f"{name}: {weight:g}" for name, weight in zip(self.names, self.weights, strict=True))


def build_distillations(specs: Specs, where: str = "model.distillation", **facts: Any) -> DistillationSum:
    """Build the distillations that the specs name.

    Args:
        specs: One spec or a list. Each may have the key ``weight``, at least 0. Defaults to 1.
        where: Key in the config for messages.
        **facts: Facts of the data, see :meth:`imgrec.registry.Registry.build`.

    Raises:
        SpecError: If a name or an argument is unknown, a value is invalid, or the list is empty.

    >>> build_distillations([{"name": "logits", "temperature": 2.0, "weight": 0.9}, "hard"]).weights
    (0.9, 1.0)
    """
    items = _items(specs, where)
    built = []
    for place, spec, _ in items:
        kind: object = DISTILLATIONS.build(spec, place, **facts)
        if not isinstance(kind, Distillation):
            raise SpecError(
                f"{place}: expected an imgrec.losses.Distillation, got a {type(kind).__name__} from {spec!r}."
            )
        built.append(kind)
    return DistillationSum(built, [weight for _, _, weight in items], part_names(as_list(specs)))


def check_distillations(specs: Specs, where: str = "model.distillation") -> None:
    """Raise the errors of :func:`build_distillations` that do not depend on the facts."""
    for place, spec, _ in _items(specs, where):
        DISTILLATIONS.check(spec, place)


def _items(specs: Specs, where: str) -> list[tuple[str, Spec, float]]:
    listed = as_list(specs)
    if not listed:
        raise SpecError(
            f"{where}: expected one distillation or more, got an empty list. Otherwise use ClassificationTask."
        )
    places = [f"{where}[{i}]" if isinstance(specs, list) else where for i in range(len(listed))]
    return [(place, *take_weight(spec, place, default=1.0)) for place, spec in zip(places, listed, strict=True)]
