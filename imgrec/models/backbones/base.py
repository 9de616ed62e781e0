"""What a backbone is, and the trial run that tells whether it can take the images it is built for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.backbones.arguments import reason
from imgrec.models.utils.forward import preserve_modes


class Features(NamedTuple):
    """What a backbone gives for a batch of images.

    Shapes: ``pooled`` float ``(batch, feature_dim)``; ``auxiliary`` logits, each ``(batch, num_classes)``, of an
    architecture with auxiliary classifiers, in training only.
    """

    pooled: Tensor
    auxiliary: tuple[Tensor, ...] = ()


class Backbone(nn.Module):
    """A network without its classifier: normalized images in, one feature vector an image out.

    Args:
        network: gives pooled features ``(batch, feature_dim)``, or a tuple of them and auxiliary logits (``None``
            where there are none).
        feature_dim: the length of the feature vector.
        mean: the mean, one value an input channel, in units of [0, 1], of the preprocessing it was trained with.
        std: the standard deviation, likewise.

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
        """The features of normalized images, float ``(batch, channels, height, width)``."""
        given = self.network(images)
        if isinstance(given, tuple):
            return Features(given[0], tuple(logits for logits in given[1:] if logits is not None))
        return Features(given)


def probe_feature_dim(network: nn.Module, title: str, in_channels: int, image_size: int, hint: str = "") -> int:
    """The length of the feature vector that ``network`` gives for images of this size, found by a trial run.

    The trial runs on meta tensors, in evaluation and in training mode: it costs no arithmetic, draws no random number
    and leaves the network as it was. ``title`` names the network in messages; ``hint`` ends the one about images that
    it cannot take.

    Raises:
        UserError: the network cannot take such images, or what it gives is not one vector an image.
    """
    try:
        with preserve_modes(network):
            shape = _shape(network.eval(), in_channels, image_size)
            if shape is not None:
                _shape(network.train(), in_channels, image_size)
            else:  # an operator without a meta kernel: the real thing, once
                shape = _real_shape(network.eval(), in_channels, image_size)
    except Exception as error:  # whatever a network raises on images it cannot take
        raise UserError(
            f"{title} does not accept images of {image_size} x {image_size} pixels with {in_channels} channel(s): "
            f"{reason(error)}. Another data.image_size, another backbone or other arguments are needed.{hint}"
        ) from error
    if len(shape) != 2:
        raise UserError(
            f"{title} gives features of shape {('batch', *shape[1:])} where one vector an image is "
            "expected: its arguments switch the pooling off."
        )
    return shape[1]


def _shape(network: nn.Module, in_channels: int, image_size: int) -> tuple[int, ...] | None:
    tensors = {n: t.detach().to("meta") for n, t in (*network.named_parameters(), *network.named_buffers())}
    images = torch.empty(2, in_channels, image_size, image_size, device="meta")
    try:
        with torch.no_grad():
            given = torch.func.functional_call(network, tensors, (images,))
    except NotImplementedError:
        return None
    return tuple((given[0] if isinstance(given, tuple) else given).shape)


def _real_shape(network: nn.Module, in_channels: int, image_size: int) -> tuple[int, ...]:
    first = next(network.parameters())
    images = torch.zeros(2, in_channels, image_size, image_size, device=first.device, dtype=first.dtype)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        given = network(images)
    return tuple((given[0] if isinstance(given, tuple) else given).shape)
