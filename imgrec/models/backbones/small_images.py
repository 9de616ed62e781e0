"""What imgrec's own networks for images of 32 pixels share: normalization, weights, and how they become backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from imgrec.models.backbones.base import Backbone, probe_feature_dim
from imgrec.models.normalization import for_channels
from imgrec.models.pretrained.loading import check_architecture, load_exactly, read_weights, refuse_other_architecture

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""CIFAR-10's, in units of [0, 1]."""


def as_backbone(
    network: nn.Module, name: str, weights: str | None, load_weights: bool, in_channels: int, image_size: int
) -> Backbone:
    """A network as a backbone, with the weights of a model folder where these are given.

    Raises:
        UserError: the weights are missing, of another architecture, or do not fit; the images are too small.
    """
    mean, std = MEAN, STD
    if weights is not None and load_weights:
        given = read_weights(weights)
        refuse_other_architecture(given, name)
        load_exactly(network, given.state, f"the weights at {given.path}")
        mean, std = given.config.get("mean", mean), given.config.get("std", std)
    dim = probe_feature_dim(network, f'the backbone "{name}"', in_channels, image_size)
    return Backbone(network, dim, for_channels(mean, in_channels), for_channels(std, in_channels))


def weights_of(name: str) -> Callable[..., None]:
    """A check of ``weights`` for one architecture, without building anything."""

    def check_weights(weights: str | None = None, **_: Any) -> None:
        """Raise :class:`UserError` where ``weights`` are missing or of another architecture."""
        if weights is not None:
            check_architecture(weights, name)

    return check_weights
