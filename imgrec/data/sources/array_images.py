"""Conversion of images in arrays and tensors to uint8 with the channels first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from imgrec.data.decoding.convert import from_pil
from imgrec.errors import UserError

ArrayLayout = Literal["auto", "chw", "hwc"]
"""Order of the dimensions of an image: channels first, channels last, or determined from the number of channels."""

_CHANNELS = (1, 3)


def find_array_layout(shape: Sequence[int], layout: ArrayLayout = "auto") -> Literal["chw", "hwc"]:
    """Return the order of the dimensions of an image.

    Args:
        shape: Shape of one image with three dimensions.
        layout: ``chw``, ``hwc``, or ``auto`` for the order in which the number of channels is 1 or 3.

    Raises:
        UserError: If no order, or both orders, have 1 or 3 channels.

    Example:
        >>> find_array_layout((3, 32, 32)), find_array_layout((28, 28, 1))
        ('chw', 'hwc')
    """
    accepted = [name for name, size in (("chw", shape[0]), ("hwc", shape[-1])) if size in _CHANNELS]
    if layout != "auto":
        if layout not in accepted:
            raise UserError(f"layout: expected 1 or 3 channels, got images of the shape {tuple(shape)} with {layout}.")
        return layout
    if len(accepted) == 2:
        raise UserError(
            f"layout: expected chw or hwc for images of the shape {tuple(shape)}, which have 1 or 3 channels in both "
            "orders. Use source={'name': 'dataset', 'dataset': ..., 'layout': 'hwc'}."
        )
    if not accepted:
        raise UserError(f"images: expected 1 or 3 channels, first or last, got images of the shape {tuple(shape)}.")
    return "chw" if accepted == ["chw"] else "hwc"


def to_image(image: Any, layout: ArrayLayout = "auto") -> Tensor:
    """Return an image as uint8 ``(1 or 3, height, width)``.

    Args:
        image: Pillow image, or an array or tensor of uint8 or of floats in [0, 1], with two or three dimensions.
            Floats are rounded to 8 bits.
        layout: Order of the dimensions. Defaults to ``auto``.

    Raises:
        UserError: If the type, the shape or the range is another one.

    Example:
        >>> to_image(torch.ones(8, 8)).shape
        torch.Size([1, 8, 8])
    """
    if isinstance(image, Image.Image):
        return from_pil(image)
    pixels = _tensor(image)
    if pixels.ndim not in (2, 3):
        raise UserError(f"images: expected two or three dimensions per image, got the shape {tuple(pixels.shape)}.")
    if pixels.ndim == 2:
        return _eight_bits(pixels)[None]
    return _eight_bits(pixels if find_array_layout(pixels.shape, layout) == "chw" else pixels.permute(2, 0, 1))


def to_images(images: NDArray[Any] | Tensor, layout: ArrayLayout = "auto") -> Tensor:
    """Return images as uint8 ``(images, 1 or 3, height, width)``.

    Args:
        images: Array or tensor of uint8 or of floats in [0, 1], ``(images, height, width)`` or with the channels
            first or last. uint8 is not copied.
        layout: Order of the dimensions of one image. Defaults to ``auto``.

    Raises:
        UserError: If the type, the shape or the range is another one.
    """
    pixels = _tensor(images)
    if pixels.ndim not in (3, 4):
        raise UserError(
            "images: expected (images, height, width), or four dimensions with the channels first or last, got "
            f"{tuple(pixels.shape)}."
        )
    if pixels.ndim == 3:
        return _eight_bits(pixels)[:, None]
    first = find_array_layout(pixels.shape[1:], layout) == "chw"
    return _eight_bits(pixels if first else pixels.permute(0, 3, 1, 2))


def _tensor(images: Any) -> Tensor:
    if isinstance(images, Tensor):
        return images.detach().cpu()
    if not isinstance(images, np.ndarray):
        raise UserError(f"images: expected Pillow images, NumPy arrays or tensors, got {type(images).__name__}.")
    if images.dtype.kind not in "uf" or images.dtype.itemsize > 8:
        raise UserError(_wrong_type(str(images.dtype)))
    return torch.from_numpy(np.ascontiguousarray(images))


def _eight_bits(pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    if not pixels.is_floating_point():
        raise UserError(_wrong_type(str(pixels.dtype).removeprefix("torch.")))
    if pixels.numel() and not (pixels.min() >= 0 and pixels.max() <= 1):  # NaN is in no range
        raise UserError(
            f"images: expected floats in [0, 1], got {pixels.min():.3g} to {pixels.max():.3g}. Remove a normalization "
            "from the dataset, because the model contains it, and convert values of 0 to 255 to uint8."
        )
    return pixels.mul(255).round_().to(torch.uint8)


def _wrong_type(dtype: str) -> str:
    return f"images: expected uint8, or floats in [0, 1], got {dtype}."
