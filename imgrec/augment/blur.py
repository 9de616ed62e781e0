"""Gaussian blur of a batch, with an independent width for every sample."""

from __future__ import annotations

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, apply_masked, check_bounds, expand_per_image, to_float
from imgrec.augment.crop import pad
from imgrec.augment.random import BatchRandom
from imgrec.errors import UserError
from imgrec.utils.ranges import ClosedUnitInterval, PositiveFloat, PositiveInt, check_ranges


def gaussian_blur(images: Tensor, sigma: Tensor, kernel_size: int) -> Tensor:
    """Blur images with a Gaussian kernel. The border is filled by reflection.

    Args:
        images: uint8 or float in [0, 1], ``(batch, channels, height, width)``.
        sigma: float ``(batch,)``: standard deviation of the kernel, in pixels, above 0.
        kernel_size: Side of the kernel, in pixels, an odd number.

    Returns:
        float in [0, 1], of the same shape.
    """
    images = to_float(images)
    reach = kernel_size // 2
    offsets = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    weights = (-0.5 * (offsets / sigma[:, None].to(images.dtype)) ** 2).exp()
    weights = weights / weights.sum(dim=1, keepdim=True)
    padded = pad(images, reach, 0, reach, 0, "reflect")
    images = _convolve(padded, weights, -1, images.shape[-1])
    return _convolve(pad(images, 0, reach, 0, reach, "reflect"), weights, -2, images.shape[-2])


def _convolve(padded: Tensor, weights: Tensor, dim: int, length: int) -> Tensor:
    """Return the weighted sum of shifted windows. A convolution with one group per sample is much slower."""
    total = padded.narrow(dim, 0, length) * expand_per_image(weights[:, 0])
    for offset in range(1, weights.shape[1]):
        total.addcmul_(padded.narrow(dim, offset, length), expand_per_image(weights[:, offset]))
    return total


@AUGMENTATIONS.register("gaussian_blur")
class GaussianBlur(BatchTransform):
    """Random Gaussian blur.

    Args:
        sigma: Range of the standard deviation, in pixels, sampled uniformly. Defaults to ``(0.1, 2.0)``.
        p: Probability of a blur. ``strength`` scales it. Defaults to 0.5.
        kernel_size: Side of the kernel, in pixels, an odd number. Defaults to three standard deviations on each side.

    Raises:
        UserError: If ``sigma`` decreases or if ``kernel_size`` is even.

    Source: Chen et al. 2020, "A simple framework for contrastive learning of visual representations", arXiv 2002.05709.

    Example::

        train_transforms: {name: gaussian_blur, sigma: [0.1, 1.0], p: 0.2}
    """

    @check_ranges
    def __init__(
        self,
        sigma: tuple[PositiveFloat, PositiveFloat] = (0.1, 2.0),
        p: ClosedUnitInterval = 0.5,
        kernel_size: PositiveInt | None = None,
    ) -> None:
        if kernel_size is not None and kernel_size % 2 == 0:
            raise UserError(f"kernel_size: expected an odd number of pixels, got {kernel_size}.")
        self.sigma = check_bounds("sigma", sigma)
        self.p = p
        self.kernel_size = kernel_size or 2 * max(1, round(3 * sigma[1])) + 1

    def __call__(self, images: Tensor, draws: BatchRandom) -> Tensor:  # noqa: D102
        mask = draws.chance(self.p * self.strength)
        sigma = draws.uniform(low=self.sigma[0], high=self.sigma[1])[:, 0]
        return apply_masked(
            images, mask, lambda some, widths: gaussian_blur(some, widths, self.kernel_size), sigma, floating=True
        )
