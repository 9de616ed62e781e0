"""Class weights of losses: given as numbers, by class name, or computed from the training counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imgrec.errors import UserError, suggestion
from imgrec.losses.base import in_range
from imgrec.utils.ranges import RightOpenUnitInterval, check_ranges

ClassWeights = list[float] | dict[str, float | str] | Literal["balanced", "effective"] | None
"""List of weights in the order of the classes, weights by class name, or a rule that computes them from the training
counts: ``balanced``, ``effective`` or ``{name: effective, beta: 0.999}``."""

_RULES: dict[str, tuple[str, ...]] = {"balanced": (), "effective": ("beta",)}
"""Rules that compute weights from the counts, with the names of their arguments."""


def balanced_class_weights(class_counts: Sequence[int]) -> Tensor:
    """Return weights that give every class the same total weight: ``N / (num_classes * count)``.

    Args:
        class_counts: Number of training images per class.

    Returns:
        Float32 ``(num_classes,)``. The mean over the training images is 1.

    Raises:
        UserError: If a class has no training image.

    Source: King and Zeng, Logistic Regression in Rare Events Data, 2001, doi:10.1093/oxfordjournals.pan.a004868.

    >>> balanced_class_weights([30, 10])
    tensor([0.6667, 2.0000])
    """
    counts = positive_counts(class_counts, "`balanced` cannot weight it")
    return (counts.sum() / (len(counts) * counts)).float()


@check_ranges
def effective_class_weights(class_counts: Sequence[int], beta: RightOpenUnitInterval = 0.9999) -> Tensor:
    """Return the inverse of the effective number of images of each class, ``(1 - beta) / (1 - beta^count)``.

    The effective number accounts for the redundancy of images in large classes. With beta 0 all weights are 1. As beta
    goes to 1, the weights approach a multiple of :func:`balanced_class_weights`.

    Args:
        class_counts: Number of training images per class.
        beta: Redundancy, in [0, 1). The paper uses 0.9, 0.99, 0.999 and 0.9999. Defaults to 0.9999.

    Returns:
        Float32 ``(num_classes,)``, with mean 1 over the classes.

    Raises:
        UserError: If a class has no training image, or if ``beta`` is out of range.

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019, arXiv:1901.05555.

    >>> effective_class_weights([5000, 50], beta=0.999)
    tensor([0.0936, 1.9064])
    """
    counts = positive_counts(class_counts, "`effective` cannot weight it")
    weights = 1 / -torch.expm1(counts * math.log(beta)) if beta else torch.ones_like(counts)
    return (weights / weights.mean()).float()


def positive_counts(class_counts: Sequence[int], consequence: str) -> Tensor:
    """Return the number of training images per class as float64.

    Args:
        class_counts: Number of training images per class.
        consequence: Consequence of an empty class, for the message.

    Raises:
        UserError: If a class has no training image.
    """
    empty = [i for i, count in enumerate(class_counts) if count <= 0]
    if empty:
        raise UserError(f"class {empty[0]} has no training image: {consequence}.")
    return torch.tensor(class_counts, dtype=torch.float64)


def resolve_class_weights(
    class_weights: ClassWeights,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    class_counts: Sequence[int] | None = None,
    argument: str = "class_weights",
) -> Tensor | None:
    """Return the class weights as a tensor.

    Args:
        class_weights: Positive weights in the order of the classes, or a mapping from class names, with weight 1 for
            missing names. Otherwise ``balanced`` (see :func:`balanced_class_weights`), ``effective``, ``{name:
            effective, beta: ...}`` (see :func:`effective_class_weights`) or ``None``.
        num_classes: Number of classes, which is the required length of a list.
        class_names: Names of the classes, required for a mapping.
        class_counts: Number of training images per class, required for ``balanced`` and ``effective``.
        argument: Name of the argument in messages. Defaults to ``class_weights``.

    Returns:
        Float32 ``(num_classes,)``, or ``None`` for equal weights.

    Raises:
        UserError: If the number of weights is wrong, a class name is unknown, a weight is not positive and finite, or a
            required fact is missing.
    """
    if class_weights is None:
        return None
    check_class_weights(class_weights, argument)
    rule, options = _rule(class_weights)
    if rule is not None:
        if class_counts is None:
            raise UserError(f"{argument}: {rule} requires the training counts of the classes, `class_counts`.")
        made = balanced_class_weights if rule == "balanced" else effective_class_weights
        return made(class_counts, **options)
    if isinstance(class_weights, dict):
        if class_names is None:
            raise UserError(f"{argument}: weights by class name require the names of the classes, `class_names`.")
        weights = dict.fromkeys(class_names, 1.0)
        for name, weight in class_weights.items():
            if str(name) not in weights:  # YAML reads the name of a digit as a number
                known = f"the classes are {', '.join(class_names)}" if len(class_names) <= 20 else "see the data"
                raise UserError(f'{argument}: no class is called "{name}".{suggestion(str(name), weights)} ({known})')
            weights[str(name)] = float(weight)
        return torch.tensor(list(weights.values()))
    if num_classes is not None and len(class_weights) != num_classes:
        raise UserError(
            f"{argument}: expected {num_classes} weights, one per class, got {len(class_weights)}. A mapping from "
            "class names may be shorter."
        )
    return torch.tensor([float(weight) for weight in class_weights])


def check_class_weights(class_weights: ClassWeights, argument: str = "class_weights") -> None:
    """Raise an error if class weights are invalid for any data set."""
    rule, options = _rule(class_weights)
    if rule is not None:
        if rule not in _RULES:
            rules = " or ".join(_RULES)
            raise UserError(
                f'{argument}: expected {rules}, a list or a mapping, got "{rule}".{suggestion(rule, _RULES)}'
            )
        for option, value in options.items():
            if option not in _RULES[rule]:
                accepted = ", ".join(_RULES[rule]) or "no argument"
                raise UserError(f'{argument}: {rule} has no argument "{option}". Accepted: {accepted}.')
            in_range(f"{argument}.{option}", _number(value, f"{argument}.{option}"), high=1.0, open_high=True)
    elif isinstance(class_weights, dict):
        for name, weight in class_weights.items():
            in_range(f"{argument}.{name}", _number(weight, f"{argument}.{name}"), open_low=True)
    elif isinstance(class_weights, list | tuple):
        for i, weight in enumerate(class_weights):
            in_range(f"{argument}[{i}]", weight, open_low=True)


class ClassWeighted(nn.Module):
    """Base class of losses with class weights. ``class_weights`` is a tensor or ``None``.

    The weights are a buffer that is not saved. They follow from the arguments and the facts of the data, which a
    checkpoint contains. A checkpoint therefore loads with any other loss.

    Args:
        class_weights: List of weights in the order of the classes, a mapping from class names with weight 1 for missing
            names, ``balanced``, ``effective`` or ``{name: effective, beta: 0.999}``. Defaults to equal weights.
        num_classes: Number of classes, a fact of the data.
        class_names: Names of the classes, a fact of the data.
        class_counts: Number of training images per class, a fact of the data.

    Raises:
        UserError: If the weights do not match the classes.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        class_weights: ClassWeights = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        weights = resolve_class_weights(class_weights, num_classes, class_names, class_counts)
        self.register_buffer("class_weights", weights, persistent=False)

    @staticmethod
    def check_arguments(class_weights: ClassWeights = None, **_: Any) -> None:
        """Raise an error if the class weights are invalid for any data set."""
        check_class_weights(class_weights)


def _rule(class_weights: ClassWeights) -> tuple[str | None, dict[str, Any]]:
    """Return the rule of the weights and its arguments, or ``None`` if they are numbers."""
    if isinstance(class_weights, str):
        return class_weights, {}
    if isinstance(class_weights, dict) and isinstance(class_weights.get("name"), str):
        return str(class_weights["name"]), {k: v for k, v in class_weights.items() if k != "name"}
    return None, {}


def _number(value: float | str, name: str) -> float:
    if isinstance(value, str):
        raise UserError(f"{name}: expected a number, got {value!r}.")
    return value
