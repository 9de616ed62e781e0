"""Layers that what a network gives does not depend on."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.models.utils.forward import run_on_meta


def remove_unused(model: nn.Module, in_channels: int, image_size: int) -> list[str]:
    """Put an identity in the place of each module that plays no part in what ``model`` gives for images.

    A parameter that plays no part in a module that does, a class token whose last use was taken away say, stays, and is
    frozen. What plays a part is found by a backward pass on meta tensors, where that goes: it costs no arithmetic and
    leaves every tensor as it was.

    Args:
        model: gives a tensor or a tuple of tensors; it is changed in place.
        in_channels: of the images.
        image_size: their side, in pixels.

    Returns:
        The names of the modules that were replaced, and of the parameters that were frozen.

    >>> network = nn.ModuleDict({"used": nn.Conv2d(3, 4, 1), "unused": nn.Linear(4, 2)})
    >>> network.forward = lambda images: network.used(images)
    >>> remove_unused(network, 3, 8), network.unused
    (['unused'], Identity())
    """
    used, run = _in_use(model, in_channels, image_size)
    found: list[str] = []
    for name, module in list(model.named_modules()):
        inside = any(name.startswith(f"{each}.") for each in found)
        state = (*module.named_parameters(), *module.named_buffers())
        if not name or inside or not state or any(each in run for each in module.modules()):
            continue
        if not any(f"{name}.{each}" in used for each, _ in module.named_parameters()):
            model.set_submodule(name, nn.Identity())
            found.append(name)
    for name, parameter in model.named_parameters():
        if name not in used and parameter.requires_grad:
            parameter.requires_grad_(False)
            found.append(name)
    return found


def _in_use(model: nn.Module, in_channels: int, image_size: int) -> tuple[set[str], set[nn.Module]]:
    """The names of the parameters that have a gradient, and the modules that are called."""
    run: set[nn.Module] = set()
    hooks = [module.register_forward_hook(partial(_note, run)) for module in model.modules()]
    try:
        sizes = (2, in_channels, image_size, image_size)
        return run_on_meta(model, lambda device: _with_gradient(model, device, sizes)), run
    finally:
        for hook in hooks:
            hook.remove()


def _with_gradient(model: nn.Module, device: torch.device, sizes: tuple[int, ...]) -> set[str]:
    parameters = {n: p.detach().to(device).requires_grad_() for n, p in model.named_parameters()}
    buffers = {n: b.detach().to(device) for n, b in model.named_buffers()}
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        given: Any = torch.func.functional_call(model, parameters | buffers, (torch.zeros(sizes, device=device),))
        outputs: tuple[Tensor, ...] = (given,) if isinstance(given, Tensor) else tuple(given)
        total = torch.stack([output.float().sum() for output in outputs]).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _note(run: set[nn.Module], module: nn.Module, given: Any, output: Any) -> None:
    run.add(module)
