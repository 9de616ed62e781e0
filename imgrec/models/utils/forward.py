"""Forward passes with temporary changes: modes, meta tensors, frozen batch statistics, the same random numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

T = TypeVar("T")

_NORMS = (nn.modules.batchnorm._NormBase,)


@contextmanager
def preserve_modes(module: nn.Module) -> Iterator[None]:
    """Restore the training or evaluation mode of each submodule on exit.

    >>> network = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
    >>> with preserve_modes(network):
    ...     _ = network.train()
    >>> [part.training for part in network]
    [True, False]
    """
    modes = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Set the whole module to evaluation mode inside the context.

    >>> network = nn.Dropout()
    >>> with evaluating(network):
    ...     network.training
    False
    >>> network.training
    True
    """
    with preserve_modes(module):
        module.eval()
        yield


def run_on_meta(module: nn.Module, run: Callable[[torch.device], T]) -> T:
    """Return the result of ``run`` on a module in evaluation mode with the meta device, which needs no arithmetic.

    If an operator has no meta kernel, ``run`` is called again with the device of the module.

    >>> run_on_meta(nn.Linear(2, 3), lambda device: device.type)
    'meta'
    """
    with evaluating(module):
        try:
            return run(torch.device("meta"))
        except NotImplementedError:
            return run(next(module.parameters()).device)


@contextmanager
def frozen_batch_stats(model: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalization unchanged inside the context.

    Each batch is still normalized by its own statistics. The running statistics thus remain those of the training
    images, without perturbed images and without counting an image twice. A layer in evaluation mode, for example a
    frozen one, uses its running statistics and is not changed. A network with other statistics can define a method of
    this name.

    >>> norm = nn.BatchNorm2d(1)
    >>> with frozen_batch_stats(norm):
    ...     _ = norm(torch.randn(4, 1, 2, 2))
    >>> int(norm.num_batches_tracked), float(norm.running_mean)
    (0, 0.0)
    """
    with ExitStack() as stack:
        method: Any = getattr(model, "frozen_batch_stats", None)
        if callable(method):
            stack.enter_context(method())
        tracking = [
            module
            for module in model.modules()
            if isinstance(module, _NORMS) and module.training and module.track_running_stats
        ]
        for module in tracking:
            module.track_running_stats = False  # the layer normalizes by the batch and updates nothing
        try:
            yield
        finally:
            for module in tracking:
                module.track_running_stats = True


def extra_forward(model: nn.Module, images: Tensor, twice_differentiable: bool = False) -> Tensor:
    """Return the logits of an additional forward pass in the same step, with a new dropout mask.

    Running statistics are unchanged. The gradients are correct under DDP, which reduces them after the backward pass
    through all forward passes.

    Args:
        model: Network from images, uint8 or float in [0, 1], to logits.
        images: Images ``(batch, channels, height, width)``.
        twice_differentiable: ``True`` disables fused attention and compiled code, which have no second derivative.
            Defaults to ``False``.
    """
    with ExitStack() as stack:
        stack.enter_context(frozen_batch_stats(model))
        if twice_differentiable:
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
            if any(module._compiled_call_impl is not None for module in model.modules()):
                stack.enter_context(torch.compiler.set_stance("force_eager"))
        logits: Tensor = model(images)
    return logits


def has_dropout(model: nn.Module) -> bool:
    """Return True if two passes of a network in training mode differ, by dropout or stochastic depth.

    >>> has_dropout(nn.Sequential(nn.Dropout(0.1))), has_dropout(nn.Sequential(nn.Dropout(0.0), nn.BatchNorm2d(3)))
    (True, False)
    """
    return any(_drop_probability(module) > 0 for module in model.modules())


def _drop_probability(module: nn.Module) -> float:
    """Return the drop probability of a layer, recognized by the class names of torch, torchvision and timm."""
    kind = type(module).__name__
    if not isinstance(module, nn.modules.dropout._DropoutNd) and "Drop" not in kind and kind != "StochasticDepth":
        return 0.0
    values = [getattr(module, name, None) for name in ("p", "drop_prob")]
    return max((float(value) for value in values if isinstance(value, int | float)), default=0.0)


@contextmanager
def same_rng(device: torch.device) -> Iterator[None]:
    """Restore the random state on exit, so that the next pass uses the same random numbers and dropout masks."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
