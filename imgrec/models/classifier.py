"""A classifier, normalization included, and how it is built from specs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from imgrec.errors import SpecError, UserError
from imgrec.models.backbone import Backbone, Features
from imgrec.models.catalogue import BACKBONES
from imgrec.models.heads import HEADS
from imgrec.models.normalize import Normalize, check_normalize, resolve_normalize
from imgrec.registry import Spec
from imgrec.types import DataFacts

_FACTS = ("num_classes", "class_names", "class_counts", "image_size", "in_channels", "load_weights")


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


def check_classifier(
    backbone: Spec, head: Spec, normalize: Normalize, where: str = "model", load_weights: bool = True
) -> None:
    """Raise what :func:`build_classifier` would raise for these specs, as far as the specs alone can tell.

    Args:
        backbone: the spec of a backbone.
        head: the spec of a head.
        normalize: see :func:`imgrec.models.resolve_normalize`.
        where: the place in the config that holds the three.
        load_weights: whether the backbone's ``weights`` have to be there; not where a checkpoint follows.

    Raises:
        SpecError: it names the place.
    """
    place = f"{where}.backbone" if where else "backbone"
    BACKBONES.check(backbone, place, _FACTS)
    name, given = BACKBONES.parse(backbone, place)
    check_weights = getattr(BACKBONES.entry(name, place).factory, "check_weights", None)
    if load_weights and check_weights is not None:
        try:
            check_weights(**given)
        except UserError as error:
            raise SpecError(f"{place}.weights: {error}") from error
    HEADS.check(head, f"{where}.head" if where else "head", (*_FACTS, "feature_dim"))
    check_normalize(normalize, f"{where}.normalize" if where else "normalize")


def build_classifier(
    backbone: Spec,
    head: Spec,
    normalize: Normalize,
    facts: DataFacts,
    load_weights: bool = True,
    where: str = "model",
) -> Classifier:
    """The classifier that three specs describe, for the data that ``facts`` describes.

    Args:
        backbone: the spec of a backbone.
        head: the spec of a head.
        normalize: see :func:`imgrec.models.resolve_normalize`.
        facts: the data's classes, image size and channels.
        load_weights: whether to load the backbone's ``pretrained`` or ``weights``; not where a checkpoint or a model
            folder will fill every parameter and buffer.
        where: the place in the config that holds the three, for messages.

    Raises:
        SpecError: a spec that cannot be built, images that the backbone cannot take.

    >>> facts = DataFacts(("cat", "dog"), (50, 50), image_size=32)
    >>> model = build_classifier({"name": "resnet18", "layers": [1, 1, 1, 1]}, "linear", "auto", facts)
    >>> model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 2])
    """
    prefix = f"{where}." if where else ""
    known: dict[str, Any] = {**facts.for_registry(), "load_weights": load_weights}
    trunk = BACKBONES.build(backbone, f"{prefix}backbone", **known)
    if not isinstance(trunk, Backbone):
        raise SpecError(
            f"{prefix}backbone: {backbone!r} gives a {type(trunk).__name__}, not an imgrec.models.Backbone."
        )
    top = HEADS.build(head, f"{prefix}head", **known, feature_dim=trunk.feature_dim)
    mean, std = resolve_normalize(normalize, trunk.mean, trunk.std, facts.channels, f"{prefix}normalize")
    return Classifier(trunk, top, mean, std)
