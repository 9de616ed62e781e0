"""A training step without a Trainer, on images of noise: what is measured before, or instead of, a training."""

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
"""By Lightning's name of a precision, what a step computes in where float32 is not needed."""


@contextmanager
def trial(task: BaseTask, facts: DataFacts, device: torch.device) -> Iterator[BaseTask]:
    """A built copy of a task, without pretrained weights and in training mode, to be thrown away.

    The task itself, and the default generators, are afterwards as they were.

    Args:
        task: not built yet.
        facts: what the data said.
        device: where the copy is.
    """
    cuda = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        made = copy.deepcopy(task)
        # what training starts from may be pruned: it is measured as it is
        start = getattr(made, "start", None)
        starts = made.load_weights and start is not None and not start.partial
        made.facts, made.load_weights, made.channels_last = facts, starts, made.channels_last is True
        made.compiling = False  # it takes longer than all that is measured
        made.log = _discard  # type: ignore[method-assign]  # there is no trainer yet, which Lightning would warn of
        made.configure_model()
        yield made.to(device).train()
    del made
    if cuda:
        torch.cuda.empty_cache()


def _discard(*arguments: object, **options: object) -> None:
    """Log nothing."""


def noise(facts: DataFacts, size: int) -> Batch:
    """So many images of noise, uint8, with classes drawn for them; the same every time."""
    generator = torch.Generator().manual_seed(0)
    side = facts.image_size
    images: Tensor = torch.randint(0, 256, (size, facts.channels, side, side), dtype=torch.uint8, generator=generator)
    targets = torch.randint(0, facts.num_classes, (size,), generator=generator)
    return Batch(images, targets, tuple(map(str, range(size))), keys=torch.arange(size))


def make_step(model: nn.Module, optimizer: Optimizer, objective: Callable[[], Tensor], precision: str) -> None:
    """One step of training: forward, backward, and what the optimizer does; twice where it looks for the worst point.

    Args:
        model: the network.
        optimizer: of its parameters.
        objective: computes what is to become less.
        precision: one of :data:`AUTOCAST`.
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
