"""A classifier: everything from normalization to logits."""

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
    """Normalization, backbone, neck, pooling and head: images in, logits out.

    Mean and standard deviation are buffers: what was trained is what a checkpoint holds and what is exported.

    Args:
        backbone: gives the pooled features; with ``pooling``, maps.
        head: ``(batch, feature_dim)`` to logits ``(batch, num_classes)``.
        mean: one value a channel, in units of [0, 1].
        std: one value a channel, likewise.
        neck: fuses the backbone's maps; it needs ``pooling``.
        pooling: makes the features out of maps, in the place of the backbone's own.

    Shapes: images ``(batch, channels, height, width)``, uint8 in 0..255 or float in [0, 1].
    """

    mean: Tensor
    std: Tensor
    channels_last: bool = False
    """Whether the backbone is given images that lie pixel by pixel; see :func:`imgrec.models.set_channels_last`."""

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
        """What changed the network after its specs built it, as plain data; see ``imgrec.compress.surgery``."""

    def forward(self, images: Tensor) -> Tensor:
        """The logits, float ``(batch, num_classes)``."""
        logits: Tensor = self.head(self.features(images).pooled)
        return logits

    def forward_features(self, images: Tensor) -> Tensor:
        """The pooled feature vectors, float ``(batch, feature_dim)``."""
        return self.features(images).pooled

    def forward_all(self, images: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """Logits, features and auxiliary logits (none outside training) of one pass."""
        features = self.features(images)
        return self.head(features.pooled), features.pooled, features.auxiliary

    def features(self, images: Tensor) -> Features:
        """What the head is given for images that are not normalized yet."""
        return describe(self.normalize(images), self.backbone, self.neck, self.pooling)

    def normalize(self, images: Tensor) -> Tensor:
        """The images as the backbone expects them: in units of [0, 1], minus the mean, over the standard deviation."""
        if images.dtype == torch.uint8:
            # a copy, then twice in place: three passes of reading and writing less than the formula
            scale, shift = 1 / (255 * self.std), -self.mean / self.std
            pixels = images.to(self.mean.dtype, copy=True, memory_format=self._order)
            return pixels.mul_(scale.view(-1, 1, 1)).add_(shift.view(-1, 1, 1))
        if not images.is_floating_point():
            raise UserError(f"images must be uint8 in 0..255 or float in [0, 1], got {images.dtype}")
        pixels = images.to(self.mean.dtype, memory_format=self._order)
        return (pixels - self.mean.view(-1, 1, 1)) / self.std.view(-1, 1, 1)

    @property
    def feature_dim(self) -> int:
        """The length of the vectors that the head is given."""
        if self.pooling is not None:
            return self.pooling.feature_dim
        assert isinstance(self.backbone, Backbone)
        return self.backbone.feature_dim

    @property
    def _order(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.preserve_format


def describe(pixels: Tensor, backbone: Backbone | MapBackbone, neck: Neck | None, pooling: Pooling | None) -> Features:
    """What the head is given for normalized images: what the backbone says itself, or what is pooled from its maps."""
    given = backbone(pixels)
    if pooling is None:
        features: Features = given
        return features
    return Features(pooling(given if neck is None else neck(given)))
