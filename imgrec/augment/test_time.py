"""Test-time augmentation: several views of an image, one answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.augment.base import to_float
from imgrec.errors import UserError
from imgrec.registry import Registry, Spec, Specs, as_list

Average = Literal["probabilities", "logits"]


class TestTimeView(ABC):
    """Further views of a batch, for an answer that is the mean over all of them and the batch itself."""

    @abstractmethod
    def __call__(self, images: Tensor) -> list[Tensor]:
        """The further views.

        Shapes: ``images`` uint8 or float in [0, 1], ``(batch, channels, height, width)``; each view likewise, of any
        height and width. The images as they are must not be among them.
        """


VIEWS: Registry[TestTimeView] = Registry("view", "views")
"""Views for test-time augmentation by name: ``imgrec test RUN --tta hflip``."""


@VIEWS.register("hflip")
class MirroredView(TestTimeView):
    """Left and right exchanged: one more view.

    Example::

        imgrec test RUN --tta hflip
    """

    def __call__(self, images: Tensor) -> list[Tensor]:  # noqa: D102
        return [images.flip(-1)]


@VIEWS.register("vflip")
class UpsideDownView(TestTimeView):
    """Top and bottom exchanged: one more view.

    Example::

        imgrec test RUN --tta vflip
    """

    def __call__(self, images: Tensor) -> list[Tensor]:  # noqa: D102
        return [images.flip(-2)]


@VIEWS.register("five_crop")
class FiveCropView(TestTimeView):
    """The four corners and the centre, each brought back to the full size: five more views.

    Args:
        keep: side of a crop, as a part of the image's.

    Source: Krizhevsky, Sutskever and Hinton 2012, 10.1145/3065386 (with mirrored ones: ten).

    Example::

        imgrec test RUN --tta '{name: five_crop, keep: 0.9}'
    """

    def __init__(self, keep: float = 0.875) -> None:
        if not 0 < keep < 1:
            raise UserError(f"`keep` is a part of the side, above 0 and below 1, got {keep}.")
        self.keep = keep

    def __call__(self, images: Tensor) -> list[Tensor]:  # noqa: D102
        height, width = images.shape[-2:]
        tall, wide = max(1, round(self.keep * height)), max(1, round(self.keep * width))
        down, across = height - tall, width - wide
        places = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
        return [_resized(images[..., t : t + tall, le : le + wide], height, width) for t, le in places]


@VIEWS.register("scales")
class ScaledView(TestTimeView):
    """The whole image at other sizes, for networks that take images of any size: one more view a scale.

    Args:
        scales: sides of the views, as multiples of the image's.

    Example::

        imgrec test RUN --tta '{name: scales, scales: [0.9, 1.1]}'
    """

    def __init__(self, scales: list[float] | None = None) -> None:
        self.scales = [0.875, 1.125] if scales is None else scales
        if not self.scales or min(self.scales) <= 0:
            raise UserError(f"`scales` must be numbers above 0, one at least, got {self.scales}.")

    def __call__(self, images: Tensor) -> list[Tensor]:  # noqa: D102
        height, width = images.shape[-2:]
        return [_resized(images, max(1, round(s * height)), max(1, round(s * width))) for s in self.scales]


class TestTimeAugmentation:
    """All views of a batch, and the mean of what a model says about them.

    Several views are combined: mirrored five crops make twelve views, with the image itself and its mirror image.

    Args:
        views: specs of :data:`VIEWS`.
        average: ``probabilities``: the mean of the probabilities, given as its logarithm; or ``logits``: their mean,
            the geometric mean of the probabilities, in which one view that is very sure weighs more.
        where: the place in the config or on the command line, for messages.

    Raises:
        SpecError: an unknown view or argument.

    Source: Shanmugam et al. 2021, "Better aggregation in test-time augmentation", arXiv 2011.11156.
    """

    __test__ = False  # what pytest would take for a class of tests

    def __init__(self, views: Specs | Sequence[Spec], average: Average = "probabilities", where: str = "tta") -> None:
        self.views = [VIEWS.build(spec, where) for spec in as_list(views)]
        if average not in ("probabilities", "logits"):
            raise UserError(f'{where}: accepted averages are "probabilities" and "logits", got {average!r}.')
        self.average = average

    def all_views(self, images: Tensor) -> list[Tensor]:
        """The images themselves first, then all other views of them."""
        found = [images]
        for view in self.views:
            found += [more for each in found for more in view(each)]
        return found

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """One answer from the logits of all views, each ``(batch, num_classes)``, as logits.

        >>> two = [torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]]).log()]
        >>> TestTimeAugmentation("hflip").combine(two).softmax(1)
        tensor([[0.2500, 0.7500]])
        """
        stacked = torch.stack(list(logits))
        if self.average == "logits":
            return stacked.mean(dim=0)
        return stacked.float().log_softmax(dim=-1).logsumexp(dim=0) - torch.tensor(float(len(logits))).log()

    def __call__(self, model: Any, images: Tensor) -> Tensor:
        """The combined logits of ``model(images)`` over all views.

        Raises:
            UserError: the network does not take images of another size.
        """
        return self.combine([self.run(model, view, images) for view in self.all_views(images)])

    def run(self, model: Any, view: Tensor, images: Tensor) -> Any:
        """``model(view)``, with a clear message where a view of another size than ``images`` is refused."""
        try:
            return model(view)
        except (RuntimeError, AssertionError, ValueError) as error:
            if view.shape == images.shape or isinstance(error, UserError):
                raise
            size, full = (f"{each.shape[-2]} x {each.shape[-1]}" for each in (view, images))
            raise UserError(
                f"tta: this network takes no images of {size} pixels beside those of {full} ({error}); "
                "leave `scales` out, or give other ones."
            ) from error


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    resized = F.interpolate(to_float(images), size=(height, width), mode="bilinear", antialias=True)
    return resized.clamp_(0, 1)
