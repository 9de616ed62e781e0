"""Training transforms: of single images in the loader, of the batch on the device, and mixing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from imgrec.augment.base import BatchTransform, Mix, Transform, to_float
from imgrec.augment.pipeline import ANY_SIZE, Pipeline, build_each
from imgrec.augment.random import BatchRandom
from imgrec.errors import SpecError
from imgrec.registry import Spec, Specs


class TrainingPipeline:
    """The three parts of ``data.train_transforms``.

    Args:
        sample: Transforms of single images in the loader, to the square input of the model.
        batch: Transforms of the batch on the device, in this order.
        mix: Mixing of the samples, applied last. Defaults to none.
    """

    def __init__(self, sample: Pipeline, batch: Sequence[BatchTransform] = (), mix: Mix | None = None) -> None:
        self.sample = sample
        self.batch = tuple(batch)
        self.mix = mix
        self.strength: Callable[[float], float] | None = None
        """Function from the completed fraction of training to the strength of transforms and mixing, in [0, 1]."""
        self.output_size: Callable[[float], int] | None = None
        """Function from the completed fraction of training to the side of the result of :meth:`apply`, in pixels."""
        seen: Counter[str] = Counter()
        self._streams = [_stream(transform, seen) for transform in self.batch]

    @property
    def idle(self) -> bool:
        """True if a batch needs no further transform on the device."""
        return not self.batch and self.mix is None and self.output_size is None

    @property
    def returns_float(self) -> bool:
        """True if :meth:`apply` can return float images, in this batch or in another one."""
        mixed = self.mix is not None and not self.mix.keeps_dtype
        return mixed or self.output_size is not None or not all(each.keeps_dtype for each in self.batch)

    def set_strength(self, strength: float) -> None:
        """Set the strength of the batch transforms and of mixing, in [0, 1]."""
        for part in (*self.batch, self.mix):
            if part is not None:
                part.strength = strength

    def apply(
        self, images: Tensor, targets: Tensor, draws: BatchRandom, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return the images and targets of a training step.

        Args:
            images: uint8 ``(batch, channels, height, width)``, the result of ``sample``.
            targets: int64 ``(batch,)``.
            draws: Random numbers with one row for each sample. Every transform uses an independent stream.
            progress: Completed fraction of training, in [0, 1]. Mixing stops at its ``until``. Defaults to 0.

        Returns:
            Images, uint8 or float in [0, 1], and targets, which are probabilities ``(batch, num_classes)`` if mixed.
        """
        if self.strength is not None:
            self.set_strength(self.strength(progress))
        for transform, stream in zip(self.batch, self._streams, strict=True):
            images = transform(images, draws.fork(stream))
        if self.mix is not None and progress < self.mix.until:
            images, targets = self.mix(images, targets, draws.fork("mix"))
        size = images.shape[-1] if self.output_size is None else self.output_size(progress)
        if size != images.shape[-1]:
            images = F.interpolate(to_float(images), size=(size, size), mode="bilinear", antialias=True).clamp_(0, 1)
        return images, targets


def build_training_pipeline(
    specs: Specs | Sequence[Spec] | None, where: str = "train_transforms", **facts: Any
) -> TrainingPipeline:
    """Build the three parts from one list: transforms, then batch transforms, then at most one mixing.

    Args:
        specs: Specs as in ``data.train_transforms``. The name of a preset is replaced by its list. ``None`` is the
            default of evaluation.
        where: Place in the config, for messages.
        **facts: Facts of the data: ``image_size``, ``in_channels``, ``num_classes``.

    Raises:
        SpecError: If a name, an argument, a value or the order is wrong.
    """
    sample: list[Transform] = []
    batch: list[BatchTransform] = []
    mix: Mix | None = None
    for place, name, built in build_each(specs, where, **facts):
        late = "mixing" if mix is not None else "a whole-batch transform" if batch else ""
        if isinstance(built, Mix):
            if mix is not None:
                raise SpecError(f"{place}: expected one mixing, got {name} as the second. Use mixup_or_cutmix.")
            mix = built
        elif mix is not None or (isinstance(built, Transform) and batch):
            kind = "a transform of single images" if isinstance(built, Transform) else "a whole-batch transform"
            raise SpecError(
                f"{place}: expected transforms of single images, then of whole batches, then mixing, got {name}, "
                f"{kind}, after {late}. `imgrec list augmentations` prints the kind of each."
            )
        elif isinstance(built, Transform):
            sample.append(built)
        else:
            batch.append(built)
    return TrainingPipeline(Pipeline(sample, facts["image_size"], where), batch, mix)


def check_training_transforms(
    specs: Specs | Sequence[Spec] | None, where: str = "train_transforms", **facts: Any
) -> None:
    """Raise the errors of :func:`build_training_pipeline` before any data is read."""
    build_training_pipeline(specs, where, **{"image_size": ANY_SIZE, "in_channels": 3, "num_classes": 2, **facts})


def _stream(transform: BatchTransform, seen: Counter[str]) -> str:
    """Return a name that does not depend on other transforms, so that its draws do not depend on them."""
    name = type(transform).__qualname__
    seen[name] += 1
    return f"{name}/{seen[name]}"
