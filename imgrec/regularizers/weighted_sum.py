"""Weighted sum of regularizers, each with an optional ramp over training."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor, nn

from imgrec.errors import SpecError, UserError
from imgrec.losses.weighted_sum import part_names, take_weight, unique_names
from imgrec.registry import Spec, Specs, as_list
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.signature import check_type

Ramp = tuple[float, float]


def ramp_factor(progress: float, ramp: Ramp | None) -> float:
    """Return the factor of a weight at ``progress`` of training: 0 before the ramp, 1 after it, linear between.

    >>> [ramp_factor(p, (0.25, 0.75)) for p in (0.0, 0.5, 1.0)]
    [0.0, 0.5, 1.0]
    """
    if ramp is None:
        return 1.0
    start, end = ramp
    return min(max((progress - start) / (end - start), 0.0), 1.0)


class RegularizerSum(nn.Module):
    """Weighted sum of regularizers. It is zero without regularizers.

    Args:
        regularizers: Regularizers.
        weights: Factors, one per regularizer.
        ramps: Fractions of training between which the weight increases from 0, or ``None``, one per regularizer.
        names: Names, one per regularizer. Defaults to the names of the classes.
        places: Keys in the config for messages, one per regularizer. Defaults to the names.
    """

    def __init__(
        self,
        regularizers: Sequence[nn.Module] = (),
        weights: Sequence[float] = (),
        ramps: Sequence[Ramp | None] | None = None,
        names: Sequence[str] | None = None,
        places: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        self.regularizers = nn.ModuleList(regularizers)
        self.weights = tuple(weights)
        self.ramps = tuple(ramps) if ramps is not None else (None,) * len(regularizers)
        self.names = unique_names(names if names is not None else [type(r).__name__ for r in regularizers])
        if not len(self.regularizers) == len(self.weights) == len(self.ramps) == len(self.names):
            raise ValueError("weights, ramps and names: expected one per regularizer")
        self.places = tuple(places) if places is not None else tuple(self.names)

    def check_model(self, model: nn.Module) -> None:
        """Raise an error if a regularizer does not apply to the network, before it is trained.

        Raises:
            UserError: If ``check_model`` of a regularizer raises one. The message begins with its key in the config.
        """
        for place, regularizer in zip(self.places, self.regularizers, strict=True):
            check = getattr(regularizer, "check_model", None)
            if check is not None:
                try:
                    check(model)
                except UserError as error:
                    raise UserError(f"{place}: {error}") from error

    def forward(self, output: StepOutput, model: nn.Module, progress: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the total to add to the loss, and its parts for the log.

        A penalty is not computed while its weight is 0.

        Args:
            output: Output of the training step.
            model: Network.
            progress: Completed fraction of training, in [0, 1].

        Returns:
            Total, a scalar, and the weighted penalties by name, detached.
        """
        total = output.logits.new_zeros(())
        parts: dict[str, Tensor] = {}
        for name, regularizer, weight, ramp in zip(
            self.names, self.regularizers, self.weights, self.ramps, strict=True
        ):
            factor = weight * ramp_factor(progress, ramp)
            penalty = factor * regularizer(output, model) if factor else _zero(output, regularizer)
            if hasattr(penalty, "full_tensor"):  # a DTensor, whose class takes long to import
                raise UserError(
                    f"the regularizer {name} reads weights, which trainer.strategy: fsdp2 shards. Use weight_decay of "
                    "the optimizer instead."
                )
            parts[name] = penalty.detach()
            total = total + penalty
        return total, parts

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return ", ".join(f"{name}: {weight:g}" for name, weight in zip(self.names, self.weights, strict=True))


def build_regularizers(specs: Specs | None, where: str = "model.regularizers", **facts: Any) -> RegularizerSum:
    """Build the regularizers that the specs name.

    Args:
        specs: No spec, one spec or a list. Each has the key ``weight``, at least 0. It has no default because a
            sensible value depends on the penalty. A spec may have ``ramp: [start, end]``, the fractions of training
            between which the weight increases linearly from 0, ``0 <= start < end <= 1``.
        where: Key in the config for messages.
        **facts: Facts of the data, see :meth:`imgrec.registry.Registry.build`.

    Raises:
        SpecError: If a name or an argument is unknown, a weight is missing, or a value is invalid.

    >>> build_regularizers({"name": "l2", "weight": 0.0005, "ramp": [0, 0.5]}).ramps
    ((0.0, 0.5),)
    """
    items = _items(specs, where)
    built = []
    for place, spec, weight, _ in items:
        regularizer: object = REGULARIZERS.build(spec, place, **facts, weight=weight)
        if not isinstance(regularizer, nn.Module):
            raise SpecError(f"{place}: expected a torch.nn.Module, got a {type(regularizer).__name__} from {spec!r}.")
        built.append(regularizer)
    weights, ramps = [i[2] for i in items], [i[3] for i in items]
    return RegularizerSum(built, weights, ramps, part_names(as_list(specs)), [i[0] for i in items])


def check_regularizers(specs: Specs | None, where: str = "model.regularizers", facts: Collection[str] = ()) -> None:
    """Raise the errors of :func:`build_regularizers` that do not depend on the facts."""
    for place, spec, _, _ in _items(specs, where):
        REGULARIZERS.check(spec, place, facts)


def _zero(output: StepOutput, regularizer: nn.Module) -> Tensor:
    """Return zero with a gradient for the parameters of the regularizer, which DDP requires."""
    zero = output.logits.new_zeros(())
    for parameter in regularizer.parameters():
        zero = zero + 0 * parameter.sum()
    return zero


def _items(specs: Specs | None, where: str) -> list[tuple[str, Spec, float, Ramp | None]]:
    items = []
    for i, given in enumerate(as_list(specs)):
        place = f"{where}[{i}]" if isinstance(specs, list) else where
        spec, weight = take_weight(given, place)
        ramp = None
        if isinstance(spec, dict) and "ramp" in spec:
            ramp = _ramp(spec["ramp"], f"{place}.ramp")
            spec = {k: v for k, v in spec.items() if k != "ramp"}
        items.append((place, spec, weight, ramp))
    return items


def _ramp(value: Any, where: str) -> Ramp | None:
    ramp: Ramp | None = check_type(value, tuple[float, float] | None, where)
    if ramp is not None and not 0 <= ramp[0] < ramp[1] <= 1:
        raise SpecError(
            f"{where}: expected two fractions of training, [start, end] with 0 <= start < end <= 1, got {value!r}."
        )
    return ramp
