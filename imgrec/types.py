"""The contracts between the rooms: what a batch is, what a step gives, what the data says about itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self, get_type_hints

import torch
from torch import Tensor

from imgrec.errors import UserError
from imgrec.utils.seeding import position_seed
from imgrec.utils.signature import check_type


@dataclass(frozen=True, slots=True)
class Batch:
    """Images on their way into a task.

    Shapes: ``images`` uint8 ``(batch, channels, height, width)``; ``targets`` int64 ``(batch,)``, or float
    ``(batch, num_classes)`` probabilities once images were mixed; ``ids`` one stable string a sample, its path or its
    key in the source. ``skipped`` names the samples that belonged here and could not be read, as (id, reason).
    ``keys`` int64 ``(batch,)``: a hash of each id, which random draws on the device start from; left out, they are
    computed. ``epoch`` counts from 0; it is 0 outside training.
    """

    images: Tensor
    targets: Tensor
    ids: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    keys: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    epoch: int = 0

    def __post_init__(self) -> None:
        if len(self.keys) != len(self.ids):
            object.__setattr__(self, "keys", sample_keys(self.ids))

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same batch with its tensors on ``device``."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
            keys=self.keys.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, for asynchronous copies to a GPU."""
        return replace(
            self,
            images=self.images.pin_memory(),
            targets=self.targets.pin_memory(),
            keys=self.keys.pin_memory(),
        )


def blank_batch(batch: Batch) -> Batch:
    """One black image of no class in particular, of the size of those that ``batch`` would have held.

    >>> empty = Batch(torch.empty(0, 3, 8, 8, dtype=torch.uint8), torch.empty(0, dtype=torch.int64), ())
    >>> len(blank_batch(empty))
    1
    """
    shapes = (1, *batch.images.shape[1:]), (1, *batch.targets.shape[1:])
    return Batch(batch.images.new_zeros(shapes[0]), batch.targets.new_zeros(shapes[1]), ("",))


def sample_keys(ids: Iterable[str]) -> Tensor:
    """A 63-bit hash of each id: int64 ``(samples,)``."""
    return torch.tensor([position_seed(name) for name in ids], dtype=torch.int64)


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What the one step gives that training, validation, test and prediction share.

    Shapes: ``images`` as in :class:`Batch`; ``targets`` likewise; ``logits`` float ``(batch, num_classes)``;
    ``features`` float ``(batch, feature_dim)``, the pooled vector before the head; ``auxiliary`` further logits, each
    ``(batch, num_classes)``, of an architecture with auxiliary classifiers, in training only. ``epoch`` counts from 0.
    ``keys`` are those of the :class:`Batch`, which random draws of a sample start from; a task of one's own may leave
    them out.
    """

    images: Tensor
    targets: Tensor
    logits: Tensor
    features: Tensor
    epoch: int
    auxiliary: tuple[Tensor, ...] = ()
    keys: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same output with its tensors on ``device``: Lightning asks for it to keep predictions on the CPU."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            targets=self.targets.to(device, non_blocking=non_blocking),
            logits=self.logits.to(device, non_blocking=non_blocking),
            features=self.features.to(device, non_blocking=non_blocking),
            auxiliary=tuple(logits.to(device, non_blocking=non_blocking) for logits in self.auxiliary),
            keys=None if self.keys is None else self.keys.to(device, non_blocking=non_blocking),
        )


FACTS = ("num_classes", "class_names", "class_counts", "image_size", "in_channels")
"""What the data says that a spec's constructor may name; see :meth:`DataFacts.for_registry`."""

PART_FACTS = (*FACTS, "feature_dim", "logit_scale")
"""What the constructor of a loss or of a regularizer may name: ``feature_dim`` is the length of the head's input,
``logit_scale`` what a cosine head with a fixed scale multiplies the cosines by."""


@dataclass(frozen=True)
class DataFacts:
    """What a model must know of the data it is built for: plain values only, so that they live in a checkpoint.

    ``class_counts`` counts training images, in the order of ``class_names``. ``image_size`` is the side, in pixels, of
    the square image that reaches the model. ``eval_transforms`` are the specs that bring any image there, so that a
    model taken out of its run still knows its preprocessing. ``multi_label`` says that an image may have several
    classes or none: ``targets`` are float ``(batch, num_classes)`` then, 1 for each class that it has.
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    image_size: int
    channels: int = 3
    eval_transforms: tuple[str | dict[str, Any], ...] = ()
    multi_label: bool = False

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, numbers and strings, as they stand in a checkpoint or a config.json."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the facts that :meth:`to_dict` gave.

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
        """The facts that a spec's constructor may name."""
        return {
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "class_counts": self.class_counts,
            "image_size": self.image_size,
            "in_channels": self.channels,
        }
