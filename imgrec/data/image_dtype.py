"""The dtype and value range of the images in a batch: equal in training, validation, test and prediction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from imgrec.augment import to_float
from imgrec.errors import UserError, suggestion
from imgrec.types import Batch

ImageDtype = Literal["auto", "uint8", "float32"]
"""The argument ``image_dtype`` of :class:`imgrec.data.ImageDataModule`."""

_ATTRIBUTE = "image_dtype"
_REQUESTS = ("uint8", "float32", "any")


def choose_dtype(requested: ImageDtype, module: Any, training_is_float: bool) -> torch.dtype:
    """Return the dtype of the images that a LightningModule receives, the same for every split.

    Args:
        requested: Argument of the data module. All values except ``auto`` have precedence.
        module: LightningModule. Its attribute ``image_dtype`` is ``"uint8"``, ``"float32"`` or ``"any"``, by default
            ``"float32"``. ``"any"`` accepts both and receives uint8 unless a training transform returns floats.
        training_is_float: True if the training transforms can return floats.

    Raises:
        UserError: If the attribute has another value.
    """
    request = getattr(module, _ATTRIBUTE, "float32") if requested == "auto" else requested
    if request not in _REQUESTS:
        raise UserError(
            f"{type(module).__name__}.{_ATTRIBUTE}: expected one of {', '.join(_REQUESTS)}, got {request!r}."
            f"{suggestion(str(request), _REQUESTS)}"
        )
    if request == "any":
        return torch.float32 if training_is_float else torch.uint8
    return torch.uint8 if request == "uint8" else torch.float32


def convert_batch(batch: Batch, dtype: torch.dtype) -> Batch:
    """Return the batch with images of this dtype: uint8 in 0 to 255, or float32 in [0, 1].

    >>> batch = Batch(torch.tensor([[[[0, 51, 255]]]], dtype=torch.uint8), torch.tensor([0]), ("a",))
    >>> convert_batch(batch, torch.float32).images.flatten().tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    if batch.images.dtype == dtype:
        return batch
    return replace(batch, images=to_uint8(batch.images) if dtype == torch.uint8 else to_float(batch.images).to(dtype))


def to_uint8(images: Tensor) -> Tensor:
    """Return images as uint8: floats in [0, 1] are scaled to 0 to 255 and rounded, uint8 is returned as it is.

    >>> to_uint8(torch.tensor([0.0, 0.2, 1.0])).tolist()
    [0, 51, 255]
    """
    return images if images.dtype == torch.uint8 else images.mul(255).round_().clamp_(0, 255).to(torch.uint8)
