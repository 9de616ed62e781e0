"""Content of a cache of decoded images: the images, or the result of their first transforms."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from imgrec.augment import CenterCrop, Pipeline, RandomResizedCrop, Resize, Squash, Transform
from imgrec.augment.resize import resize_short_side
from imgrec.data.decoding.image import to_channels

MARGIN = 1.15
"""Ratio of the short side of a cached image to the size of random resized crops."""

_GENERATOR = torch.Generator()


@dataclass(frozen=True)
class CachePlan:
    """Transforms before an image is stored in a cache, and the remaining transforms.

    Args:
        steps: First transforms of the pipeline, which are deterministic.
        short_side: Size to which the short side is reduced, in pixels. ``None`` for no change.
        rest: Remaining transforms.
        channels: Channels of the stored images if they are transformed. Unchanged images keep their channels.
        side: Expected side of all stored images if they are square, otherwise ``None``.
    """

    steps: tuple[Transform, ...]
    short_side: int | None
    rest: Pipeline
    channels: Literal[1, 3]
    side: int | None

    def apply(self, image: Tensor) -> Tensor:
        """Return the stored image: uint8 ``(channels, height, width)``."""
        if self.steps:
            image = to_channels(image, self.channels)
            for step in self.steps:
                image = step(image, _GENERATOR)
        elif self.short_side is not None and min(image.shape[-2:]) > self.short_side:
            image = resize_short_side(to_channels(image, self.channels), self.short_side)
        return image

    def describe(self) -> str:
        """Return everything that determines the stored pixels, as one line of JSON."""
        steps = [[type(step).__name__, vars(step)] for step in self.steps]
        channels = self.channels if self.steps or self.short_side is not None else None
        return json.dumps({"steps": steps, "short_side": self.short_side, "channels": channels}, sort_keys=True)

    def __str__(self) -> str:
        if self.steps:
            return "after " + ", ".join(_words(step) for step in self.steps)
        return "as they are" if self.short_side is None else f"short side at most {self.short_side} pixels"


def plan_cache(pipeline: Pipeline, channels: Literal[1, 3], shapes: Sequence[tuple[int, int]]) -> CachePlan:
    """Return the plan of the cache for a pipeline.

    Images of the size of the model input are stored unchanged. Otherwise the deterministic transforms at the start of
    the pipeline (resize, squash, center_crop) are applied first. Before a random_resized_crop, the short side is
    reduced to :data:`MARGIN` times the input size. The pixels of this crop differ slightly from those without a cache.
    They are equal in all other cases.

    Args:
        pipeline: Transforms of single images.
        channels: Channels of the images for the pipeline.
        shapes: Height and width of some of the images.
    """
    side = pipeline.image_size
    if all(shape == (side, side) for shape in shapes):
        return CachePlan((), None, pipeline, channels, side)
    fixed: list[Transform] = []
    for transform in pipeline.transforms:
        if type(transform) not in (Resize, Squash, CenterCrop):  # a subclass may draw
            break
        fixed.append(transform)
    rest = Pipeline(pipeline.transforms[len(fixed) :], side, pipeline.where)
    if fixed:
        return CachePlan(
            tuple(fixed), None, rest, channels, side if isinstance(fixed[-1], CenterCrop | Squash) else None
        )
    first = pipeline.transforms[0] if pipeline.transforms else None
    short_side = round(MARGIN * side)
    if isinstance(first, RandomResizedCrop) and any(min(shape) > short_side for shape in shapes):
        return CachePlan((), short_side, rest, channels, None)
    return CachePlan((), None, pipeline, channels, None)


def is_identity(pipeline: Pipeline) -> bool:
    """Return True if the pipeline does not change images of the size of the model input."""
    return all(_is_identity(transform, pipeline.image_size) for transform in pipeline.transforms)


def _is_identity(transform: Transform, side: int) -> bool:
    if type(transform) is Resize:
        return transform.size == side
    return type(transform) in (Squash, CenterCrop) and vars(transform)["image_size"] == side


def _words(step: Transform) -> str:
    if isinstance(step, Resize):
        return f"resize to {step.size}"
    side = vars(step)["image_size"]
    return f"squash to {side}" if isinstance(step, Squash) else f"center_crop to {side}"
