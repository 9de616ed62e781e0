"""Blur by a Gaussian, each sample by a width of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked, check_probability, per_image, to_float
from imgrec.augment.crop import pad
from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """The images, each pixel a weighted mean of those around it; the border mirrors the image.

    Args:
        images: uint8 or float in [0, 1], ``(batch, channels, height, width)``.
        sigma: float ``(batch,)``: standard deviation of the weights, in pixels, above 0.
        kernel_size: how many pixels wide the weights are, an odd number.
    """
    images = to_float(images)
    reach = kernel_size // 2
    places = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = (-0.5 * (places / sigma[:, None].to(images.dtype)) ** 2).exp()
    weights = weights / weights.sum(dim=1, keepdim=True)
    wide = pad(images, reach, 0, reach, 0, "reflect")
    images = _weighted(wide, weights, -1, images.shape[-1])
    return _weighted(pad(images, 0, reach, 0, reach, "reflect"), weights, -2, images.shape[-2])


def _weighted(wide: Tensor, weights: Tensor, dim: int, length: int) -> Tensor:
    """The sum of shifted windows: grouped convolutions with a group a sample are much slower."""
    total = wide.narrow(dim, 0, length) * per_image(weights[:, 0])
    for place in range(1, weights.shape[1]):
        total.addcmul_(wide.narrow(dim, place, length), per_image(weights[:, place]))
    return total


@AUGMENTATIONS.register("gaussian_blur")
class GaussianBlur(BatchTransform):
    """Blurs an image with probability ``p``.

    Args:
        sigma: smallest and largest standard deviation of the blur, in pixels; drawn evenly.
        p: probability; the strength of a schedule scales it.
        kernel_size: how many pixels wide the weights are, an odd number; by default three deviations on either side.

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations", arXiv 2002.05709.

    Example::

        train_transforms: {name: gaussian_blur, sigma: [0.1, 1.0], p: 0.2}
    """

    def __init__(self, sigma: tuple[float, float] = (0.1, 2.0), p: float = 0.5, kernel_size: int | None = None) -> None:
        if not 0 < sigma[0] <= sigma[1]:
            raise UserError(f"`sigma` must be two growing numbers above 0, got {list(sigma)}.")
        if kernel_size is not None and (kernel_size < 1 or kernel_size % 2 == 0):
            raise UserError(f"`kernel_size` must be an odd number of pixels, got {kernel_size}.")
        self.sigma = (sigma[0], sigma[1])
        self.p = check_probability(p)
        self.kernel_size = kernel_size or 2 * max(1, round(3 * sigma[1])) + 1

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        chosen = draws.chance(self.p * self.strength)
        sigma = draws.uniform(low=self.sigma[0], high=self.sigma[1])[:, 0]
        return apply_masked(
            images, chosen, lambda some, widths: gaussian_blur(some, widths, self.kernel_size), sigma, floating=True
        )
