"""Transforms of single images by torchvision, with random numbers from the given generator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor
from torchvision.transforms import AutoAugmentPolicy, InterpolationMode, v2

from imgrec.augment.base import AUGMENTATIONS, Transform
from imgrec.errors import UserError
from imgrec.utils.ranges import ClosedUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt, check_ranges

Interpolation = Literal["nearest", "bilinear"]


class TorchvisionTransform(Transform):
    """Adapter for a transform of ``torchvision.transforms.v2`` for one image.

    torchvision uses torch's global generator. It is seeded from the given generator during the transform, and its
    state is restored afterwards.

    Args:
        transform: Module that receives and returns a uint8 image.

    Raises:
        UserError: If the transform is for whole batches with their labels (MixUp, CutMix).
    """

    def __init__(self, transform: torch.nn.Module) -> None:
        if isinstance(transform, v2.MixUp | v2.CutMix):
            name = type(transform).__name__
            raise UserError(f"expected a transform of one image, got torchvision's {name}. Use {name.lower()} instead.")
        self.transform = transform

    def __call__(self, image: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        try:
            changed = self.transform(image)
        except (RuntimeError, TypeError, ValueError) as error:
            name, shape = type(self.transform).__name__, list(image.shape)
            raise UserError(f"{name} failed for a uint8 image of the shape {shape}: {error}.") from error
        finally:
            torch.set_rng_state(state)
        if not isinstance(changed, Tensor) or changed.dtype != torch.uint8 or changed.ndim != 3:
            found = f"{changed.dtype} {list(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
            raise UserError(
                f"{type(self.transform).__name__}: expected a result uint8 (channels, height, width), got {found}. The "
                "model scales and normalizes images."
            )
        return changed


@AUGMENTATIONS.register("autoaugment")
class AutoAugment(TorchvisionTransform):
    """Random pair of operations from a policy that was found by a search on a data set.

    Use `trivialaugment` instead on other data sets, because it has no parameters to tune.

    Args:
        policy: Data set of the policy: ``imagenet``, ``cifar10`` or ``svhn``. Defaults to ``imagenet``.
        interpolation: Interpolation of pixels. Defaults to ``nearest``.

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
    """Random operations with one common magnitude, applied one after another.

    Use `trivialaugment` instead to avoid tuning the magnitude.

    Args:
        num_ops: Number of operations. Defaults to 2.
        magnitude: Strength of the operations, from 0 to 30. Defaults to 9.
        interpolation: Interpolation of pixels. Defaults to ``nearest``.

    Source: Cubuk et al. 2020, "RandAugment: practical automated data augmentation with a reduced search space",
    arXiv 1909.13719.

    Example::

        train_transforms: [{name: randaugment, num_ops: 2, magnitude: 7}, hflip]
    """

    @check_ranges
    def __init__(
        self,
        num_ops: PositiveInt = 2,
        magnitude: Annotated[int, Ge(0), Le(30)] = 9,
        interpolation: Interpolation = "nearest",
    ) -> None:
        super().__init__(v2.RandAugment(num_ops, magnitude, interpolation=InterpolationMode(interpolation)))


@AUGMENTATIONS.register("trivialaugment")
class TrivialAugment(TorchvisionTransform):
    """Random operation with a random magnitude, without parameters to tune.

    Args:
        interpolation: Interpolation of pixels. Defaults to ``nearest``.

    Source: Müller and Hutter 2021, "TrivialAugment: tuning-free yet state-of-the-art data augmentation",
    arXiv 2103.10158.

    Example::

        train_transforms: [trivialaugment, hflip]
    """

    def __init__(self, interpolation: Interpolation = "nearest") -> None:
        super().__init__(v2.TrivialAugmentWide(interpolation=InterpolationMode(interpolation)))


@AUGMENTATIONS.register("augmix")
class AugMix(TorchvisionTransform):
    """Weighted mean of the image and several chains of operations on it, with random weights.

    Args:
        severity: Strength of the operations, from 1 to 10. Defaults to 3.
        width: Number of chains. Defaults to 3.
        depth: Number of operations in a chain. -1 samples 1 to 3. Defaults to -1.
        alpha: Parameter of the distributions of the weights, above 0. Defaults to 1.0.

    Source: Hendrycks et al. 2020, "AugMix: a simple data processing method to improve robustness and uncertainty",
    arXiv 1912.02781.

    Example::

        train_transforms: {name: augmix, severity: 3}
    """

    @check_ranges
    def __init__(
        self,
        severity: Annotated[int, Ge(1), Le(10)] = 3,
        width: PositiveInt = 3,
        depth: int = -1,
        alpha: PositiveFloat = 1.0,
    ) -> None:
        super().__init__(v2.AugMix(severity, width, depth, alpha))


@AUGMENTATIONS.register("elastic")
class Elastic(TorchvisionTransform):
    """Random smooth displacement of the pixels.

    Args:
        image_size: Side of the square input of the model, in pixels, a fact.
        alpha: Magnitude of the displacements. Defaults to 50.0.
        sigma: Smoothness of the displacements, in pixels, below a quarter of the side. Defaults to 5, or to an eighth
            of the side if that is less.

    Raises:
        UserError: If ``sigma`` is not below a quarter of the side.

    Source: Simard, Steinkraus and Platt 2003, "Best practices for convolutional neural networks applied to visual
    document analysis", 10.1109/ICDAR.2003.1227801.

    Example::

        train_transforms: {name: elastic, alpha: 30}
    """

    @check_ranges
    def __init__(self, image_size: int, alpha: NonNegativeFloat = 50.0, sigma: PositiveFloat | None = None) -> None:
        sigma = min(5.0, image_size / 8) if sigma is None else sigma
        if sigma >= image_size / 4:
            raise UserError(f"sigma: expected a number below a quarter of {image_size} pixels, got {sigma}.")
        super().__init__(v2.ElasticTransform(alpha, sigma))


@AUGMENTATIONS.register("perspective")
class Perspective(TorchvisionTransform):
    """Random change of the perspective.

    Args:
        distortion: Largest shift of a corner, as a fraction of half of the side in [0, 1]. Defaults to 0.5.
        p: Probability of a change. Defaults to 0.5.

    Example::

        train_transforms: {name: perspective, distortion: 0.3, p: 0.3}
    """

    @check_ranges
    def __init__(self, distortion: ClosedUnitInterval = 0.5, p: ClosedUnitInterval = 0.5) -> None:
        super().__init__(v2.RandomPerspective(distortion, p))


def adapt_module(augmentation: Any) -> Any:
    """Return a module, such as every torchvision transform, as a :class:`TorchvisionTransform`."""
    return TorchvisionTransform(augmentation) if isinstance(augmentation, torch.nn.Module) else augmentation
