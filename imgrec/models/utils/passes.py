"""Further passes of a network within one training step: other views, perturbed images, gradients of the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

_NORMS = (nn.modules.batchnorm._NormBase,)


@contextmanager
def frozen_batch_stats(model: nn.Module) -> Iterator[None]:
    """Within, a pass in training leaves batch normalization's running statistics as they are.

    Each batch is normalized by its own statistics, as ever; they are just not learnt from. So what a network is
    evaluated with stays that of the images it is trained on, and not of perturbed ones, and nothing counts twice. A
    layer in evaluation mode, a frozen one say, uses its running statistics and is left alone. A network that keeps
    other statistics offers a method of this name that does the same for them.

    >>> norm = nn.BatchNorm2d(1)
    >>> with frozen_batch_stats(norm):
    ...     _ = norm(torch.randn(4, 1, 2, 2))
    >>> int(norm.num_batches_tracked), float(norm.running_mean)
    (0, 0.0)
    """
    with ExitStack() as stack:
        own: Any = getattr(model, "frozen_batch_stats", None)
        if callable(own):
            stack.enter_context(own())
        learning = [
            module
            for module in model.modules()
            if isinstance(module, _NORMS) and module.training and module.track_running_stats
        ]
        for module in learning:
            module.track_running_stats = False  # such a layer normalizes by the batch, and has nothing to update
        try:
            yield
        finally:
            for module in learning:
                module.track_running_stats = True


def extra_forward(model: nn.Module, images: Tensor, twice_differentiable: bool = False) -> Tensor:
    """The logits of one more pass in the same step: other dropout, no trace in running statistics.

    Under DDP it is called within the step, and gradients come out right: they are gathered when backward has added up
    those of all passes.

    Args:
        model: takes images, uint8 or float in [0, 1], and gives logits.
        images: ``(batch, channels, height, width)``.
        twice_differentiable: the result's gradient is to be differentiated once more. Kernels that cannot be, of
            attention and of compiled networks, are left alone then.
    """
    with ExitStack() as stack:
        stack.enter_context(frozen_batch_stats(model))
        if twice_differentiable:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if any(module._compiled_call_impl is not None for module in model.modules()):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
        logits: Tensor = model(images)
    return logits


def drops(model: nn.Module) -> bool:
    """Whether two passes of a network in training differ: dropout, or stochastic depth, with a chance above 0.

    >>> drops(nn.Sequential(nn.Dropout(0.1))), drops(nn.Sequential(nn.Dropout(0.0), nn.BatchNorm2d(3)))
    (True, False)
    """
    return any(_chance(module) > 0 for module in model.modules())


def _chance(module: nn.Module) -> float:
    """The chance that a layer drops something; layers that do so are known by the library that they come from."""
    kind = type(module).__name__
    if not isinstance(module, nn.modules.dropout._DropoutNd) and "Drop" not in kind and kind != "StochasticDepth":
        return 0.0
    chances = [getattr(module, name, None) for name in ("p", "drop_prob")]
    return max((float(chance) for chance in chances if isinstance(chance, int | float)), default=0.0)


@contextmanager
def same_rng(device: torch.device) -> Iterator[None]:
    """Within, random numbers are drawn that the next pass will draw again: two passes with the same dropout."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
