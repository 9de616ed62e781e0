"""Pipeline of transforms of single images, built from specs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, Augmentation, Transform
from imgrec.errors import SpecError, UserError
from imgrec.registry import Spec, Specs

DEFAULT_TRANSFORMS: tuple[Spec, ...] = ("resize", "center_crop")
"""Default transforms: deterministic, and without a crop of square images."""

ANY_SIZE = 224
"""Side of the square, in pixels, for checks before the data is read."""


class Pipeline:
    """Transforms of single images, applied in order, with a check of the size and type of the result.

    Args:
        transforms: Transforms in their order.
        image_size: Side of the square result, in pixels.
        where: Place in the config, for messages, such as ``"data.train_transforms"``.
    """

    def __init__(self, transforms: Sequence[Transform], image_size: int, where: str = "transforms") -> None:
        self.transforms = tuple(transforms)
        self.image_size = image_size
        self.where = where

    def __call__(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return the input of the model: uint8 ``(channels, image_size, image_size)``.

        Args:
            image: uint8 ``(channels, height, width)``.
            generator: Source of the random numbers. Defaults to a new one with the seed 0.

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
            size, was = (f"{shape[-2]} x {shape[-1]}" for shape in (image.shape, before))
            raise UserError(
                f"{self.where}: expected a result of {self.image_size} x {self.image_size} pixels, got {size} for an "
                f"image of {was} (height x width). End the list with center_crop, random_resized_crop or squash."
            )
        return image


def build_transforms(specs: Specs | Sequence[Spec] | None, where: str = "transforms", **facts: Any) -> Pipeline:
    """Build a pipeline of transforms of single images, for evaluation and prediction.

    Args:
        specs: Specs of the transforms. ``None`` is :data:`DEFAULT_TRANSFORMS`, an empty list is no transform.
        where: Place in the config, for messages.
        **facts: Facts of the data, with ``image_size`` in pixels.

    Raises:
        SpecError: If a name, an argument or a value is wrong, or if an augmentation is for whole batches.

    Example:
        >>> build_transforms(None, image_size=24)(torch.zeros(3, 32, 48, dtype=torch.uint8)).shape
        torch.Size([3, 24, 24])
    """
    transforms: list[Transform] = []
    for place, name, built in build_each(specs, where, **facts):
        if not isinstance(built, Transform):
            raise SpecError(
                f"{place}: expected a transform of single images, got {name}, which is for training batches."
            )
        transforms.append(built)
    return Pipeline(transforms, facts["image_size"], where)


def check_transforms(specs: Specs | Sequence[Spec] | None, where: str = "transforms", **facts: Any) -> None:
    """Raise the errors of :func:`build_transforms` before any image is read."""
    build_transforms(specs, where, **{"image_size": ANY_SIZE, "in_channels": 3, **facts})


def build_each(
    specs: Specs | Sequence[Spec] | None, where: str, **facts: Any
) -> Iterator[tuple[str, str, Augmentation]]:
    """Yield each augmentation of a list and of its presets, with its place in the config and its name."""
    from imgrec.augment.presets import PRESETS

    for place, spec in _placed(specs, where):
        if isinstance(spec, str) and spec in PRESETS:
            for part in PRESETS.build(spec, place):
                yield place, f"{_name(part)} (of the preset {spec})", _build(part, place, facts)
        else:
            yield place, _name(spec), _build(spec, place, facts)


def _build(spec: Spec, where: str, facts: Mapping[str, Any]) -> Augmentation:
    from imgrec.augment.torchvision import adapt_module

    try:
        built = adapt_module(AUGMENTATIONS.build(spec, where, **facts))
    except UserError as error:
        if isinstance(error, SpecError):
            raise
        raise SpecError(f"{where}: {error}") from error
    if not isinstance(built, Augmentation):
        raise SpecError(
            f"{where}: expected a subclass of imgrec.augment.Transform, BatchTransform or Mix, or a transform of "
            f"torchvision.transforms.v2, got {_name(spec)}."
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
