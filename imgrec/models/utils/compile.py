"""How images and weights lie in memory: channel by channel, or pixel by pixel (channels last)."""

from __future__ import annotations

import torch
from torch import nn

from imgrec.models.classifier import Classifier


def set_channels_last(model: nn.Module, channels_last: bool = True) -> None:
    """Let the weights of ``model``, in place, and what a :class:`Classifier` gives its backbone, lie pixel by pixel.

    Names, shapes and values stay as they are, and so does the state dict but for its strides. Only the order in memory
    changes: convolutions are often faster with it, and round otherwise in the last digits.

    Args:
        model: any network; it is changed.
        channels_last: ``False`` brings the usual order back.

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
