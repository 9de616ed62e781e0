"""Checks that a model matches its data, its batches and a checkpoint, before anything is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.utils.forward import preserve_modes
from imgrec.types import DataFacts

SINGLE_IMAGE_MESSAGE = "Expected more than 1 value per channel when training"
"""First words of the message of torch for batch normalization of one value."""


def check_same_classes(trained: DataFacts, data: DataFacts, owner: str) -> None:
    """Check that the classes and channels of the data are those that a model was trained on.

    Args:
        trained: Facts of the training data of the model.
        data: Facts of the data.
        owner: Description of the model in the message.

    Raises:
        UserError: If the classes, their order, or the number of channels differ.
    """
    if trained.class_names != data.class_names:
        raise UserError(
            f"{owner} was trained on {_classes(trained)}, the data has {_classes(data)}. "
            "Use data with the same classes in the same order."
        )
    if trained.channels != data.channels:
        raise UserError(f"{owner}: expected images of {trained.channels} channel(s), got {data.channels}.")


def _classes(facts: DataFacts, max_shown: int = 5) -> str:
    shown = ", ".join(facts.class_names[:max_shown]) + (", ..." if facts.num_classes > max_shown else "")
    return f"{facts.num_classes} classes ({shown})"


def check_state_dict(loaded: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Check that the tensors of a checkpoint have the names and shapes of those of a task.

    Args:
        loaded: State dict of the checkpoint.
        expected: State dict of the task.

    Raises:
        UserError: If a name is missing or unexpected, or if a shape differs.
    """
    shapes = {k: tuple(v.shape) for k, v in loaded.items()}
    missing, unexpected = sorted(expected.keys() - shapes.keys()), sorted(shapes.keys() - expected.keys())
    other = sorted(k for k in expected.keys() & shapes.keys() if tuple(expected[k].shape) != shapes[k])
    if not (missing or unexpected or other):
        return
    found = []
    if other:
        key = other[0]
        shape = tuple(expected[key].shape)
        found.append(f"{len(other)} have another shape (first: {key} {shapes[key]}, expected {shape})")
    if missing:
        found.append(f"{len(missing)} are missing (first: {missing[0]})")
    if unexpected:
        found.append(f"{len(unexpected)} are unknown (first: {unexpected[0]})")
    if all(name.startswith(("loss.", "regularizers.")) for name in (*missing, *unexpected, *other)):
        raise UserError(
            "The checkpoint was trained with another loss or other regularizers. Of their tensors, "
            f"{', '.join(found)}. To start from its model only, set model.init_from to its path."
        )
    raise UserError(f"The checkpoint is of another architecture. Of its {len(shapes)} tensors, {', '.join(found)}.")


def check_smallest_batch(model: nn.Module, facts: DataFacts | None, loader: Any) -> None:
    """Check that batch normalization accepts the smallest training batch, by a forward pass on meta tensors.

    Args:
        model: Model, on any device.
        facts: Facts of the data. Without them nothing is checked.
        loader: Training loader. Its ``batch_size``, ``drop_last`` and the length of its ``sampler`` are read.

    Raises:
        UserError: If a batch has one image and a layer normalizes one value per channel.
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
        if SINGLE_IMAGE_MESSAGE in str(error):
            raise single_image_error() from error
    except Exception:  # the model does not support meta tensors, so that the training step reports the error
        return


def smallest_batch(loader: Any) -> int | None:
    """Return the number of images in the smallest batch of a loader, or ``None`` if its attributes are missing.

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
    """Return the error for a batch of one image that batch normalization does not accept."""
    return UserError(
        "data.batch_size: expected batches of 2 images or more, got one of 1. Batch normalization of maps of 1 x 1 has "
        "one value per channel there. Set a larger data.batch_size or data.image_size, or replace the layers: "
        "model.edits: {name: swap_norm, to: group}."
    )
