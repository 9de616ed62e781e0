"""Memory format and compilation of a network."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from imgrec.errors import UserError, suggestion
from imgrec.models.classifier import Classifier
from imgrec.trust import refuse_unless_trusted

Compile = bool | dict[str, Any]
"""``true``, or the arguments of ``torch.compile``."""

_ACCEPTED = ("backend", "dynamic", "fullgraph", "mode", "options")
_BACKENDS = ("aot_eager", "cudagraphs", "eager", "inductor")
"""Backends of torch, which received data may name."""
_MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def set_channels_last(model: nn.Module, channels_last: bool = True) -> None:
    """Set the memory format of the weights of ``model``, in place, and of the images of a :class:`Classifier`.

    Names, shapes and values are unchanged. Convolutions are often faster with ``channels_last``. Their results differ
    in the last digits.

    Args:
        model: Network, which is changed.
        channels_last: ``False`` restores the contiguous format. Defaults to ``True``.

    >>> convolution = nn.Conv2d(3, 8, 3)
    >>> set_channels_last(convolution)
    >>> convolution.weight.is_contiguous(memory_format=torch.channels_last), convolution.weight.shape
    (True, torch.Size([8, 3, 3, 3]))
    """
    order = torch.channels_last if channels_last else torch.contiguous_format
    for module in model.modules():
        if isinstance(module, Classifier):
            module.channels_last = channels_last
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.dim() == 4 and tensor.is_floating_point():
                tensor.data = tensor.data.contiguous(memory_format=order)


def check_compile(value: Compile, where: str = "model.compile") -> None:
    """Raise the errors of ``torch.compile`` at the first batch that follow from the arguments alone.

    Raises:
        UserError: If an argument or a mode is unknown, or if both ``mode`` and ``options`` are set.
    """
    if isinstance(value, bool):
        return
    for key in ("backend", "options"):
        if value.get(key) not in (None, *_BACKENDS):
            refuse_unless_trusted(f"{where}.{key}: got {value[key]!r}", "torch.compile may run the program in it")
    for key in value:
        if key not in _ACCEPTED:
            raise UserError(f'{where}: torch.compile has no argument "{key}".{suggestion(key, _ACCEPTED)}')
    mode = value.get("mode", "default")
    if mode not in _MODES:
        raise UserError(
            f"{where}.mode: expected one of {', '.join(_MODES)}, got {mode!r}.{suggestion(str(mode), _MODES)}"
        )
    if "mode" in value and "options" in value:
        raise UserError(f"{where}: expected `mode` or `options`, got both.")


def compile_network(model: nn.Module, value: Compile) -> None:
    """Enable the compilation of ``model`` at its first batch, of a :class:`Classifier` without pooling and head.

    Modules and parameters keep their names. A checkpoint therefore loads with and without compilation, and copies,
    resumed runs and exports are unchanged.

    >>> network = nn.Linear(2, 2)
    >>> compile_network(network, {"mode": "reduce-overhead"})
    >>> list(network.state_dict())
    ['weight', 'bias']
    """
    if value is False:
        return
    parts: list[nn.Module | None] = [model]
    if isinstance(model, Classifier):  # a MapBackbone calls the stages of its network, not the network itself
        parts = [model.backbone.network if model.pooling is None else model.backbone, model.neck]
    for part in parts:
        if part is not None:
            part.compile(**({} if value is True else value))
