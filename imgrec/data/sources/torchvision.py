"""Classification datasets of torchvision, by the name of their class."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imgrec.data.decoding.image import from_pil, readable
from imgrec.data.sources.base import SOURCES, Source
from imgrec.data.sources.item_labels import dataset_class_names, item_labels
from imgrec.data.splits.names import names_of
from imgrec.errors import UserError, suggestion
from imgrec.trust import current
from imgrec.utils.paths import data_root, locate

CLASSIFICATION = (
    *("CIFAR10", "CIFAR100", "CLEVRClassification", "Caltech101", "Caltech256", "Country211", "DTD", "EMNIST"),
    *("EuroSAT", "FER2013", "FGVCAircraft", "FakeData", "FashionMNIST", "Flowers102", "Food101", "GTSRB"),
    *("INaturalist", "ImageNet", "Imagenette", "KMNIST", "LFWPeople", "MNIST", "Omniglot", "OxfordIIITPet", "PCAM"),
    *("Places365", "QMNIST", "RenderedSST2", "SEMEION", "STL10", "SUN397", "SVHN", "StanfordCars", "USPS"),
)
"""Datasets with one class per image."""

_SPLIT_WORDS = {
    "train": ("train", "trainval", "train-standard"),  # names in torchvision
    "val": names_of("val"),
    "test": names_of("test"),
}
_RESERVED = {"root", "train", "transform", "target_transform", "transforms", "download", "loader", "self", "args"}


@SOURCES.register("torchvision")
class TorchvisionSet(Source):
    """Classification dataset of torchvision, with its splits.

    The splits for training, validation and test are those of torchvision. If torchvision has no validation images,
    they are taken from the training images. A dataset without splits, or with ``split`` or ``train`` in ``options``, is
    split by the data module. Classes without images are excluded.

    Args:
        dataset: Name of the class in ``torchvision.datasets``: ``FashionMNIST``.
        root: Folder of the dataset. Defaults to the folder ``IMGREC_DATA`` if it is set, otherwise to ``data``.
        download: True to download a missing dataset if torchvision supports it. Defaults to False.
        options: Further arguments of the class: ``{split: letters}`` for EMNIST, ``{num_classes: 5}`` for FakeData.
            Defaults to none.

    Raises:
        UserError: If the dataset or an option is unknown, or if the dataset is missing and cannot be downloaded.

    Source: TorchVision maintainers and contributors 2016, https://github.com/pytorch/vision.

    Example::

        source: {name: torchvision, dataset: FashionMNIST}
    """

    def __init__(
        self, dataset: str, root: str | None = None, download: bool = False, options: dict[str, Any] | None = None
    ) -> None:
        self.check_arguments(dataset, root, download, options)
        download = download and current() is None  # reading received data downloads no file
        self.dataset = dataset
        self.options = dict(options or {})
        accepted = _accepted(dataset)
        self._common: dict[str, Any] = dict(self.options)
        self._root = _root(root, download)
        if "root" in accepted:
            self._common["root"] = str(self._root)
        if "download" in accepted:
            self._common["download"] = download
        self._parts = self._open_all(accepted)
        ids: list[str] = []
        splits: list[str | None] = []
        labels: list[NDArray[np.int64]] = []
        for split, part in self._parts.items():
            width = len(str(len(part) - 1))
            ids += [f"{split}/{i:0{width}d}" if split else f"{i:0{width}d}" for i in range(len(part))]
            splits += [split] * len(part)
            labels.append(item_labels(part))
        self._starts = np.cumsum([0, *map(len, self._parts.values())])
        found, targets = np.unique(np.concatenate(labels), return_inverse=True)
        super().__init__(
            ids=ids,
            targets=targets,
            class_names=dataset_class_names(next(iter(self._parts.values())), found.tolist()),
            splits=splits,
            in_memory=all(_array(part) is not None for part in self._parts.values()),
        )

    @staticmethod
    def check_arguments(
        dataset: str, root: str | None = None, download: bool = False, options: dict[str, Any] | None = None
    ) -> None:
        """Check the arguments before any file is read.

        Raises:
            UserError: If the dataset or an option is unknown, or if the dataset has no download.
        """
        if dataset not in CLASSIFICATION:
            instead = " The source `folder` reads folders of classes." if dataset.endswith("Folder") else ""
            raise UserError(
                f'torchvision has no classification dataset "{dataset}".{suggestion(dataset, CLASSIFICATION)}{instead} '
                f"Accepted: {', '.join(CLASSIFICATION)}."
            )
        accepted = _accepted(dataset)
        choices = [name for name in accepted if name not in _RESERVED - {"train"}]
        for name in options or {}:
            if name not in choices:
                raise UserError(
                    f'torchvision\'s {dataset} has no option "{name}".{suggestion(name, choices)} '
                    f"Accepted: {', '.join(choices) or 'none'}."
                )
        for name, parameter in accepted.items():
            if parameter.default is parameter.empty and name in choices and name not in (options or {}):
                raise UserError(f'torchvision\'s {dataset} needs `options` with the key "{name}".')
        if download and "download" not in accepted:
            raise UserError(f"download: expected false, because torchvision cannot download {dataset}.")

    def load(self, index: int) -> Tensor:  # noqa: D102
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        part = list(self._parts.values())[number]
        with readable(self.ids[index]):
            image = part[index - int(self._starts[number])][0]
            return from_pil(image) if isinstance(image, Image.Image) else torch.as_tensor(image)

    def gather(self, rows: NDArray[np.int64]) -> Tensor | None:  # noqa: D102
        if self._pixels is None:
            return None
        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        out = self._pixels[0].new_empty(len(rows), *self._pixels[0].shape[1:])
        for number, pixels in enumerate(self._pixels):
            here = np.flatnonzero(numbers == number)
            if len(here):
                out[torch.from_numpy(here)] = pixels[torch.from_numpy(rows[here] - self._starts[number])]
        return out

    @cached_property
    def _pixels(self) -> list[Tensor] | None:
        """Images of each part, ``(images, channels, height, width)``, or None if they are not stored in one array."""
        found: list[Tensor] = []
        for number, part in enumerate(self._parts.values()):
            array = _array(part)
            if array is None or array.dtype != np.uint8:
                return None
            pixels = torch.from_numpy(array)
            first = self.load(int(self._starts[number]))
            ways = [pixels[:, None]] if pixels.ndim == 3 else [pixels, pixels.permute(0, 3, 1, 2)]
            way = next((way for way in ways if torch.equal(way[0], first)), None)
            if way is None or (found and way.shape[1:] != found[0].shape[1:]):
                return None
            found.append(way)
        return found

    def content(self) -> Iterator[bytes]:  # noqa: D102
        yield json.dumps([self.dataset, self.options], sort_keys=True, default=str).encode()
        for part in self._parts.values():
            array = _array(part)
            if array is not None:
                yield np.ascontiguousarray(array).tobytes()

    def _open_all(self, accepted: dict[str, inspect.Parameter]) -> dict[str | None, Any]:
        if "train" in self.options or ("split" in self.options and "train" not in accepted):
            return {None: self._open()}
        if "train" in accepted:
            return {"train": self._open(train=True), "test": self._open(train=False)}
        if "split" not in accepted:
            return {None: self._open()}
        parts: dict[str | None, Any] = {}
        for split, words in _SPLIT_WORDS.items():
            for word in words:
                try:
                    parts[split] = self._open(split=word)
                except _NoSuchSplit:
                    continue
                break
        return parts

    def _open(self, **part: Any) -> Any:
        from torchvision import datasets

        try:
            return getattr(datasets, self.dataset)(**self._common, **part)
        except ModuleNotFoundError as error:
            raise UserError(f"torchvision's {self.dataset} needs a package that is not installed: {error}.") from error
        except (RuntimeError, OSError) as error:
            if self._common.get("download"):
                message = f"torchvision's {self.dataset} could not be downloaded into {self._root}: {error}"
            else:
                can_download = "download" in self._common
                hint = "Set `download: true`" if can_download else "torchvision cannot download it. Set another `root`"
                message = f"torchvision's {self.dataset} was not found under {self._root} ({error}). {hint}."
            raise UserError(message) from error
        except ValueError as error:
            if "split" in part and "argument split" in str(error):
                raise _NoSuchSplit from error
            raise UserError(f"torchvision's {self.dataset}: {error}") from error


class _NoSuchSplit(Exception):  # noqa: N818 - a signal between two methods
    pass


def _accepted(dataset: str) -> dict[str, inspect.Parameter]:
    """Return the parameters of the constructor, including those that it passes to its base classes."""
    from torchvision import datasets

    found: dict[str, inspect.Parameter] = {}
    for base in getattr(datasets, dataset).__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = inspect.signature(base.__init__).parameters
        found = {**{n: p for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}, **found}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            break
    return {name: p for name, p in found.items() if name not in ("self", "args", "kwargs")}


def _root(root: str | None, download: bool) -> Path:
    if root is None:
        return data_root() or Path("data")
    if download:
        try:
            return locate(root, "data folder")
        except UserError:
            return Path(root).expanduser()
    return locate(root, "data folder")


def _array(part: Any) -> NDArray[Any] | None:
    """Return all pixels of a dataset that is in memory, otherwise ``None``."""
    data = getattr(part, "data", None)
    if isinstance(data, Tensor):
        data = data.numpy()
    return data if isinstance(data, np.ndarray) and len(data) == len(part) and data.ndim >= 3 else None
