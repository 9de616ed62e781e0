"""Gradients of kernel weights that only meet padding on small images, which are set to zero."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.models.utils.forward import evaluating


def clear_blind_gradients(model: nn.Module, channels: int, image_size: int) -> list[str]:
    """Zero the gradient of the weights of 2d convolutions that only meet padding.

    At the end of a network that halves small images often, a 3x3 kernel may be applied to a single pixel. With a stride
    of 2, only its central weight then meets the image. The gradient of the other weights is 0. In bfloat16 on a CPU,
    torch (observed in 2.15) returns uninitialized memory for it, NaN included.

    Args:
        model: Network for images of these channels and of this size or smaller. Hooks are added to the affected
            convolutions, which are few or none.
        channels: Number of channels of the images.
        image_size: Height and width of the images in pixels.

    Returns:
        Names of these convolutions.
    """
    found = []
    for name, (module, (height, width)) in _convolutions(model, channels, image_size).items():
        # half the size, because a schedule of the image size may begin with it
        if module.weight.requires_grad and any(
            _is_blind(_met(module, side, i)) for i, side in enumerate((max(1, height // 2), max(1, width // 2)))
        ):
            guard = _Guard()
            module.register_forward_pre_hook(guard)
            module.weight.register_hook(guard.clear)  # type: ignore[no-untyped-call]
            found.append(name)
    return found


class _Guard:
    """Hooks that find the kernel weights that meet the image, and clear the gradient of the others."""

    def __init__(self) -> None:
        self.met: tuple[tuple[bool, ...], tuple[bool, ...]] = ((), ())

    def __call__(self, module: nn.Conv2d, inputs: tuple[Any, ...]) -> None:
        images = inputs[0]
        is_half = torch.is_autocast_enabled("cpu") or images.dtype != torch.float32
        if is_half and images.device.type == "cpu":
            self.met = _met(module, images.shape[-2], 0), _met(module, images.shape[-1], 1)
        else:
            self.met = (), ()

    def clear(self, gradient: Tensor) -> Tensor:
        """Zero the entries of the gradient that only meet padding, in place."""
        for axis, met in zip((2, 3), self.met, strict=True):
            for tap, meets_image in enumerate(met):
                if not meets_image:
                    gradient.select(axis, tap).zero_()
        return gradient


def _is_blind(met: tuple[bool, ...]) -> bool:
    return not all(met)


def _met(module: nn.Conv2d, side: int, axis: int) -> tuple[bool, ...]:
    if isinstance(module.padding, str) or module.padding_mode != "zeros":
        return ()
    if module.kernel_size[axis] <= 3 and module.stride == (1, 1):  # the kernels of torch for these are correct
        return ()
    return _taps(side, module.kernel_size[axis], module.stride[axis], module.padding[axis], module.dilation[axis])


@lru_cache(maxsize=4096)
def _taps(side: int, kernel: int, stride: int, padding: int, dilation: int) -> tuple[bool, ...]:
    """Return for each tap of a kernel along one axis if it meets the image at any position of the kernel.

    >>> _taps(side=1, kernel=3, stride=2, padding=1, dilation=1), _taps(2, 3, 2, 1, 1)
    ((False, True, False), (False, True, True))
    """
    starts = range(-padding, side + padding - dilation * (kernel - 1), stride)
    return tuple(any(0 <= start + dilation * tap < side for start in starts) for tap in range(kernel))


def _convolutions(model: nn.Module, channels: int, image_size: int) -> dict[str, tuple[nn.Conv2d, tuple[int, int]]]:
    """Return the convolutions with the height and width of their inputs, recorded in a run on meta tensors."""
    found: dict[str, tuple[nn.Conv2d, tuple[int, int]]] = {}
    hooks = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:

            def record(module: nn.Conv2d, inputs: tuple[Any, ...], name: str = name) -> None:
                found[name] = (module, (inputs[0].shape[-2], inputs[0].shape[-1]))

            hooks.append(module.register_forward_pre_hook(record))
    tensors = {n: t.detach().to("meta") for n, t in (*model.named_parameters(), *model.named_buffers())}
    try:
        with evaluating(model), torch.no_grad():
            torch.func.functional_call(
                model, tensors, (torch.empty(2, channels, image_size, image_size, device="meta"),)
            )
    except NotImplementedError:  # an operator without a meta kernel: later layers are not checked
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return found
