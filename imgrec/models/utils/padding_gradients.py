"""Kernels that reach beyond a small image on every side: what their outermost weights are to learn there, nothing."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.models.utils.forward import evaluating


def clear_blind_gradients(model: nn.Module, channels: int, image_size: int) -> list[str]:
    """Keep the gradient at 0 where a weight of a 2d convolution only ever meets padding.

    At the end of a network that halves small images often, a 3x3 kernel may slide over a single pixel: with a stride of
    2, only the weight in its middle meets the image. The gradient of the others is 0; in bfloat16 on a CPU, torch (seen
    with 2.15) leaves there whatever lay in memory, NaN included.

    Args:
        model: takes images of these channels and this size, or smaller ones; hooks are added to its convolutions that
            this may happen to, which are few or none.
        channels: of the images.
        image_size: their side, in pixels.

    Returns:
        The names of those convolutions.
    """
    found = []
    for name, (module, (height, width)) in _convolutions(model, channels, image_size).items():
        # half the size: a schedule of the image size may begin there
        if module.weight.requires_grad and any(
            _is_blind(_met(module, side, i)) for i, side in enumerate((max(1, height // 2), max(1, width // 2)))
        ):
            guard = _Guard()
            module.register_forward_pre_hook(guard)
            module.weight.register_hook(guard.clear)  # type: ignore[no-untyped-call]
            found.append(name)
    return found


class _Guard:
    """Notes which taps of a kernel meet the image on its way forward, and clears the others' gradient."""

    def __init__(self) -> None:
        self.met: tuple[tuple[bool, ...], tuple[bool, ...]] = ((), ())

    def __call__(self, module: nn.Conv2d, given: tuple[Any, ...]) -> None:
        images = given[0]
        half = torch.is_autocast_enabled("cpu") or images.dtype != torch.float32
        if half and images.device.type == "cpu":
            self.met = _met(module, images.shape[-2], 0), _met(module, images.shape[-1], 1)
        else:
            self.met = (), ()

    def clear(self, gradient: Tensor) -> Tensor:
        """The gradient, in place, without what only meets padding."""
        for axis, met in zip((2, 3), self.met, strict=True):
            for tap, sees in enumerate(met):
                if not sees:
                    gradient.select(axis, tap).zero_()
        return gradient


def _is_blind(met: tuple[bool, ...]) -> bool:
    return not all(met)


def _met(module: nn.Conv2d, side: int, axis: int) -> tuple[bool, ...]:
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        return ()
    if module.kernel_size[axis] <= 3 and module.stride == (1, 1):  # torch's kernels for these are right
        return ()
    return _taps(side, module.kernel_size[axis], module.stride[axis], module.padding[axis], module.dilation[axis])


@lru_cache(maxsize=4096)
def _taps(side: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[bool, ...]:
    """Of each tap of a kernel along one axis, whether it meets the image at any place where the kernel lies.

    >>> _taps(side=1, kernel=3, stride=2, padding=1, dilation=1), _taps(2, 3, 2, 1, 1)
    ((False, True, False), (False, True, True))
    """
    places = range(-padding, side + padding - dilation * (kernel - 1), stride)
    return tuple(any(0 <= place + dilation * tap < side for place in places) for tap in range(kernel))


def _convolutions(model: nn.Module, channels: int, image_size: int) -> dict[str, tuple[nn.Conv2d, tuple[int, int]]]:
    """The convolutions with the size of what they are given, found by a pass of meta tensors."""
    found: dict[str, tuple[nn.Conv2d, tuple[int, int]]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:

            def note(module: nn.Conv2d, given: tuple[Any, ...], name: str = name) -> None:
                found[name] = (module, (given[0].shape[-2], given[0].shape[-1]))

            hooks.append(module.register_forward_pre_hook(note))
    tensors = {n: t.detach().to("meta") for n, t in (*model.named_parameters(), *model.named_buffers())}
    try:
        with evaluating(model), torch.no_grad():
            torch.func.functional_call(
                model, tensors, (torch.empty(2, channels, image_size, image_size, device="meta"),)
            )
    except NotImplementedError:  # an operator that has no meta kernel: what comes after it is not looked at
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found
