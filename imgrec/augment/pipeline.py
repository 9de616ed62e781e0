"""Specs of transforms, one after the other, up to the image that the model takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Augmentation, Transform
from imgrec.errors import SpecError, UserError
from imgrec.registry import Spec, Specs

DEFAULT_TRANSFORMS: tuple[Spec, ...] = ("resize", "center_crop")
"""What stands where no transforms are given: nothing random, and the whole image where it is square."""

ANY_SIZE = 224
"""Side of the square, in pixels, while the real one is not known yet."""


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
            UserError: If the transforms end in another size, or return anything except uint8.
        """
        generator = torch.Generator().manual_seed(0) if generator is None else generator
        before = image.shape
        for transform in self.transforms:
            image = transform(image, generator)
        if image.dtype != torch.uint8:  # a batch of uint8 would truncate floats in [0, 1] to 0
            names = ", ".join(type(transform).__name__ for transform in self.transforms)
            raise UserError(
                f"{self.where}: expected uint8 from transforms of single images ({names}), got {image.dtype}. Return "
                "uint8 in 0 to 255: the network scales and normalizes. A BatchTransform may return float in [0, 1]."
            )
        if image.shape[-2:] != (self.image_size, self.image_size):
            size = f"{image.shape[-2]} x {image.shape[-1]}"
            was = f"{before[-2]} x {before[-1]}"
            raise UserError(
                f"{self.where}: an image of {was} pixels (height x width) comes out with {size}, and the model takes "
                f"{self.image_size} x {self.image_size}. End the list with center_crop, random_resized_crop or squash, "
                f"or begin it with resize where all images are square."
            )
        return image


def build_transforms(specs: Specs | Sequence[Spec] | None, where: str = "transforms", **facts: Any) -> Pipeline:
    """The pipeline that ``specs`` name: transforms of single images only, as evaluation and prediction take.

    Args:
        specs: transforms in their order; ``None`` stands for :data:`DEFAULT_TRANSFORMS`, an empty list for none.
        where: the place in the config, for messages.
        **facts: what the data is known to be; ``image_size``, in pixels, must be among them.

    Raises:
        SpecError: an unknown name or argument, a value that is refused, or an augmentation of whole batches.

    >>> build_transforms(None, image_size=24)(torch.zeros(3, 32, 48, dtype=torch.uint8)).shape
    torch.Size([3, 24, 24])
    """
    transforms: list[Transform] = []
    for place, name, built in build_each(specs, where, **facts):
        if not isinstance(built, Transform):
            raise SpecError(f"{place}: {name} is for training batches; here stand transforms of single images only.")
        transforms.append(built)
    return Pipeline(transforms, facts["image_size"], where)


def check_transforms(specs: Specs | Sequence[Spec] | None, where: str = "transforms", **facts: Any) -> None:
    """Raise what :func:`build_transforms` would raise, before any image is at hand or its size is known."""
    build_transforms(specs, where, **{"image_size": ANY_SIZE, "in_channels": 3, **facts})


def build_each(
    specs: Specs | Sequence[Spec] | None, where: str, **facts: Any
) -> Iterator[tuple[str, str, Augmentation]]:
    """Each augmentation of a list, presets taken apart, with its place in the config and its name."""
    from imgrec.augment.presets import PRESETS

    for place, spec in _placed(specs, where):
        if isinstance(spec, str) and spec in PRESETS:
            for part in PRESETS.build(spec, place):
                yield place, f"{_name(part)} (of the preset {spec})", _build(part, place, facts)
        else:
            yield place, _name(spec), _build(spec, place, facts)


def _build(spec: Spec, where: str, facts: Mapping[str, Any]) -> Augmentation:
    from imgrec.augment.torchvision import wrapped

    try:
        built = wrapped(AUGMENTATIONS.build(spec, where, **facts))
    except UserError as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{where}: {error}") from error
    if not isinstance(built, Augmentation):
        raise SpecError(
            f"{where}: {_name(spec)} is no augmentation; accepted is a subclass of imgrec.augment's Transform, "
            "BatchTransform or Mix, or a transform of torchvision's v2."
        )
    return built


def _name(spec: Any) -> str:
    return str(spec["name"]) if isinstance(spec, Mapping) and "name" in spec else str(spec)


def _placed(specs: Specs | Sequence[Spec] | None, where: str) -> list[tuple[str, Spec]]:
    if specs is None:
        return [(where, spec) for spec in DEFAULT_TRANSFORMS]
    if isinstance(specs, str | Mapping):
        return [(where, specs)]
    return [(f"{where}[{i}]", spec) for i, spec in enumerate(specs)]
