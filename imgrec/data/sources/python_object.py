"""Datasets that are given as Python objects, and the plain data that a checkpoint stores instead of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from imgrec.errors import UserError
from imgrec.registry import Registry, Spec

DATASETS: Registry[Any] = Registry("dataset", "datasets")
"""Dataset classes for the source ``dataset``: a dotted path to a class with arguments."""


@DATASETS.register("python_object")
class PythonObject:
    """Record of a dataset that was given as a Python object. A config does not contain it and cannot rebuild it.

    Args:
        type: Name of the class.
        length: Number of items. Defaults to unknown.

    Raises:
        UserError: If it is built or checked, because the object is not stored.
    """

    def __init__(self, type: str, length: int | None = None) -> None:
        self.check_arguments(type, length)

    @staticmethod
    def check_arguments(type: str, length: int | None = None) -> None:
        """Raise the error that this dataset cannot be rebuilt."""
        size = "" if length is None else f" with {length:,} images"
        raise UserError(
            "expected a dataset that can be rebuilt from the config, got the record of a Python object "
            f"({type}{size}). Pass the object again: "
            "ImageDataModule.load_from_checkpoint(path, source=dataset)."
        )


def as_source_spec(source: Any) -> Spec:
    """Return the spec of a source that is given as a spec, a dataset or a pair ``(images, labels)``.

    Example:
        >>> as_source_spec("digits"), as_source_spec((np.zeros((2, 8, 8), np.uint8), [0, 1]))["name"]
        ('digits', 'dataset')
    """
    if isinstance(source, str | Mapping):
        return source if isinstance(source, str) else dict(source)
    return {"name": "dataset", "dataset": source}


def dataset_source(
    train_dataset: Any, val_dataset: Any = None, test_dataset: Any = None, predict_dataset: Any = None
) -> Spec:
    """Return the spec of a source of several datasets, for Lightning's ``from_datasets``.

    Raises:
        UserError: If the training images are missing, or if images for prediction are given.
    """
    if train_dataset is None:
        raise UserError("train_dataset: expected a torch Dataset, got None.")
    if predict_dataset is not None:
        raise UserError("predict_dataset: expected None. Pass test_dataset, whose images are predicted.")
    given = {"dataset": train_dataset, "val_dataset": val_dataset, "test_dataset": test_dataset}
    return {"name": "dataset", **{key: value for key, value in given.items() if value is not None}}


def plain_spec(spec: Any) -> Any:
    """Return a spec with a :class:`PythonObject` record in place of every dataset and array.

    Example:
        >>> plain_spec({"name": "dataset", "dataset": (np.zeros((2, 8, 8), np.uint8), [0, 1])})["dataset"]
        {'name': 'python_object', 'type': 'arrays', 'length': 2}
    """
    if isinstance(spec, Mapping):
        return {key: plain_spec(value) for key, value in spec.items()}
    if is_array_pair(spec):
        return {"name": "python_object", "type": "arrays", "length": len(spec[0])}
    if isinstance(spec, list | tuple):
        return type(spec)(plain_spec(value) for value in spec)
    if isinstance(spec, Dataset) or is_map_style(spec):
        kind = f"{type(spec).__module__}.{type(spec).__qualname__}"
        return {"name": "python_object", "type": kind, "length": len(spec) if is_map_style(spec) else None}
    return spec


def is_array_pair(value: Any) -> bool:
    """Return True if ``value`` is a pair whose first element is an array or a tensor of images."""
    return isinstance(value, tuple | list) and len(value) == 2 and isinstance(value[0], np.ndarray | Tensor)


def is_map_style(value: Any) -> bool:
    """Return True if ``value`` is a dataset with a length, whose items are read by their position."""
    if isinstance(value, str | bytes | Mapping | tuple | list | IterableDataset):
        return False
    return hasattr(value, "__getitem__") and _has_length(value)


def _has_length(value: Any) -> bool:
    try:
        len(value)
    except TypeError:
        return False
    return True
