"""Specs of transforms, one after the other, up to the image that the model takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from imgrec.augment.transform import AUGMENTATIONS, Transform
from imgrec.errors import UserError
from imgrec.registry import Spec, Specs, as_list

DEFAULT_TRANSFORMS: tuple[Spec, ...] = ("resize", "center_crop")
"""What stands where no transforms are given: nothing random, and the whole image where it is square."""

_ANY_SIZE = 224


class Pipeline:
    """Transforms in their order; what comes out is checked to be the square that the model takes.

    Args:
        transforms: what happens to an image, in this order.
        image_size: side of the square that comes out, in pixels.
        where: the place in the config, for messages: ``"data.train_transforms"``.
    """

    def __init__(self, transforms: Sequence[Transform], image_size: int, where: str = "transforms") -> None:
        self.transforms = tuple(transforms)
        self.image_size = image_size
        self.where = where

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The image for the model: uint8 ``(channels, image_size, image_size)``.

        Args:
            image: uint8 ``(channels, height, width)``.
            generator: what random transforms draw from; without one they draw the same each time.

        Raises:
            UserError: the transforms end in another size.
        """
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        before = image.shape
        for transform in self.transforms:
            image = transform(image, generator)
        if image.shape[-2:] != (self.image_size, self.image_size):
            size = f"{image.shape[-2]} x {image.shape[-1]}"
            was = f"{before[-2]} x {before[-1]}"
            raise UserError(
                f"{self.where}: an image of {was} pixels (height x width) comes out with {size}, and the model takes "
                f"{self.image_size} x {self.image_size}. End the list with center_crop, random_crop, "
                f"random_resized_crop or squash, or begin it with resize where all images are square."
            )
        return image


def build_transforms(specs: Specs | Sequence[Spec] | None, where: str = "transforms", **facts: Any) -> Pipeline:
    """The pipeline that ``specs`` name.

    Args:
        specs: transforms in their order; ``None`` stands for :data:`DEFAULT_TRANSFORMS`, an empty list for none.
        where: the place in the config, for messages.
        **facts: what the data is known to be; ``image_size``, in pixels, must be among them.

    Raises:
        SpecError: an unknown name or argument, or a value that is refused.

    >>> build_transforms(None, image_size=24)(torch.zeros(3, 32, 48, dtype=torch.uint8)).shape
    torch.Size([3, 24, 24])
    """
    chosen = list(DEFAULT_TRANSFORMS) if specs is None else as_list(specs)
    built = [AUGMENTATIONS.build(s, p, **facts) for s, p in zip(chosen, _places(specs, where), strict=True)]
    return Pipeline(built, facts["image_size"], where)


def check_transforms(specs: Specs | Sequence[Spec] | None, where: str = "transforms", **facts: Any) -> None:
    """Raise what :func:`build_transforms` would raise, before any image is at hand or its size is known."""
    build_transforms(specs, where, **{"image_size": _ANY_SIZE, "in_channels": 3, **facts})


def _places(specs: Specs | Sequence[Spec] | None, where: str) -> list[str]:
    if specs is None:
        return [where] * len(DEFAULT_TRANSFORMS)
    if isinstance(specs, str | dict):
        return [where]
    return [f"{where}[{i}]" for i in range(len(specs))]
