"""Mirroring an image."""

from __future__ import annotations

import torch
from torch import Tensor

from imgrec.augment.transform import AUGMENTATIONS, Transform
from imgrec.errors import UserError


def hflip(image: Tensor) -> Tensor:
    """``image`` with left and right exchanged."""
    return image.flip(-1)


def vflip(image: Tensor) -> Tensor:
    """``image`` with top and bottom exchanged."""
    return image.flip(-2)


class _Flip(Transform):
    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise UserError(f"`p` is a probability, from 0 to 1, got {p}.")
        self.p = p

    def drawn(self, generator: torch.Generator) -> bool:
        return float(torch.rand((), generator=generator)) < self.p


@AUGMENTATIONS.register("hflip")
class HorizontalFlip(_Flip):
    """Exchanges left and right with probability ``p``.

    Args:
        p: probability of a flip.
    """

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return hflip(image) if self.drawn(generator) else image


@AUGMENTATIONS.register("vflip")
class VerticalFlip(_Flip):
    """Exchanges top and bottom with probability ``p``: for images without a natural "up", seen from above say.

    Args:
        p: probability of a flip.
    """

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        return vflip(image) if self.drawn(generator) else image
