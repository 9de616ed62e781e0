"""Construction of backbones from the networks of imgrec for images of 32 pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from imgrec.models.backbones.base import Backbone, probe_feature_dim
from imgrec.models.normalization import for_channels
from imgrec.models.pretrained.loading import check_architecture, check_weights_architecture, load_exactly, read_weights

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Statistics of CIFAR-10, in units of [0, 1]."""


def build_backbone(
    network: nn.Module, name: str, weights: str | None, load_weights: bool, in_channels: int, image_size: int
) -> Backbone:
    """Return a network as a backbone, with the weights of a model folder if they are given.

    Args:
        network: Network without a classifier.
        name: Name of the architecture.
        weights: Model folder or safetensors file, or ``None``.
        load_weights: ``False`` skips ``weights``.
        in_channels: Number of channels of the images.
        image_size: Height and width of the images in pixels.

    Raises:
        UserError: If the weights are missing, of another architecture, or do not fit, or if the images are too small.
    """
    mean, std = MEAN, STD
    if weights is not None and load_weights:
        loaded = read_weights(weights)
        check_weights_architecture(loaded, name)
        load_exactly(network, loaded.state, f"the weights at {loaded.path}")
        mean, std = loaded.config.get("mean", mean), loaded.config.get("std", std)
    dim = probe_feature_dim(network, f'the backbone "{name}"', in_channels, image_size)
    return Backbone(network, dim, for_channels(mean, in_channels), for_channels(std, in_channels))


def make_weights_check(name: str) -> Callable[..., None]:
    """Return a function that checks the argument ``weights`` of one architecture without building it."""

    def check_weights(weights: str | None = None, **_: Any) -> None:
        """Raise an error if ``weights`` are missing or of another architecture."""
        if weights is not None:
            check_architecture(weights, name)

    return check_weights
