"""What a cache of decoded images holds: the images themselves, or what the first transforms make of them."""

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
"""How much longer the short side of a cached image is than the square that random crops are resized to."""

_GENERATOR = torch.Generator()


@dataclass(frozen=True)
class CachePlan:
    """What is done to an image before it is kept, and what is left to do when it is taken out.

    Args:
        steps: the pipeline's first transforms, those that draw nothing: done once, with the same result as each time.
        short_side: the images' short side is reduced to this many pixels, never enlarged; ``None`` leaves it.
        rest: the transforms that are left.
        channels: channels of the kept images, where anything is done to them; images kept as they are keep theirs.
        side: side of the square that all kept images are expected to have; ``None`` where they may differ.
    """

    steps: tuple[Transform, ...]
    short_side: int | None
    rest: Pipeline
    channels: Literal[1, 3]
    side: int | None

    def apply(self, image: Tensor) -> Tensor:
        """What is kept of an image: uint8 ``(channels, height, width)``."""
        if self.steps:
            image = to_channels(image, self.channels)
            for step in self.steps:
                image = step(image, _GENERATOR)
        elif self.short_side is not None and min(image.shape[-2:]) > self.short_side:
            image = resize_short_side(to_channels(image, self.channels), self.short_side)
        return image

    def describe(self) -> str:
        """All that the kept pixels depend on, as one line of JSON: equal plans have equal ones."""
        steps = [[type(step).__name__, vars(step)] for step in self.steps]
        channels = self.channels if self.steps or self.short_side is not None else None
        return json.dumps({"steps": steps, "short_side": self.short_side, "channels": channels}, sort_keys=True)

    def __str__(self) -> str:
        if self.steps:
            return "after " + ", ".join(_words(step) for step in self.steps)
        return "as they are" if self.short_side is None else f"short side at most {self.short_side} pixels"


def plan_cache(pipeline: Pipeline, channels: Literal[1, 3], shapes: Sequence[tuple[int, int]]) -> CachePlan:
    """What to keep for a pipeline.

    Images that have the model's square already are kept as they are. Else what the pipeline does at its beginning
    without drawing (resize, squash, center_crop) is done before. Before a random_resized_crop the short side is
    reduced to :data:`MARGIN` times the square: the crop is then taken from a smaller image, and its pixels differ a
    little from those without a cache; in every other case they are the same. Anything else needs the whole image.

    Args:
        pipeline: what happens to an image in the loader.
        channels: channels of the images that the pipeline takes.
        shapes: height and width of some of the images.
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


def leaves_alone(pipeline: Pipeline) -> bool:
    """Whether images that have the model's square already come out of the pipeline as they went in."""
    return all(_leaves_alone(transform, pipeline.image_size) for transform in pipeline.transforms)


def _leaves_alone(transform: Transform, side: int) -> bool:
    if type(transform) is Resize:
        return transform.size == side
    return type(transform) in (Squash, CenterCrop) and vars(transform)["image_size"] == side


def _words(step: Transform) -> str:
    if isinstance(step, Resize):
        return f"resize to {step.size}"
    side = vars(step)["image_size"]
    return f"squash to {side}" if isinstance(step, Squash) else f"center_crop to {side}"
