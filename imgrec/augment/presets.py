"""Presets: named lists of augmentations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from imgrec.registry import Registry, Spec

PRESETS: Registry[list[Spec]] = Registry("preset", "presets")
"""Lists of augmentations by name: ``data.train_transforms: cifar``."""


class Preset:
    """Factory of a list of augmentations. Its docstring contains the list as YAML."""

    def __init__(self, name: str, description: str, specs: list[Spec]) -> None:
        self.specs = specs
        summary, _, source = description.partition("\n")
        listed = yaml.safe_dump({"train_transforms": specs}, default_flow_style=None, sort_keys=False, width=100)
        example = f"Example::\n\n    train_transforms: {name}"
        self.__doc__ = "\n\n".join(part for part in (summary, listed.strip(), source.strip(), example) if part)

    def __call__(self) -> list[Spec]:
        """Return a copy of the list."""
        return [spec if isinstance(spec, str) else dict(spec) for spec in self.specs]


def _add(name: str, description: str, *specs: str | dict[str, Any]) -> None:
    add: Callable[[Preset], Any] = PRESETS.register(name)
    add(Preset(name, description, list(specs)))


_CROPPED = {"name": "random_resized_crop", "scale": [0.25, 1.0]}

_add(
    "light",
    "Weak augmentation of photographs: a shift by a few pixels and a horizontal flip.",
    "squash",
    {"name": "random_crop", "padding": 4, "padding_mode": "reflect"},
    "hflip",
)
_add(
    "medium",
    "Moderate augmentation of photographs: a random resized crop, a horizontal flip and weak color jitter.",
    {"name": "random_resized_crop", "scale": [0.35, 1.0]},
    "hflip",
    {"name": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
)
_add(
    "heavy",
    "Strong augmentation for long training: small crops, RandAugment, random erasing, Mixup or CutMix.\n"
    'Source: Wightman, Touvron and Jegou 2021, "ResNet strikes back", arXiv 2110.00476 (the mixture, not each number).',
    _CROPPED,
    {"name": "randaugment", "num_ops": 2, "magnitude": 9},
    "hflip",
    {"name": "random_erasing", "p": 0.25},
    {"name": "mixup_or_cutmix", "mixup_alpha": 0.2, "cutmix_alpha": 1.0},
)
_add(
    "article",
    "Augmentation of many tutorials: a shift by up to four pixels with black padding, and a horizontal flip.",
    "resize",
    "center_crop",
    {"name": "random_crop", "padding": 4},
    "hflip",
)
_add(
    "cifar",
    "Augmentation of small photographs such as CIFAR: a shift by up to four pixels, a horizontal flip and Cutout.\n"
    'Source: DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with Cutout", '
    "arXiv 1708.04552.",
    "resize",
    "center_crop",
    {"name": "random_crop", "padding": 4, "padding_mode": "reflect"},
    "hflip",
    {"name": "cutout", "size": 0.5},
)
_add(
    "imagenet",
    "Augmentation of ImageNet training: a random resized crop, a horizontal flip, color jitter and lighting noise.\n"
    "Source: Krizhevsky, Sutskever and Hinton 2012, 10.1145/3065386 (lighting). Szegedy et al. 2015, arXiv 1409.4842.",
    "random_resized_crop",
    "hflip",
    "color_jitter",
    "lighting",
)
_add(
    "medical",
    "Augmentation of scans and slides: flips, small rotations and shifts, weak color jitter, blur and noise.",
    "squash",
    "hflip",
    "vflip",
    {"name": "affine", "degrees": 15.0, "translate": 0.05, "scale": [0.9, 1.1]},
    {"name": "color_jitter", "brightness": 0.1, "contrast": 0.1, "saturation": 0.0},
    {"name": "gaussian_blur", "p": 0.1, "sigma": [0.1, 1.0]},
    {"name": "gaussian_noise", "std": 0.02, "p": 0.3},
)
