"""Simplification of networks: parametrized weights become ordinary ones, and unused modules are removed."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from imgrec.models.utils.forward import run_on_meta


def fold_weights(network: nn.Module, kind: type[nn.Module]) -> None:
    """Replace layers whose weight a parametrization of class ``kind`` computes by ordinary layers, in place.

    The function of torch removes the weight from the class, which copies of a layer share. The layer must have no other
    parametrization.

    >>> from torch.nn.utils.parametrizations import _WeightNorm, weight_norm
    >>> network = nn.Sequential(weight_norm(nn.Linear(2, 2)))
    >>> fold_weights(network, _WeightNorm)
    >>> list(network.state_dict())
    ['0.weight', '0.bias']
    """
    for layer in network.modules():
        if not parametrize.is_parametrized(layer, "weight"):
            continue
        parametrizations = layer.get_submodule("parametrizations.weight")
        if not any(isinstance(each, kind) for each in parametrizations.children()):
            continue
        weight: Tensor = layer.weight.detach().clone()  # type: ignore[operator]
        is_trainable = any(each.requires_grad for each in parametrizations.parameters(recurse=False))
        del layer._modules["parametrizations"]
        layer.__class__ = type(layer).__mro__[1]
        others = dict(layer._parameters)
        layer._parameters.clear()
        layer._parameters.update({"weight": nn.Parameter(weight, is_trainable), **others})


def remove_unused_modules(model: nn.Module, in_channels: int, image_size: int) -> list[str]:
    """Replace each module that the outputs of ``model`` do not depend on by an identity.

    Unused parameters of used modules, for example a class token without a later use, are frozen. The used ones are
    found by a backward pass on meta tensors if possible, which needs no arithmetic and changes no tensor.

    Args:
        model: Network that returns a tensor or a tuple of tensors. It is changed in place.
        in_channels: Number of channels of the images.
        image_size: Height and width of the images in pixels.

    Returns:
        Names of the replaced modules and of the frozen parameters.

    >>> network = nn.ModuleDict({"used": nn.Conv2d(3, 4, 1), "unused": nn.Linear(4, 2)})
    >>> network.forward = lambda images: network.used(images)
    >>> remove_unused_modules(network, 3, 8), network.unused
    (['unused'], Identity())
    """
    used, called = _in_use(model, in_channels, image_size)
    found: list[str] = []
    for name, module in list(model.named_modules()):
        is_removed = any(name.startswith(f"{each}.") for each in found)
        state = (*module.named_parameters(), *module.named_buffers())
        if not name or is_removed or not state or any(each in called for each in module.modules()):
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
    """Return the names of the parameters that receive a gradient, and the modules that are called."""
    called: set[nn.Module] = set()
    hooks = [module.register_forward_hook(partial(_record_call, called)) for module in model.modules()]
    try:
        sizes = (2, in_channels, image_size, image_size)
        return run_on_meta(model, lambda device: _with_gradient(model, device, sizes)), called
    finally:
        for hook in hooks:
            hook.remove()


def _with_gradient(model: nn.Module, device: torch.device, sizes: tuple[int, ...]) -> set[str]:
    parameters = {n: p.detach().to(device).requires_grad_() for n, p in model.named_parameters()}
    buffers = {n: b.detach().to(device) for n, b in model.named_buffers()}
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        result: Any = torch.func.functional_call(model, parameters | buffers, (torch.zeros(sizes, device=device),))
        outputs: tuple[Tensor, ...] = (result,) if isinstance(result, Tensor) else tuple(result)
        total = torch.stack([output.float().sum() for output in outputs]).sum()
        gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
    return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


def _record_call(called: set[nn.Module], module: nn.Module, inputs: Any, output: Any) -> None:
    called.add(module)
