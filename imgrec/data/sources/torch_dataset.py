"""The source ``dataset``: a torch Dataset, or images and labels in arrays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from imgrec.data.decoding.image import readable
from imgrec.data.labels import parse_class_names, read_labels, warn_of_unlabelled
from imgrec.data.sources.array_images import ArrayLayout, to_image, to_images
from imgrec.data.sources.base import SOURCES, Source
from imgrec.data.sources.item_labels import as_labels, dataset_class_names, item_labels
from imgrec.data.sources.python_object import DATASETS, is_array_pair, is_map_style
from imgrec.errors import UserError


class _Items:
    """Images and labels of one dataset. ``pixels`` are all images if they are in memory in one shape."""

    def __init__(self, dataset: Any, layout: ArrayLayout) -> None:
        self.dataset = dataset
        self.layout: ArrayLayout = layout
        self.pixels: Tensor | None = None
        arrays = dataset.tensors if isinstance(dataset, TensorDataset) else dataset
        if is_array_pair(arrays):
            self.pixels = to_images(arrays[0], layout)
            self.labels = as_labels(arrays[1])
        else:
            self.labels = item_labels(dataset)
        if len(self.labels) != len(self):
            raise UserError(f"labels: expected one label for each of {len(self)} images, got {len(self.labels)}.")
        self.ids = getattr(dataset, "ids", None) or [f"{row:06d}" for row in self._positions()]

    def __len__(self) -> int:
        return len(self.dataset) if self.pixels is None else len(self.pixels)

    def load(self, row: int) -> Tensor:
        return to_image(self.dataset[row][0], self.layout) if self.pixels is None else self.pixels[row]

    def _positions(self) -> list[int]:
        """Return the position of each item in the whole dataset, so that a subset keeps the ids of its items."""
        dataset, positions = self.dataset, np.arange(len(self))
        while isinstance(dataset, Subset):
            positions, dataset = np.asarray(dataset.indices)[positions], dataset.dataset
        return [int(each) for each in positions]


@SOURCES.register("dataset")
class TorchDataset(Source):
    """A map-style torch Dataset of ``(image, label)``, or a pair ``(images, labels)`` of arrays or tensors.

    Images are Pillow images, or arrays and tensors of uint8 or of floats in [0, 1], with the channels first or last.
    Floats are rounded to 8 bits. Labels are whole numbers, text, or rows of 0 and 1 for several labels per image. Rows
    with the label -1 or without a label are left out.

    The id of an image is its position in the dataset, ``000042``, or an element of the attribute ``ids`` of the
    dataset. With several datasets, the name of the split precedes it. A ``torch.utils.data.Subset`` keeps the ids of
    the whole dataset.

    In a config, a dataset is the dotted path of its class with arguments. In Python,
    ``ImageDataModule(source=dataset)`` takes the object itself. A checkpoint does not store the object: pass it again
    to load the data module.

    Items of a dataset can be random. ``data.cache: auto`` therefore does not cache them, and ``memory`` stores the
    first reading of each.

    Args:
        dataset: Dataset to split, or the training images if another dataset is given.
        val_dataset: Validation images. Defaults to a part of ``dataset``.
        test_dataset: Test images. Defaults to none if ``val_dataset`` is given, otherwise to a part of ``dataset``.
        class_names: Names of the classes in the order of the labels. Defaults to the attribute ``classes`` of the
            dataset, otherwise to the labels.
        layout: Order of the dimensions of an image. Defaults to ``auto``, the order with 1 or 3 channels.

    Raises:
        UserError: If a dataset is not map-style, if an image has another type, shape or range, or if the layout is
            ambiguous.

    Example::

        source: {name: dataset, dataset: {name: torchvision.datasets.FakeData, size: 100, num_classes: 2}}

    >>> import numpy as np
    >>> source = TorchDataset((np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1]), class_names=["cat", "dog"])
    >>> source.load(1).shape, source.ids[1]
    (torch.Size([3, 8, 8]), '000001')
    """

    def __init__(
        self,
        dataset: Annotated[Any, DATASETS],
        val_dataset: Annotated[Any, DATASETS] | None = None,
        test_dataset: Annotated[Any, DATASETS] | None = None,
        class_names: list[str | int] | None = None,
        layout: ArrayLayout = "auto",
    ) -> None:
        self.check_arguments(dataset, val_dataset, test_dataset)
        given = {"train": dataset, "val": val_dataset, "test": test_dataset}
        parts = {split: _Items(each, layout) for split, each in given.items() if each is not None}
        several = len(parts) > 1
        self._parts = list(parts.values())
        ids = [f"{split}/{name}" if several else str(name) for split, part in parts.items() for name in part.ids]
        targets, names, rows = _targets([part.labels for part in self._parts], ids, class_names, dataset)
        warn_of_unlabelled(len(ids) - len(rows), len(ids), "dataset")
        splits = [split if several else None for split, part in parts.items() for _ in range(len(part))]
        self._part = np.repeat(np.arange(len(self._parts)), [len(part) for part in self._parts])[rows]
        self._row = np.concatenate([np.arange(len(part)) for part in self._parts])[rows]
        arrays = all(part.pixels is not None for part in self._parts)
        self.is_deterministic = arrays
        super().__init__(
            ids=[ids[row] for row in rows.tolist()],
            targets=targets,
            class_names=names,
            splits=[splits[row] for row in rows.tolist()],
            in_memory=arrays,
        )

    @staticmethod
    def check_arguments(dataset: Any, val_dataset: Any = None, test_dataset: Any = None, **_: Any) -> None:
        """Raise :class:`UserError` for an object that is not a map-style dataset."""
        for key, value in (("dataset", dataset), ("val_dataset", val_dataset), ("test_dataset", test_dataset)):
            if (value is None and key != "dataset") or isinstance(value, str | Mapping):
                continue
            if not is_array_pair(value) and not is_map_style(value):
                raise UserError(
                    f"{key}: expected a torch Dataset with __getitem__ and __len__, or a pair (images, labels) of "
                    f"arrays, got {type(value).__name__}."
                )

    def load(self, index: int) -> Tensor:  # noqa: D102
        part, row = self._parts[int(self._part[index])], int(self._row[index])
        with readable(self.ids[index]):
            try:
                return part.load(row)
            except UserError as error:
                raise UserError(f"data.source: {error}") from error

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:  # noqa: D102
        first = self._parts[0].pixels
        if first is None or any(p.pixels is None or p.pixels.shape[1:] != first.shape[1:] for p in self._parts):
            return None
        found = first.new_empty(len(rows), *first.shape[1:])
        for number, part in enumerate(self._parts):
            here = np.flatnonzero(self._part[rows] == number)
            if len(here) and part.pixels is not None:
                found[torch.from_numpy(here)] = part.pixels[torch.from_numpy(self._row[rows[here]])]
        return found

    def content(self) -> Iterator[bytes]:
        """Yield the pixels of each image of arrays, or the class and length of a dataset, whose items can be random."""
        for number, row in zip(self._part.tolist(), self._row.tolist(), strict=True):
            part = self._parts[number]
            if part.pixels is not None:
                yield part.pixels[row].numpy().tobytes()
            else:
                yield f"{type(part.dataset).__qualname__} {len(part)}".encode()


def _targets(
    parts: list[NDArray[Any]], ids: list[str], class_names: list[str | int] | None, dataset: Any
) -> tuple[NDArray[Any], list[str], NDArray[np.int64]]:
    """Return the targets, the class names and the labelled rows of all parts."""
    kinds = {(part.ndim, part.dtype.kind, part.shape[1:]) for part in parts}
    if len(kinds) > 1:
        raise UserError("labels: expected labels of one type and shape in every dataset.")
    labels = np.concatenate(parts)
    if labels.dtype.kind == "O":
        words = read_labels(labels.tolist(), ids, class_names, counted=False)
        return words.targets, words.class_names, words.rows
    rows = np.arange(len(labels)) if labels.ndim == 2 else np.flatnonzero(labels != -1)
    if class_names is not None:
        return labels[rows], parse_class_names(class_names), rows
    if labels.ndim == 2:
        return labels, dataset_class_names(dataset, list(range(labels.shape[1]))), rows
    found, targets = np.unique(labels[rows], return_inverse=True)
    return targets, dataset_class_names(dataset, found.tolist()), rows
