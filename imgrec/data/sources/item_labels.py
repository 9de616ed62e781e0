"""Labels and class names of map-style datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset

from imgrec.errors import UserError
from imgrec.utils.progress import progress_bar

_ATTRIBUTES = ("targets", "labels", "_labels", "y")
"""Attributes in which datasets store the labels of all items."""


def item_labels(dataset: Any) -> NDArray[Any]:
    """Return the label of each item of a map-style dataset.

    An attribute such as ``targets`` is used if it agrees with four of the items. Otherwise every item is read once.

    Args:
        dataset: Dataset whose items are ``(image, label)``.

    Returns:
        int64 ``(items,)``, float32 ``(items, classes)`` for labels that are rows of 0 and 1, or text ``(items,)``.

    Raises:
        UserError: If an item is no pair, or if its label is neither a whole number, text nor a row of 0 and 1.

    Example:
        >>> from torch.utils.data import StackDataset
        >>> item_labels(StackDataset(["image", "image"], ["cat", "dog"])).tolist()
        ['cat', 'dog']
    """
    if isinstance(dataset, Subset):
        return item_labels(dataset.dataset)[np.asarray(dataset.indices, dtype=np.int64)]
    count = len(dataset)
    probes = sorted({0, count // 3, 2 * count // 3, count - 1}) if count else []
    expected = [_label(dataset[i]) for i in probes]
    for name in _ATTRIBUTES:
        values = getattr(dataset, name, None)
        if values is None or not hasattr(values, "__len__") or len(values) != count:
            continue
        array = np.asarray(values)
        for column in (array, array[:, 0] if array.ndim == 2 else array):
            if column.dtype.kind in "iubfU" and column[probes].tolist() == expected:
                return as_labels(column)
    return as_labels([_label(dataset[i]) for i in progress_bar(iter(range(count)), count, "Reading labels")])


def as_labels(values: Sequence[Any] | NDArray[Any] | Tensor) -> NDArray[Any]:
    """Return labels in the form of :func:`item_labels`.

    Raises:
        UserError: If they are neither whole numbers, text nor rows of 0 and 1.

    Example:
        >>> as_labels([1, 0, 2]).dtype, as_labels([[1, 0], [1, 1]]).shape
        (dtype('int64'), (2, 2))
    """
    try:
        array = values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise UserError(f"labels: expected one label or one row of 0 and 1 per image: {error}.") from error
    if array.ndim == 1 and array.dtype.kind in "iub":
        return array.astype(np.int64)
    if array.ndim == 2 and array.dtype.kind in "iubf":
        return array.astype(np.float32)
    if array.ndim == 1 and all(each is None or isinstance(each, str) for each in array.tolist()):
        return array.astype(object)
    raise UserError(
        f"labels: expected whole numbers or text (images,), or rows of 0 and 1 (images, classes), got {array.dtype} "
        f"{tuple(array.shape)}."
    )


def dataset_class_names(dataset: Any, numbers: Sequence[int]) -> list[str]:
    """Return the names of the classes with these numbers: from the attribute ``classes``, otherwise the numbers.

    Args:
        dataset: Dataset, or a ``Subset`` of one.
        numbers: Numbers of the classes, in ascending order.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    given = list(getattr(dataset, "classes", None) or [])
    if len(given) <= max(numbers, default=-1):
        return [str(number) for number in numbers]
    names = [", ".join(given[i]) if isinstance(given[i], tuple | list) else str(given[i]) for i in numbers]
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in zip(numbers, names, strict=True)]


def _label(item: Any) -> Any:
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UserError(f"dataset: expected items (image, label), got {type(item).__name__}.")
    label = item[1]
    return label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
