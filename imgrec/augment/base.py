"""The three kinds of augmentation, and the registry of them all."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError
from imgrec.registry import Registry


class Transform(ABC):
    """Changes one image, in the loader. Whatever it draws, it draws from the generator it is handed.

    A loader hands over a generator that is seeded by (seed, epoch, sample), so that a draw does not depend on the
    worker that makes it or on what was drawn before. A deterministic transform ignores the generator.

    >>> class Invert(Transform):
    ...     def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
    ...         return 255 - image
    >>> Invert()(torch.zeros(1, 1, 1, dtype=torch.uint8), torch.Generator()).item()
    255
    """

    kind: ClassVar[str] = "image"
    """How `imgrec list augmentations` marks it."""

    @abstractmethod
    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The changed image.

        Shapes: ``image`` uint8 ``(channels, height, width)``; the result likewise, of any height and width. The input
        is left as it is.
        """


class BatchTransform(ABC):
    """Changes a whole batch at once, on the device; every sample by a draw of its own.

    ``strength`` scales how much it changes, from 0 to 1, where that has a meaning: a schedule may raise it over
    training. What draws a place or a side only (crop, flip) ignores it.

    >>> class Darken(BatchTransform):
    ...     def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:
    ...         return to_float(images) * (1 - self.strength * draws.uniform())[:, :, None, None]
    >>> Darken()(torch.ones(2, 1, 1, 1), BatchRandom(torch.tensor([1, 2]))).shape
    torch.Size([2, 1, 1, 1])
    """

    kind: ClassVar[str] = "batch"
    keeps_dtype: ClassVar[bool] = False
    """True if uint8 images always remain uint8. False if they can become float in [0, 1]."""
    strength: float = 1.0

    @abstractmethod
    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:
        """The changed images.

        Shapes: ``images`` uint8, or float in [0, 1], ``(batch, channels, height, width)``; the result likewise, uint8
        stays uint8 only where pixels are but moved. The input is left as it is.
        """


class Mix(ABC):
    """Mixes the samples of a batch with one another, and their targets likewise.

    Args:
        until: the fraction of training after which nothing is mixed any more; 1 mixes to the end.
    """

    kind: ClassVar[str] = "mix"
    keeps_dtype: ClassVar[bool] = False
    """True if uint8 images always remain uint8. False if they can become float in [0, 1]."""
    strength: float = 1.0

    def __init__(self, until: float = 1.0) -> None:
        if not 0 < until <= 1:
            raise UserError(f"`until` is a fraction of training, above 0 and up to 1, got {until}.")
        self.until = until

    @abstractmethod
    def __call__(self, images: Tensor, targets: Tensor, draws: BatchRandom) -> tuple[Tensor, Tensor]:
        """The mixed images and targets.

        Shapes: ``images`` uint8 or float in [0, 1], ``(batch, channels, height, width)``; ``targets`` int64
        ``(batch,)`` or float ``(batch, num_classes)``; the results likewise, targets always float.
        """


Augmentation = Transform | BatchTransform | Mix

AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation", "augmentations", specific=("alpha", "scale", "ratio", "sigma", "std")
)
"""Per-sample transforms, whole-batch transforms and mixing by name, as they stand in ``data.train_transforms``."""


def to_float(images: Tensor) -> Tensor:
    """Images in [0, 1]: uint8 divided by 255, float as it is."""
    return images.float().div_(255) if images.dtype == torch.uint8 else images


def prefers_gather(images: Tensor) -> bool:
    """Whether a part of a batch is worth gathering: on a GPU its size would have to be waited for."""
    return images.device.type == "cpu"


def per_image(values: Tensor) -> Tensor:
    """One number a sample, ``(batch,)``, as it goes with images: ``(batch, 1, 1, 1)``."""
    return values[:, None, None, None]


def apply_masked(
    images: Tensor, chosen: Tensor, change: Callable[..., Tensor], *parameters: Tensor, floating: bool = False
) -> Tensor:
    """The images, with ``change(images, *parameters)`` in the place of the chosen ones.

    On a CPU only the chosen ones are computed, on a GPU all are.

    Args:
        images: ``(batch, channels, height, width)``.
        chosen: bool ``(batch,)``.
        change: takes images and parameters of some of the samples.
        *parameters: ``(batch, ...)``, one row a sample.
        floating: the change is of float images in [0, 1], so all become that.
    """
    images = to_float(images) if floating else images
    if not prefers_gather(images):
        return torch.where(per_image(chosen), change(images, *parameters), images)
    rows = chosen.nonzero()[:, 0]
    if len(rows) == len(images):
        return change(images, *parameters)
    changed = images.clone()
    if len(rows):
        changed[rows] = change(images[rows], *(each[rows] for each in parameters))
    return changed


def check_probability(p: float, name: str = "p") -> float:
    """``p``, where it is a probability; else a :class:`UserError` that calls it ``name``."""
    if not 0 <= p <= 1:
        raise UserError(f"`{name}` is a probability, from 0 to 1, got {p}.")
    return p
