"""Random brightness, contrast, saturation, hue and grey."""

from __future__ import annotations

from torch import Tensor

from imgrec.augment.base import AUGMENTATIONS, BatchTransform, check_probability, to_float
from imgrec.augment.chosen import change_chosen
from imgrec.augment.color import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, grayscale
from imgrec.augment.random import Draws
from imgrec.errors import UserError


class _Factor(BatchTransform):
    """What draws a factor evenly from ``1 - amount`` (0 at least) to ``1 + amount``."""

    def __init__(self, amount: float = 0.4) -> None:
        if amount < 0:
            raise UserError(f"`amount` must be 0 or more, got {amount}.")
        self.amount = amount

    def factor(self, draws: Draws) -> Tensor:
        amount = self.amount * self.strength
        return draws.uniform(low=max(0.0, 1 - amount), high=1 + amount)[:, 0]


@AUGMENTATIONS.register("brightness")
class Brightness(_Factor):
    """Makes each image brighter or darker.

    Args:
        amount: the factor is drawn evenly from ``1 - amount`` (0 at least) to ``1 + amount``.

    Example::

        train_transforms: {name: brightness, amount: 0.2}
    """

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return adjust_brightness(images, self.factor(draws))


@AUGMENTATIONS.register("contrast")
class Contrast(_Factor):
    """Moves each image towards its mean grey, or away from it.

    Args:
        amount: the factor is drawn evenly from ``1 - amount`` (0 at least) to ``1 + amount``.

    Example::

        train_transforms: {name: contrast, amount: 0.2}
    """

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return adjust_contrast(images, self.factor(draws))


@AUGMENTATIONS.register("saturation")
class Saturation(_Factor):
    """Makes the colours of each image paler or stronger.

    Args:
        amount: the factor is drawn evenly from ``1 - amount`` (0 at least) to ``1 + amount``.

    Example::

        train_transforms: {name: saturation, amount: 0.2}
    """

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return adjust_saturation(images, self.factor(draws))


@AUGMENTATIONS.register("hue")
class Hue(BatchTransform):
    """Turns the hues of each image.

    Args:
        amount: the turn is drawn evenly from ``-amount`` to ``amount``, in full circles: 0.5 at most.

    Example::

        train_transforms: {name: hue, amount: 0.05}
    """

    def __init__(self, amount: float = 0.1) -> None:
        if not 0 <= amount <= 0.5:
            raise UserError(f"`amount` must be from 0 to 0.5 of a circle, got {amount}.")
        self.amount = amount

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        amount = self.amount * self.strength
        return adjust_hue(images, draws.uniform(low=-amount, high=amount)[:, 0])


@AUGMENTATIONS.register("color_jitter")
class ColorJitter(BatchTransform):
    """Changes brightness, contrast, saturation and hue, in this order, each by a draw of its own.

    Args:
        brightness: how much; see `imgrec show augmentations brightness`. 0 leaves it as it is, and so for the others.
        contrast: how much.
        saturation: how much.
        hue: how much, in full circles.

    Source: Howard 2013, "Some improvements on deep convolutional neural network based image classification",
    arXiv 1312.5402.

    Example::

        train_transforms: {name: color_jitter, brightness: 0.4, contrast: 0.4, hue: 0.1}
    """

    def __init__(
        self, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.0
    ) -> None:
        amounts = {"brightness": brightness, "contrast": contrast, "saturation": saturation, "hue": hue}
        kinds: dict[str, type[_Factor] | type[Hue]] = {
            "brightness": Brightness,
            "contrast": Contrast,
            "saturation": Saturation,
            "hue": Hue,
        }
        self.parts: dict[str, BatchTransform] = {}
        for name, amount in amounts.items():
            try:
                part = kinds[name](amount)
            except UserError as error:
                raise UserError(str(error).replace("`amount`", f"`{name}`")) from error
            if amount:
                self.parts[name] = part

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        images = to_float(images)
        for name, part in self.parts.items():
            part.strength = self.strength
            images = part(images, draws.fork(name))
        return images


@AUGMENTATIONS.register("grayscale")
class Grayscale(BatchTransform):
    """Takes the colour out of an image with probability ``p``; its channels stay as many.

    Args:
        p: probability; the strength of a schedule scales it.

    Example::

        train_transforms: {name: grayscale, p: 0.2}
    """

    def __init__(self, p: float = 0.1) -> None:
        self.p = check_probability(p)

    def __call__(self, images: Tensor, draws: Draws) -> Tensor:  # noqa: D102
        return change_chosen(images, draws.chance(self.p * self.strength), grayscale, floating=True)
