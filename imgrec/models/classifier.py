"""A classifier, normalization included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models.backbone import Backbone, Features


class Classifier(nn.Module):
    """Normalization, backbone and head: images in, logits out.

    Mean and standard deviation are buffers: what was trained is what a checkpoint holds and what is exported.

    Args:
        backbone: gives the pooled features.
        head: ``(batch, feature_dim)`` to logits ``(batch, num_classes)``.
        mean: one value a channel, in units of [0, 1].
        std: one value a channel, likewise.

    Shapes: images ``(batch, channels, height, width)``, uint8 in 0..255 or float in [0, 1].
    """

    mean: Tensor
    std: Tensor
    channels_last: bool = False
    """Whether the backbone is given images that lie pixel by pixel; see :func:`imgrec.models.set_channels_last`."""

    def __init__(self, backbone: Backbone, head: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
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
        """What the backbone gives for images that are not normalized yet."""
        features: Features = self.backbone(self.normalize(images))
        return features

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
        return self.backbone.feature_dim

    @property
    def _order(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.preserve_format
