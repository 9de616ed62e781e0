"""What each class weighs in a loss: given as numbers, by class name, or worked out from the training counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from imgrec.errors import UserError, suggestion
from imgrec.losses.base import in_range

ClassWeights = list[float] | dict[str, float] | Literal["balanced"] | None
"""One weight a class in the order of the classes; weights by class name; ``balanced``; or none."""


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
    empty = [i for i, count in enumerate(class_counts) if count <= 0]
    if empty:
        raise UserError(f"class {empty[0]} has no training image: `balanced` cannot weigh it.")
    counts = torch.tensor(class_counts, dtype=torch.float64)
    return (counts.sum() / (len(counts) * counts)).float()


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
            class that is not named weighs 1; ``balanced``, see :func:`balanced_class_weights`; or ``None``.
        num_classes: the number of classes; a list must have as many weights.
        class_names: the names that a mapping may use.
        class_counts: training images of each class, which ``balanced`` needs.
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
    if isinstance(class_weights, str):
        if class_counts is None:
            raise UserError(f"`{argument}: balanced` needs the training counts of the classes, `class_counts`.")
        return balanced_class_weights(class_counts)
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
    if isinstance(class_weights, str) and class_weights != "balanced":
        raise UserError(f'`{argument}` must be "balanced", a list or a mapping, got "{class_weights}".')
    if isinstance(class_weights, dict):
        for name, weight in class_weights.items():
            in_range(f"{argument}.{name}", weight, open_low=True)
    elif isinstance(class_weights, list | tuple):
        for i, weight in enumerate(class_weights):
            in_range(f"{argument}[{i}]", weight, open_low=True)
