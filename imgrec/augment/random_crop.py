"""Moving the images of a batch by a few pixels: a border around each, and a window of the old size anywhere in it."""

from __future__ import annotations

import torch
from torch import Tensor

from imgrec.augment import chosen
from imgrec.augment.base import AUGMENTATIONS, BatchTransform
from imgrec.augment.crop import PaddingMode, pad
from imgrec.augment.random import Draws
from imgrec.errors import UserError


def random_crop(
    images: Tensor, top: Tensor, left: Tensor, padding: int, padding_mode: PaddingMode = "constant"
) -> Tensor:
    """A window of each image with its border, as large as the image.

    Args:
        images: ``(batch, channels, height, width)``, of any type.
        top: int64 ``(batch,)``: the window's first row in the image with its border, from 0 to ``2 * padding``.
        left: int64 ``(batch,)``: likewise its first column.
        padding: width of the border on every side, in pixels.
        padding_mode: what the border shows; see :func:`imgrec.augment.pad`.
    """
    height, width = images.shape[-2:]
    wide = pad(images, padding, padding, padding, padding, padding_mode)
    if chosen.gathers(images):  # copying window by window runs at the speed of memory, a gather does not
        cut = torch.empty_like(images, memory_format=torch.contiguous_format)
        source, target = wide.numpy(), cut.numpy()
        for i, (row, column) in enumerate(zip(top.tolist(), left.tolist(), strict=True)):
            target[i] = source[i, :, row : row + height, column : column + width]
        return cut
    windows = wide.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


@AUGMENTATIONS.register("random_crop")
class RandomCrop(BatchTransform):
    """Puts a border around the image and cuts a window of the old size out of a random place.

    Args:
        padding: width of the border on every side, in pixels; CIFAR's is 4.
        padding_mode: ``constant`` (black), ``edge``, ``reflect`` or ``symmetric``.

    Source: Lee et al. 2015, "Deeply-Supervised Nets", arXiv 1409.5185 (zero padding of 4, for CIFAR).

    Example::

        train_transforms: [{name: random_crop, padding: 4, padding_mode: reflect}, hflip]
    """

    keeps_dtype = True

    def __init__(self, padding: int = 4, padding_mode: PaddingMode = "constant") -> None:
        if padding < 0:
            raise UserError(f"`padding` must be 0 or more pixels, got {padding}.")
        self.padding = padding
        self.padding_mode: PaddingMode = padding_mode

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        top, left = draws.integers(0, 2 * self.padding + 1, count=2).unbind(1)
        return random_crop(images, top, left, self.padding, self.padding_mode)
