"""All that happens to a training image: one by one in the loader, then the batch on the device, then mixing."""

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
        sample: brings each image to the model's square, in the loader.
        batch: what then happens to the batch on the device, in this order.
        mix: what mixes the samples at last, if anything.
    """

    def __init__(self, sample: Pipeline, batch: Sequence[BatchTransform] = (), mix: Mix | None = None) -> None:
        self.sample = sample
        self.batch = tuple(batch)
        self.mix = mix
        self.strength: Callable[[float], float] | None = None
        """From the fraction of training that is done to how strong batch transforms and mixing are, 0 to 1."""
        self.output_size: Callable[[float], int] | None = None
        """From that fraction to the side of the images that :meth:`apply` gives, in pixels."""
        seen: Counter[str] = Counter()
        self._streams = [_stream(transform, seen) for transform in self.batch]

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do with a batch on the device."""
        return not self.batch and self.mix is None and self.output_size is None

    @property
    def returns_float(self) -> bool:
        """True if :meth:`apply` can return float images, in this batch or in another one."""
        mixed = self.mix is not None and not self.mix.keeps_dtype
        return mixed or self.output_size is not None or not all(each.keeps_dtype for each in self.batch)

    def set_strength(self, strength: float) -> None:
        """Set how strong the batch transforms and the mixing are, from 0 to 1."""
        for part in (*self.batch, self.mix):
            if part is not None:
                part.strength = strength

    def apply(
        self, images: Tensor, targets: Tensor, draws: BatchRandom, progress: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """What training sees of a batch.

        Args:
            images: uint8 ``(batch, channels, height, width)``, as ``sample`` gave them.
            targets: int64 ``(batch,)``.
            draws: one row a sample; every transform takes a stream of its own.
            progress: the fraction of training that is done; mixing ends at its ``until``.

        Returns:
            The images, uint8 or float in [0, 1]; the targets, probabilities ``(batch, num_classes)`` where mixed.
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
    """The three parts that ``specs`` name, in one list: transforms, then batch transforms, then at most one mix.

    Args:
        specs: as in ``data.train_transforms``; a preset's name stands for its list. ``None`` stands for the transforms
            of evaluation.
        where: the place in the config, for messages.
        **facts: what the data is known to be: ``image_size``, ``in_channels``, ``num_classes``.

    Raises:
        SpecError: an unknown name or argument, a value that is refused, or another order.
    """
    sample: list[Transform] = []
    batch: list[BatchTransform] = []
    mix: Mix | None = None
    for place, name, built in build_each(specs, where, **facts):
        late = "mixing" if mix is not None else "a whole-batch transform" if batch else ""
        if isinstance(built, Mix):
            if mix is not None:
                raise SpecError(f"{place}: {name} mixes a batch that is mixed already; keep one, or mixup_or_cutmix.")
            mix = built
        elif mix is not None or (isinstance(built, Transform) and batch):
            kind = "changes single images" if isinstance(built, Transform) else "changes whole batches"
            raise SpecError(
                f"{place}: {name} {kind} and stands after {late}. The order is: transforms of single images, then of "
                "whole batches, then mixing; see `imgrec list augmentations`."
            )
        elif isinstance(built, Transform):
            sample.append(built)
        else:
            batch.append(built)
    return TrainingPipeline(Pipeline(sample, facts["image_size"], where), batch, mix)


def check_training_transforms(
    specs: Specs | Sequence[Spec] | None, where: str = "train_transforms", **facts: Any
) -> None:
    """Raise what :func:`build_training_pipeline` would raise, before anything is known of the data."""
    build_training_pipeline(specs, where, **{"image_size": ANY_SIZE, "in_channels": 3, "num_classes": 2, **facts})


def _stream(transform: BatchTransform, seen: Counter[str]) -> str:
    """A name that stays when other transforms come or go, so that the draws do."""
    name = type(transform).__qualname__
    seen[name] += 1
    return f"{name}/{seen[name]}"
