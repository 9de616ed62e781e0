"""Base class of backbones, and a run that determines their feature dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.backbones.arguments import reason
from imgrec.models.utils.forward import preserve_modes


class Features(NamedTuple):
    """Output of a backbone for a batch of images.

    Shapes: ``pooled`` float ``(batch, feature_dim)``. ``auxiliary`` logits, each ``(batch, num_classes)``, of an
    architecture with auxiliary classifiers, in training only.
    """

    pooled: Tensor
    auxiliary: tuple[Tensor, ...] = ()


class Backbone(nn.Module):
    """A network without its classifier, from normalized images to one feature vector per image.

    Args:
        network: Network that returns pooled features ``(batch, feature_dim)``, or a tuple of them and auxiliary logits,
            which may be ``None``.
        feature_dim: Length of the feature vector.
        mean: Mean per input channel of the preprocessing in pretraining, in units of [0, 1].
        std: Standard deviation per input channel, in units of [0, 1].

    >>> network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> Backbone(network, 3, (0.5,) * 3, (0.5,) * 3)(torch.zeros(2, 3, 8, 8)).pooled.shape
    torch.Size([2, 3])
    """

    def __init__(self, network: nn.Module, feature_dim: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.feature_dim = feature_dim
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)

    def forward(self, images: Tensor) -> Features:
        """Return the features of normalized images, float ``(batch, channels, height, width)``."""
        output = self.network(images)
        if isinstance(output, tuple):
            return Features(output[0], tuple(logits for logits in output[1:] if logits is not None))
        return Features(output)


def probe_feature_dim(network: nn.Module, title: str, in_channels: int, image_size: int, hint: str = "") -> int:
    """Return the length of the feature vector of ``network`` for images of this size.

    The network runs on meta tensors in evaluation and in training mode. This needs no arithmetic and no random numbers,
    and does not change the network.

    Args:
        network: Network without its classifier.
        title: Name of the network for messages.
        in_channels: Number of channels of the images.
        image_size: Height and width of the images in pixels.
        hint: Text at the end of the message about images that the network does not accept.

    Raises:
        UserError: If the network does not accept such images, or does not return one vector per image.
    """
    try:
        with preserve_modes(network):
            shape = _shape(network.eval(), in_channels, image_size)
            if shape is not None:
                _shape(network.train(), in_channels, image_size)
            else:  # an operator without a meta kernel
                shape = _real_shape(network.eval(), in_channels, image_size)
    except Exception as error:  # networks raise different errors for invalid images
        raise UserError(
            f"{title} does not accept images of {image_size} x {image_size} pixels with {in_channels} channel(s): "
            f"{reason(error)}. Change data.image_size, the backbone or its arguments.{hint}"
        ) from error
    if len(shape) != 2:
        raise UserError(
            f"{title}: expected features of shape (batch, feature_dim), got {('batch', *shape[1:])}. "
            "Its arguments disable the pooling."
        )
    return shape[1]


def _shape(network: nn.Module, in_channels: int, image_size: int) -> tuple[int, ...] | None:
    tensors = {n: t.detach().to("meta") for n, t in (*network.named_parameters(), *network.named_buffers())}
    images = torch.empty(2, in_channels, image_size, image_size, device="meta")
    try:
        with torch.no_grad():
            output = torch.func.functional_call(network, tensors, (images,))
    except NotImplementedError:
        return None
    return tuple((output[0] if isinstance(output, tuple) else output).shape)


def _real_shape(network: nn.Module, in_channels: int, image_size: int) -> tuple[int, ...]:
    first = next(network.parameters())
    images = torch.zeros(2, in_channels, image_size, image_size, device=first.device, dtype=first.dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        output = network(images)
    return tuple((output[0] if isinstance(output, tuple) else output).shape)
