"""What each class weighs in a loss: given as numbers, by class name, or worked out from the training counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imgrec.errors import UserError, suggestion
from imgrec.losses.base import in_range

ClassWeights = list[float] | dict[str, float | str] | Literal["balanced", "effective"] | None
"""One weight a class in the order of the classes; weights by class name; a way to work them out from the training
counts, which is ``balanced``, ``effective`` or ``{name: effective, beta: 0.999}``; or none."""

_RULES: dict[str, tuple[str, ...]] = {"balanced": (), "effective": ("beta",)}
"""The ways to work weights out from the counts, and the arguments of each."""


def balanced_class_weights(class_counts: Sequence[int]) -> Tensor:
    """Weights that let every class count as much as any other: ``N / (num_classes * count)``.

    Args:
        class_counts: training images of each class.

    Returns:
        float32 ``(num_classes,)``; weighted by the counts, their mean is 1.

    Raises:
        UserError: a class has no training image, so no weight could balance it.

    Source: King and Zeng, Logistic Regression in Rare Events Data, 2001, doi:10.1093/oxfordjournals.pan.a004868.

    >>> balanced_class_weights([30, 10])
    tensor([0.6667, 2.0000])
    """
    counts = positive_counts(class_counts, "`balanced` cannot weigh it")
    return (counts.sum() / (len(counts) * counts)).float()


def effective_class_weights(class_counts: Sequence[int], beta: float = 0.9999) -> Tensor:
    """Weights by the inverse of each class's effective number of images, ``(1 - beta) / (1 - beta^count)``.

    The more images a class has, the more of them show what others show already. With beta 0 all classes weigh 1; as it
    goes to 1, the weights go to those of :func:`balanced_class_weights` times a constant.

    Args:
        class_counts: training images of each class.
        beta: at least 0 and below 1; the paper takes 0.9, 0.99, 0.999 or 0.9999.

    Returns:
        float32 ``(num_classes,)``, of mean 1 over the classes.

    Raises:
        UserError: a class has no training image, or beta is out of its range.

    Source: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019, arXiv:1901.05555.

    >>> effective_class_weights([5000, 50], beta=0.999)
    tensor([0.0936, 1.9064])
    """
    in_range("beta", beta, high=1.0, open_high=True)
    counts = positive_counts(class_counts, "`effective` cannot weigh it")
    weights = 1 / -torch.expm1(counts * math.log(beta)) if beta else torch.ones_like(counts)
    return (weights / weights.mean()).float()


def positive_counts(class_counts: Sequence[int], why: str) -> Tensor:
    """The training images of each class, float64; a class without any raises a UserError that says why."""
    empty = [i for i, count in enumerate(class_counts) if count <= 0]
    if empty:
        raise UserError(f"class {empty[0]} has no training image: {why}.")
    return torch.tensor(class_counts, dtype=torch.float64)


def resolve_class_weights(
    class_weights: ClassWeights,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    class_counts: Sequence[int] | None = None,
    argument: str = "class_weights",
) -> Tensor | None:
    """The weights as a tensor, whichever way they were given.

    Args:
        class_weights: one positive weight a class, in the order of the classes; a mapping from class names, where a
            class that is not named weighs 1; ``balanced``, see :func:`balanced_class_weights`; ``effective`` or
            ``{name: effective, beta: ...}``, see :func:`effective_class_weights`; or ``None``.
        num_classes: the number of classes; a list must have as many weights.
        class_names: the names that a mapping may use.
        class_counts: training images of each class, which ``balanced`` and ``effective`` need.
        argument: what the argument is called where it was given, for messages.

    Returns:
        float32 ``(num_classes,)``, or ``None`` for no weights.

    Raises:
        UserError: a wrong number of weights, an unknown class name, a weight that is not positive and finite, or
            something missing that the weights are worked out from.
    """
    if class_weights is None:
        return None
    check_class_weights(class_weights, argument)
    rule, options = _rule(class_weights)
    if rule is not None:
        if class_counts is None:
            raise UserError(f"`{argument}: {rule}` needs the training counts of the classes, `class_counts`.")
        made = balanced_class_weights if rule == "balanced" else effective_class_weights
        return made(class_counts, **options)
    if isinstance(class_weights, dict):
        if class_names is None:
            raise UserError(f"`{argument}` by class name needs the names of the classes, `class_names`.")
        weights = dict.fromkeys(class_names, 1.0)
        for name, weight in class_weights.items():
            if str(name) not in weights:  # YAML reads the name of a digit as a number
                known = f"the classes are {', '.join(class_names)}" if len(class_names) <= 20 else "see the data"
                raise UserError(f'`{argument}`: no class is called "{name}".{suggestion(str(name), weights)} ({known})')
            weights[str(name)] = float(weight)
        return torch.tensor(list(weights.values()))
    if num_classes is not None and len(class_weights) != num_classes:
        raise UserError(
            f"`{argument}` has {len(class_weights)} weights for {num_classes} classes: give one a class, "
            "or a mapping from class names."
        )
    return torch.tensor([float(weight) for weight in class_weights])


def check_class_weights(class_weights: ClassWeights, argument: str = "class_weights") -> None:
    """Raise the UserErrors that can be told before the data is known."""
    rule, options = _rule(class_weights)
    if rule is not None:
        if rule not in _RULES:
            rules = " or ".join(_RULES)
            raise UserError(
                f'`{argument}` must be {rules}, a list or a mapping, got "{rule}".{suggestion(rule, _RULES)}'
            )
        for option, value in options.items():
            if option not in _RULES[rule]:
                accepted = ", ".join(_RULES[rule]) or "no argument"
                raise UserError(f'`{argument}: {rule}` has no argument "{option}". Accepted: {accepted}.')
            in_range(f"{argument}.{option}", _number(value, f"{argument}.{option}"), high=1.0, open_high=True)
    elif isinstance(class_weights, dict):
        for name, weight in class_weights.items():
            in_range(f"{argument}.{name}", _number(weight, f"{argument}.{name}"), open_low=True)
    elif isinstance(class_weights, list | tuple):
        for i, weight in enumerate(class_weights):
            in_range(f"{argument}[{i}]", weight, open_low=True)


class ClassWeighted(nn.Module):
    """The base class of losses in which an image may weigh what its class weighs; ``class_weights`` is that, or none.

    The weights are a buffer that is not saved: they follow from the arguments and from what the data says, both of
    which a checkpoint holds, so a checkpoint loads whichever loss comes next.

    Args:
        class_weights: one weight a class; a mapping by class name, where classes that are not named weigh 1;
            ``balanced``, ``effective`` or ``{name: effective, beta: 0.999}``.
        num_classes: a fact of the data.
        class_names: a fact of the data.
        class_counts: a fact of the data.

    Raises:
        UserError: weights that do not fit the classes.
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


def _rule(class_weights: ClassWeights) -> tuple[str | None, dict[str, Any]]:
    """The rule that the weights follow and its arguments; ``None`` where they are given as numbers."""
    if isinstance(class_weights, str):
        return class_weights, {}
    if isinstance(class_weights, dict) and isinstance(class_weights.get("name"), str):
        return str(class_weights["name"]), {k: v for k, v in class_weights.items() if k != "name"}
    return None, {}


def _number(value: float | str, what: str) -> float:
    if isinstance(value, str):
        raise UserError(f"`{what}` must be a number, got {value!r}.")
    return value
