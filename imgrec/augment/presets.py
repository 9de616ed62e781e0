"""Lists of augmentations that go by one name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

from imgrec.registry import Registry, Spec

PRESETS: Registry[list[Spec]] = Registry("preset", "presets")
"""Lists of augmentations by name: ``data.train_transforms: cifar``."""


class Preset:
    """A named list; called, it gives a copy. Its docstring shows it as YAML, and how it is named."""

    def __init__(self, name: str, said: str, specs: list[Spec]) -> None:
        self.specs = specs
        summary, _, source = said.partition("\n")
        listed = yaml.safe_dump({"train_transforms": specs}, default_flow_style=None, sort_keys=False, width=100)
        example = f"Example::\n\n    train_transforms: {name}"
        self.__doc__ = "\n\n".join(part for part in (summary, listed.strip(), source.strip(), example) if part)

    def __call__(self) -> list[Spec]:
        """A copy of the list."""
        return [spec if isinstance(spec, str) else dict(spec) for spec in self.specs]


def _add(name: str, said: str, *specs: str | dict[str, Any]) -> None:
    add: Callable[[Preset], Any] = PRESETS.register(name)
    add(Preset(name, said, list(specs)))


_CROPPED = {"name": "random_resized_crop", "scale": [0.25, 1.0]}

_add(
    "light",
    "Little change, for any photographs: whole images moved by a few pixels and mirrored.",
    "squash",
    {"name": "random_crop", "padding": 4, "padding_mode": "reflect"},
    "hflip",
)
_add(
    "medium",
    "A random part of each photograph, mirrored, its colours changed a little.",
    {"name": "random_resized_crop", "scale": [0.35, 1.0]},
    "hflip",
    {"name": "color_jitter", "brightness": 0.2, "contrast": 0.2, "saturation": 0.2},
)
_add(
    "heavy",
    "For long training: small parts, RandAugment, erased boxes, Mixup or CutMix.\n"
    'Source: Wightman, Touvron and Jegou 2021, "ResNet strikes back", arXiv 2110.00476 (the mixture, not each number).',
    _CROPPED,
    {"name": "randaugment", "num_ops": 2, "magnitude": 9},
    "hflip",
    {"name": "random_erasing", "p": 0.25},
    {"name": "mixup_or_cutmix", "mixup_alpha": 0.2, "cutmix_alpha": 1.0},
)
_add(
    "article",
    "What tutorials do: moved by up to four pixels on a black border, and mirrored.",
    "resize",
    "center_crop",
    {"name": "random_crop", "padding": 4},
    "hflip",
)
_add(
    "cifar",
    "For small photographs as CIFAR's: moved by up to four pixels, mirrored, a box of half the side cut out.\n"
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
    "The crop of ImageNet training, mirrored, with jittered colours and lighting noise.\n"
    "Source: Krizhevsky, Sutskever and Hinton 2012, 10.1145/3065386 (lighting); Szegedy et al. 2015, arXiv 1409.4842.",
    "random_resized_crop",
    "hflip",
    "color_jitter",
    "lighting",
)
_add(
    "medical",
    "For scans and slides: no colour is moved far, any side may be up, small turns and shifts, slight blur and noise.",
    "squash",
    "hflip",
    "vflip",
    {"name": "affine", "degrees": 15.0, "translate": 0.05, "scale": [0.9, 1.1]},
    {"name": "color_jitter", "brightness": 0.1, "contrast": 0.1, "saturation": 0.0},
    {"name": "gaussian_blur", "p": 0.1, "sigma": [0.1, 1.0]},
    {"name": "gaussian_noise", "std": 0.02, "p": 0.3},
)
