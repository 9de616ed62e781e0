"""Loss scale of a training step, for additional backward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

Scale = Callable[[Tensor], Tensor]
"""A function of a loss that returns its multiple, such as ``torch.amp.GradScaler.scale``."""

_SCALE: ContextVar[Scale | None] = ContextVar("imgrec_loss_scale", default=None)


@contextmanager
def scaled_losses(scale: Scale | None) -> Iterator[None]:
    """Apply a scale to every :func:`scaled_loss` inside the context. ``None`` applies no scale."""
    token = _SCALE.set(scale)
    try:
        yield
    finally:
        _SCALE.reset(token)


def scaled_loss(loss: Tensor, images: int) -> Tensor:
    """Return a loss, a sum over images, in the scale of the step, for a gradient of which only the direction is used.

    In fp16 the gradients of pixels underflow without a scale. With a scale, the mean over the images is scaled, as in
    the training step. The gradients then overflow no earlier than those of the step.

    Args:
        loss: Scalar, a sum over the images.
        images: Number of images.
    """
    scale = _SCALE.get()
    return loss if scale is None else scale(loss / images)
