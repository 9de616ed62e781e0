"""Batch normalization of a training batch of one image: it has no variance at maps of 1 x 1."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from imgrec.errors import UserError
from imgrec.models.utils.forward import preserve_modes
from imgrec.types import DataFacts

MESSAGE = "Expected more than 1 value per channel when training"
"""The beginning of torch's message."""


def refuse_single_image(model: nn.Module, facts: DataFacts | None, loader: Any) -> None:
    """Refuse batches of one image if the network normalizes single values; it is tried out on meta tensors.

    Args:
        model: The network, on any device.
        facts: The facts of the data; without them nothing is tried.
        loader: The training loader: ``batch_size``, ``drop_last`` and the length of ``sampler`` are read.

    Raises:
        UserError: If a batch of the loader has one image, and batch normalization cannot take it.
    """
    if facts is None or smallest_batch(loader) != 1:
        return
    try:
        with preserve_modes(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
            model.train()
            tensors = {
                n: torch.empty_like(t, device="meta") for n, t in (*model.named_parameters(), *model.named_buffers())
            }
            image = torch.empty(1, facts.channels, facts.image_size, facts.image_size, device="meta")
            torch.func.functional_call(model, tensors, (image,))
    except ValueError as error:
        if MESSAGE in str(error):
            raise single_image_error() from error
    except Exception:  # a network that cannot be tried out: the training step finds out
        return


def smallest_batch(loader: Any) -> int | None:
    """Return the number of images in the smallest batch of a loader; ``None`` if its attributes do not give it.

    >>> from torch.utils.data import DataLoader
    >>> smallest_batch(DataLoader(range(5), batch_size=2))
    1
    >>> smallest_batch(DataLoader(range(5), batch_size=2, drop_last=True))
    2
    """
    size: Any = getattr(loader, "batch_size", None)
    sampler: Any = getattr(loader, "sampler", None)
    if not isinstance(size, int) or not hasattr(sampler, "__len__"):
        return None
    rest: int = len(sampler) % size
    return rest if rest and not getattr(loader, "drop_last", False) else size


def single_image_error() -> UserError:
    """Return the message for a batch that batch normalization cannot take."""
    return UserError(
        "data.batch_size: expected batches of 2 images or more, got one of 1: batch normalization has one value for "
        "each channel there, at maps of 1 x 1. Set a larger data.batch_size or data.image_size, or replace the layers: "
        "model.edits: {name: swap_norm, to: group}."
    )
