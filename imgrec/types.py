"""Data contracts between the packages: Batch, StepOutput, DataFacts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, get_type_hints

import torch
from torch import Tensor

from imgrec.errors import UserError
from imgrec.utils.seeding import position_seed
from imgrec.utils.signature import check_type


@dataclass(frozen=True, slots=True)
class Batch:
    """Batch of samples between a data module and a task.

    A batch unpacks to images and targets, so that it trains any LightningModule: ``images, targets = batch``.

    Args:
        images: uint8 ``(batch, channels, height, width)``.
        targets: int64 ``(batch,)``, or float probabilities ``(batch, num_classes)`` after images were mixed.
        ids: One stable string per sample, its path or its key in the source.
        skipped: Samples of this batch that could not be read, as (id, reason). Defaults to none.
        keys: int64 ``(batch,)``, a hash of each id that seeds random draws on the device. Defaults to
            :func:`sample_keys` of the ids.
        epoch: Epoch, counted from 0. It is 0 outside training.
        labelled: bool ``(batch,)``, False for samples whose label is hidden. ``None`` if all samples have labels.
        domains: int64 ``(batch,)``, the index of the part of a concatenated source. ``None`` without domains.
        text: int64 ``(batch, length)``, token ids. ``None`` without text.

    Example:
        >>> batch = Batch(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 3]), ("a.png", "b.png"))
        >>> images, targets = batch
        >>> images.shape, targets.tolist()
        (torch.Size([2, 1, 8, 8]), [0, 3])
    """

    images: Tensor
    targets: Tensor
    ids: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    epoch: int = 0
    labelled: Tensor | None = None
    domains: Tensor | None = None
    text: Tensor | None = None

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.ids):
            object.__setattr__(self, "keys", sample_keys(self.ids))

    def __len__(self) -> int:
        return self.images.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return iter((self.images, self.targets))

    @property
    def is_labelled(self) -> Tensor:
        """Mask of the labelled samples, bool ``(batch,)``."""
        if self.labelled is None:
            return torch.ones(len(self), dtype=torch.bool, device=self.images.device)
        return self.labelled

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the batch with its tensors on ``device``."""
        moved = {name: value.to(device, non_blocking=non_blocking) for name, value in _tensors(self)}
        return replace(self, **moved)  # type: ignore[arg-type]

    def pin_memory(self) -> Self:
        """Return the batch in page-locked memory, for asynchronous copies to a GPU."""
        return replace(self, **{name: value.pin_memory() for name, value in _tensors(self)})  # type: ignore[arg-type]


def blank_batch(batch: Batch) -> Batch:
    """Return one black image without a class, with the image size of an empty batch.

    Example:
        >>> empty = Batch(torch.empty(0, 3, 8, 8, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), ())
        >>> len(blank_batch(empty))
        1
    """
    shapes = (1, *batch.images.shape[1:]), (1, *batch.targets.shape[1:])
    return Batch(batch.images.new_zeros(shapes[0]), batch.targets.new_zeros(shapes[1]), ("",))


def sample_keys(ids: Iterable[str]) -> Tensor:
    """Return a 63-bit hash of each id, int64 ``(samples,)``."""
    return torch.tensor([position_seed(name) for name in ids], dtype=torch.int64)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """Output of the step that training, validation, test and prediction share.

    Args:
        images: Images of the :class:`Batch`.
        targets: Targets of the :class:`Batch`.
        logits: Float ``(batch, num_classes)``.
        features: Float ``(batch, feature_dim)``, the pooled vector before the head. Defaults to an empty vector per
            sample, for losses and regularizers that read logits only.
        epoch: Epoch, counted from 0. Defaults to 0.
        auxiliary: Logits ``(batch, num_classes)`` of auxiliary classifiers, in training only. Defaults to none.
        keys: Keys of the :class:`Batch`, which seed random draws per sample. Defaults to ``None``.

    Example:
        >>> output = StepOutput(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), torch.randn(2, 10))
        >>> output.features.shape, output.epoch
        (torch.Size([2, 0]), 0)
    """

    images: Tensor
    targets: Tensor
    logits: Tensor
    features: Tensor = field(default_factory=lambda: torch.empty(0))
    epoch: int = 0
    auxiliary: tuple[Tensor, ...] = ()
    keys: Tensor | None = None

    def __post_init__(self) -> None:
        if self.features.ndim == 1:
            object.__setattr__(self, "features", self.logits.new_empty(len(self.logits), 0))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """Return the output with its tensors on ``device``. Lightning calls it to store predictions on the CPU."""
        moved: dict[str, Any] = {name: value.to(device, non_blocking=non_blocking) for name, value in _tensors(self)}
        auxiliary = tuple(logits.to(device, non_blocking=non_blocking) for logits in self.auxiliary)
        return replace(self, **moved, auxiliary=auxiliary)


def _tensors(record: Batch | StepOutput) -> list[tuple[str, Tensor]]:
    """Return the fields of a record that are tensors, with their names."""
    fields = ((name, getattr(record, name)) for name in record.__dataclass_fields__)
    return [(name, value) for name, value in fields if isinstance(value, Tensor)]


FACTS = ("num_classes", "class_names", "class_counts", "image_size", "in_channels")
"""Facts of the data that the constructor of a component can request by name. See :meth:`DataFacts.for_registry`."""

PART_FACTS = (*FACTS, "feature_dim", "logit_scale")
"""Facts that the constructor of a loss or a regularizer can request by name.

``feature_dim`` is the input length of the head. ``logit_scale`` is the factor of a cosine head with a fixed scale.
"""


@dataclass(frozen=True)
class DataFacts:
    """Facts of the data that a model is built for, as plain values that a checkpoint can store.

    Args:
        class_names: Names of the classes, in the order of their indices.
        class_counts: Number of training images per class, in the same order. Empty if unknown.
        image_size: Side of the square input image, in pixels.
        channels: Number of channels, 1 or 3. Defaults to 3.
        eval_transforms: Specs of the transforms that convert any image to the input size. A model outside its run
            therefore contains its preprocessing. Defaults to none.
        multi_label: True if an image can have several classes or none. Targets are then float ``(batch, num_classes)``
            with 1 for each class of the image. Defaults to False.
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    image_size: int
    channels: int = 3
    eval_transforms: tuple[str | dict[str, Any], ...] = ()
    multi_label: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, numbers and strings for a checkpoint or a config.json."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build facts from the mapping that :meth:`to_dict` returned.

        Raises:
            UserError: If a value has another type.
            KeyError: If a required key is missing.
            TypeError: If a key is unknown.
        """
        if not isinstance(values, Mapping):
            raise UserError(f"facts: expected a mapping, got {values!r}.")
        hints = get_type_hints(cls)
        for key in values.keys() - hints.keys():
            raise TypeError(f"the key {key!r} is unknown")
        for key in ("class_names", "class_counts", "image_size"):
            values[key]
        found = cls(**{key: check_type(value, hints[key], f"facts.{key}") for key, value in values.items()})
        if found.image_size < 1 or found.channels not in (1, 3):
            raise UserError(f"facts: expected an image_size of 1 or more and 1 or 3 channels, got {values!r}.")
        return found

    def for_registry(self) -> dict[str, Any]:
        """Return the facts that the constructor of a component can request by name."""
        counts = {"class_counts": self.class_counts} if self.class_counts else {}  # unknown for a plain DataLoader
        return {
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            **counts,
            "image_size": self.image_size,
            "in_channels": self.channels,
        }
