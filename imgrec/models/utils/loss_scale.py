"""The loss scale of a training step, for passes that compute gradients of their own."""

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
    """Apply a scale to every :func:`scaled_loss` inside the block; ``None`` applies none."""
    token = _SCALE.set(scale)
    try:
        yield
    finally:
        _SCALE.reset(token)


def scaled_loss(loss: Tensor, images: int) -> Tensor:
    """Return a loss, a sum over images, in the scale of the step, for a gradient whose length does not matter.

    In fp16 the gradients of pixels underflow without a scale. With one, the mean over the images is scaled, as in the
    training step, so that the gradients overflow no earlier than those of the step.

    Args:
        loss: scalar, a sum over the images.
        images: number of images.
    """
    scale = _SCALE.get()
    return loss if scale is None else scale(loss / images)
