"""torchvision's own per-sample transforms, drawing from the generator that a transform is handed."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, v2

from imgrec.augment.base import AUGMENTATIONS, Transform, check_probability
from imgrec.errors import UserError

Interpolation = Literal["nearest", "bilinear"]


class TorchvisionTransform(Transform):
    """Any transform of ``torchvision.transforms.v2`` for one image.

    torchvision draws from torch's global generator. Here that one is seeded from the given generator while the
    transform runs, and put back as it was.

    Args:
        transform: takes and gives a uint8 image.

    Raises:
        UserError: it is made for whole batches with their labels (MixUp, CutMix).
    """

    def __init__(self, transform: torch.nn.Module) -> None:
        if isinstance(transform, v2.MixUp | v2.CutMix):
            name = type(transform).__name__
            raise UserError(f"torchvision's {name} mixes a batch, not an image; use {name.lower()}.")
        self.transform = transform

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        try:
            changed = self.transform(image)
        except (RuntimeError, TypeError, ValueError) as error:
            name, shape = type(self.transform).__name__, list(image.shape)
            raise UserError(f"{name} cannot change a uint8 image of the shape {shape}: {error}.") from error
        finally:
            torch.set_rng_state(state)
        if not isinstance(changed, Tensor) or changed.dtype != torch.uint8 or changed.ndim != 3:
            found = f"{changed.dtype} {list(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise UserError(
                f"{type(self.transform).__name__} gives {found}; a transform of one image must give uint8 "
                "(channels, height, width): the model itself scales and normalizes."
            )
        return changed


@AUGMENTATIONS.register("autoaugment")
class AutoAugment(TorchvisionTransform):
    """Applies one of the pairs of operations that a search found on a data set.

    Args:
        policy: whose pairs: ``imagenet``, ``cifar10`` or ``svhn``.
        interpolation: how a pixel between pixels is found.

    Source: Cubuk et al. 2019, "AutoAugment: learning augmentation strategies from data", arXiv 1805.09501.

    Example::

        train_transforms: {name: autoaugment, policy: cifar10}
    """

    def __init__(
        self, policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet", interpolation: Interpolation = "nearest"
    ) -> None:
        super().__init__(v2.AutoAugment(AutoAugmentPolicy(policy), InterpolationMode(interpolation)))


@AUGMENTATIONS.register("randaugment")
class RandAugment(TorchvisionTransform):
    """Applies a few operations in turn, each drawn evenly from a list, all at one magnitude.

    Args:
        num_ops: how many operations in turn.
        magnitude: how strong each is, from 0 to 30.
        interpolation: how a pixel between pixels is found.

    Source: Cubuk et al. 2020, "RandAugment: practical automated data augmentation with a reduced search space",
    arXiv 1909.13719.

    Example::

        train_transforms: [{name: randaugment, num_ops: 2, magnitude: 7}, hflip]
    """

    def __init__(self, num_ops: int = 2, magnitude: int = 9, interpolation: Interpolation = "nearest") -> None:
        if num_ops < 1:
            raise UserError(f"`num_ops` must be 1 or more, got {num_ops}.")
        if not 0 <= magnitude <= 30:
            raise UserError(f"`magnitude` must be from 0 to 30, got {magnitude}.")
        super().__init__(v2.RandAugment(num_ops, magnitude, interpolation=InterpolationMode(interpolation)))


@AUGMENTATIONS.register("trivialaugment")
class TrivialAugment(TorchvisionTransform):
    """Applies one operation drawn evenly from a list, at a magnitude drawn evenly: nothing to tune.

    Args:
        interpolation: how a pixel between pixels is found.

    Source: Müller and Hutter 2021, "TrivialAugment: tuning-free yet state-of-the-art data augmentation",
    arXiv 2103.10158.

    Example::

        train_transforms: [trivialaugment, hflip]
    """

    def __init__(self, interpolation: Interpolation = "nearest") -> None:
        super().__init__(v2.TrivialAugmentWide(interpolation=InterpolationMode(interpolation)))


@AUGMENTATIONS.register("augmix")
class AugMix(TorchvisionTransform):
    """Averages the image with several chains of operations on it, with random weights.

    Args:
        severity: how strong the operations are, from 1 to 10.
        width: how many chains.
        depth: how many operations a chain has; -1 draws 1 to 3.
        alpha: shape of the distributions of the weights.

    Source: Hendrycks et al. 2020, "AugMix: a simple data processing method to improve robustness and uncertainty",
    arXiv 1912.02781.

    Example::

        train_transforms: {name: augmix, severity: 3}
    """

    def __init__(self, severity: int = 3, width: int = 3, depth: int = -1, alpha: float = 1.0) -> None:
        if not 1 <= severity <= 10:
            raise UserError(f"`severity` must be from 1 to 10, got {severity}.")
        if width < 1 or alpha <= 0:
            raise UserError(f"`width` must be 1 or more and `alpha` above 0, got {width} and {alpha}.")
        super().__init__(v2.AugMix(severity, width, depth, alpha))


@AUGMENTATIONS.register("elastic")
class Elastic(TorchvisionTransform):
    """Bends the image by a smooth random field of displacements.

    Args:
        alpha: how far pixels move.
        sigma: how smooth the field is, in pixels, below a quarter of the side; by default 5, or an eighth of the side
            where that is less.
        image_size: side of the image that the model takes, in pixels; a fact.

    Source: Simard, Steinkraus and Platt 2003, "Best practices for convolutional neural networks applied to visual
    document analysis", 10.1109/ICDAR.2003.1227801.

    Example::

        train_transforms: {name: elastic, alpha: 30}
    """

    def __init__(self, image_size: int, alpha: float = 50.0, sigma: float | None = None) -> None:
        sigma = min(5.0, image_size / 8) if sigma is None else sigma
        if alpha < 0:
            raise UserError(f"`alpha` must be 0 or more, got {alpha}.")
        if not 0 < sigma < image_size / 4:
            raise UserError(f"`sigma` must be above 0 and below a quarter of {image_size} pixels, got {sigma}.")
        super().__init__(v2.ElasticTransform(alpha, sigma))


@AUGMENTATIONS.register("perspective")
class Perspective(TorchvisionTransform):
    """Shows the image as if seen from the side, with probability ``p``.

    Args:
        distortion: how far a corner may move, as a part of half the side.
        p: probability that anything happens.

    Example::

        train_transforms: {name: perspective, distortion: 0.3, p: 0.3}
    """

    def __init__(self, distortion: float = 0.5, p: float = 0.5) -> None:
        check_probability(distortion, "distortion")
        super().__init__(v2.RandomPerspective(distortion, check_probability(p)))


def wrapped(built: Any) -> Any:
    """``built``, as a :class:`TorchvisionTransform` where it is a module: all of torchvision's are."""
    return TorchvisionTransform(built) if isinstance(built, torch.nn.Module) else built
