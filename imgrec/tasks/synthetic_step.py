"""A training step without a Trainer on random images, for measurements of time and memory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from imgrec.optim.optimizers.sam import sharpness_aware
from imgrec.tasks.base import BaseTask
from imgrec.tasks.sam_step import sam_loss
from imgrec.types import Batch, DataFacts

AUTOCAST: dict[str, torch.dtype | None] = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""Type of autocast by the name of a precision in Lightning, ``None`` without autocast."""


@contextmanager
def temporary_copy(task: BaseTask, facts: DataFacts, device: torch.device) -> Iterator[BaseTask]:
    """Yield a built copy of a task in training mode without pretrained weights.

    The task and the states of the default generators do not change.

    Args:
        task: Task that is not built yet.
        facts: Facts of the data.
        device: Device of the copy.
    """
    cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        copied = copy.deepcopy(task)
        # the initial classifier is loaded, because its pruned shapes determine the cost
        initial = getattr(copied, "initial_weights", None)
        loads = copied.load_weights and initial is not None and not initial.partial
        copied.facts, copied.load_weights, copied.channels_last = facts, loads, copied.channels_last is True
        copied.compiling = False  # compilation takes longer than the measurement
        copied.log = _discard  # type: ignore[method-assign]  # Lightning emits a warning for log() without a trainer
        copied.configure_model()
        yield copied.to(device).train()
    del copied
    if cuda:
        torch.cuda.empty_cache()


def _discard(*arguments: object, **options: object) -> None:
    """Ignore a logged value."""


def random_batch(facts: DataFacts, size: int) -> Batch:
    """Return a batch of ``size`` random uint8 images and random classes, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    side = facts.image_size
    images: Tensor = torch.randint(0, 256, (size, facts.channels, side, side), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, facts.num_classes, (size,), generator=generator)
    return Batch(images, targets, tuple(map(str, range(size))), keys=torch.arange(size))


def make_step(model: nn.Module, optimizer: Optimizer, objective: Callable[[], Tensor], precision: str) -> None:
    """Run one training step: forward pass, backward pass and optimizer step, with two passes for SAM.

    Args:
        model: Model.
        optimizer: Optimizer of its parameters.
        objective: Function that computes the loss.
        precision: Key of :data:`AUTOCAST`.
    """
    sharp = sharpness_aware(optimizer)
    kind = next(model.parameters()).device.type
    with torch.autocast(kind, AUTOCAST[precision], enabled=AUTOCAST[precision] is not None):
        loss = objective() if sharp is None else sam_loss(sharp, model, objective, objective)
    torch.autograd.backward(loss)
    if sharp is not None:
        sharp.restore()
    optimizer.step()
    optimizer.zero_grad()
