"""Classifier: normalization, backbone, neck, pooling and head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.backbones.base import Backbone, Features
from imgrec.models.features.feature_maps import MapBackbone
from imgrec.models.necks.base import Neck
from imgrec.models.pooling import Pooling


class Classifier(nn.Module):
    """Classifier from images to logits: normalization, backbone, neck, pooling and head.

    Mean and standard deviation are buffers, so that checkpoints and exports contain the whole trained model.

    Args:
        backbone: Backbone that returns pooled features, or maps if ``pooling`` is set.
        head: Module from ``(batch, feature_dim)`` to logits ``(batch, num_classes)``.
        mean: Mean per channel, in units of [0, 1].
        std: Standard deviation per channel, in units of [0, 1].
        neck: Module that fuses the maps of the backbone. It requires ``pooling``.
        pooling: Module from maps to features, instead of the pooling of the backbone.

    Shapes: images ``(batch, channels, height, width)``, uint8 in 0..255 or float in [0, 1].

    >>> from imgrec.models import Backbone, LinearHead
    >>> backbone = Backbone(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), 3, (0.5,) * 3, (0.5,) * 3)
    >>> model = Classifier(backbone, LinearHead(3, 2), backbone.mean, backbone.std)
    >>> model(torch.zeros(4, 3, 8, 8, dtype=torch.uint8)).shape
    torch.Size([4, 2])
    """

    mean: Tensor
    std: Tensor
    channels_last: bool = False
    """True if images are converted to the memory format ``channels_last``. See
    :func:`imgrec.models.set_channels_last`."""

    def __init__(
        self,
        backbone: Backbone | MapBackbone,
        head: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        neck: Neck | None = None,
        pooling: Pooling | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.pooling = pooling
        self.head = head
        self.register_buffer("mean", torch.tensor(tuple(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(tuple(std), dtype=torch.float32))
        self.surgery: list[dict[str, Any]] = []
        """Changes of the network after its construction, as plain data. See ``imgrec.compress.surgery``."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits, float ``(batch, num_classes)``."""
        logits: Tensor = self.head(self.features(images).pooled)
        return logits

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the pooled feature vectors, float ``(batch, feature_dim)``."""
        return self.features(images).pooled

    def forward_all(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Return logits, features and auxiliary logits of one pass. Auxiliary logits exist in training only."""
        features = self.features(images)
        return self.head(features.pooled), features.pooled, features.auxiliary

    def features(self, images: Tensor) -> Features:
        """Return the input of the head for images that are not normalized."""
        return extract_features(self.normalize(images), self.backbone, self.neck, self.pooling)

    def normalize(self, images: Tensor) -> Tensor:
        """Return the images in units of [0, 1], minus the mean, divided by the standard deviation."""
        if images.dtype == torch.uint8:
            # one copy and two in-place operations save three passes through memory
            scale, shift = 1 / (255 * self.std), -self.mean / self.std
            pixels = images.to(self.mean.dtype, copy=True, memory_format=self._order)
            return pixels.mul_(scale.view(-1, 1, 1)).add_(shift.view(-1, 1, 1))
        if not images.is_floating_point():
            raise UserError(f"images: expected uint8 in 0..255 or float in [0, 1], got {images.dtype}.")
        pixels = images.to(self.mean.dtype, memory_format=self._order)
        return (pixels - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    @property
    def feature_dim(self) -> int:
        """Length of the input vectors of the head."""
        if self.pooling is not None:
            return self.pooling.feature_dim
        assert isinstance(self.backbone, Backbone)
        return self.backbone.feature_dim

    @property
    def _order(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.preserve_format


def extract_features(
    pixels: Tensor, backbone: Backbone | MapBackbone, neck: Neck | None, pooling: Pooling | None
) -> Features:
    """Return the input of the head for normalized images: the output of the backbone, or its pooled maps."""
    output = backbone(pixels)
    if pooling is None:
        features: Features = output
        return features
    return Features(pooling(output if neck is None else neck(output)))
