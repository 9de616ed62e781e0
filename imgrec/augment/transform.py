"""What a per-sample transform is, and the registry of them."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from imgrec.registry import Registry


class Transform(ABC):
    """Changes one image. Whatever it draws, it draws from the generator it is handed, never from global state.

    A loader hands over a generator that is seeded by (seed, epoch, sample), so that a draw does not depend on the
    worker that makes it or on what was drawn before. A deterministic transform ignores the generator.

    >>> class Invert(Transform):
    ...     def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
    ...         return 255 - image
    >>> Invert()(torch.zeros(1, 1, 1, dtype=torch.uint8), torch.Generator()).item()
    255
    """

    @abstractmethod
    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """The changed image.

        Shapes: ``image`` uint8 ``(channels, height, width)``; the result likewise, of any height and width. The input
        is left as it is.
        """


AUGMENTATIONS: Registry[Transform] = Registry("augmentation", "augmentations")
"""Per-sample transforms by name; the key of each is its name in ``data.train_transforms``."""
