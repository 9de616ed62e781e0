"""Test-time augmentation: the mean prediction over several views of an image."""

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
from imgrec.utils.ranges import OpenUnitInterval, PositiveFloat, check_ranges

Average = Literal["probabilities", "logits"]


class TestTimeView(ABC):
    """Base class of additional views of a batch. The prediction is the mean over the batch and all views."""

    __test__ = False  # the name begins with the prefix of pytest classes

    @abstractmethod
    def __call__(self, images: Tensor) -> list[Tensor]:
        """Return the additional views, without the unchanged images.

        Shapes: ``images`` uint8 or float in [0, 1], ``(batch, channels, height, width)``. A view can have any height
        and width.
        """


VIEWS: Registry[TestTimeView] = Registry("view", "views")
"""Views for test-time augmentation by name: ``imgrec test RUN --tta hflip``."""


@VIEWS.register("hflip")
class MirroredView(TestTimeView):
    """Horizontally flipped image: one view.

    Example::

        imgrec test RUN --tta hflip
    """

    def __call__(self, images: Tensor) -> list[Tensor]:  # noqa: D102
        return [images.flip(-1)]


@VIEWS.register("vflip")
class UpsideDownView(TestTimeView):
    """Vertically flipped image: one view.

    Example::

        imgrec test RUN --tta vflip
    """

    def __call__(self, images: Tensor) -> list[Tensor]:  # noqa: D102
        return [images.flip(-2)]


@VIEWS.register("five_crop")
class FiveCropView(TestTimeView):
    """Crops of the four corners and the center, resized to the full size: five views.

    Args:
        keep: Side of a crop, as a fraction of the side of the image in (0, 1). Defaults to 0.875.

    Source: Krizhevsky, Sutskever and Hinton 2012, 10.1145/3065386 (ten with their flipped versions).

    Example::

        imgrec test RUN --tta '{name: five_crop, keep: 0.9}'
    """

    @check_ranges
    def __init__(self, keep: OpenUnitInterval = 0.875) -> None:
        self.keep = keep

    def __call__(self, images: Tensor) -> list[Tensor]:  # noqa: D102
        height, width = images.shape[-2:]
        tall, wide = max(1, round(self.keep * height)), max(1, round(self.keep * width))
        down, across = height - tall, width - wide
        corners = [(0, 0), (0, across), (down, 0), (down, across), (down // 2, across // 2)]
        return [_resized(images[..., t : t + tall, le : le + wide], height, width) for t, le in corners]


@VIEWS.register("scales")
class ScaledView(TestTimeView):
    """Resized images, for models that accept any image size: one view for each scale.

    Args:
        scales: Sides of the views, as multiples of the side of the image, above 0. Defaults to ``[0.875, 1.125]``.

    Raises:
        UserError: If ``scales`` is empty.

    Example::

        imgrec test RUN --tta '{name: scales, scales: [0.9, 1.1]}'
    """

    @check_ranges
    def __init__(self, scales: list[PositiveFloat] | None = None) -> None:
        self.scales = [0.875, 1.125] if scales is None else scales
        if not self.scales:
            raise UserError("scales: expected at least one scale, got [].")

    def __call__(self, images: Tensor) -> list[Tensor]:  # noqa: D102
        height, width = images.shape[-2:]
        return [_resized(images, max(1, round(s * height)), max(1, round(s * width))) for s in self.scales]


class TestTimeAugmentation:
    """Mean prediction of a model over several views of a batch.

    Several entries are combined: `five_crop` with `hflip` gives twelve views, including the image and its flip.

    Args:
        views: Specs of :data:`VIEWS`.
        average: ``probabilities`` for the logarithm of the mean probabilities. ``logits`` for the mean logits, which is
            the geometric mean of the probabilities and gives confident views a larger weight. Defaults to
            ``probabilities``.
        where: Place in the config or on the command line, for messages.

    Raises:
        SpecError: If a view or an argument is unknown.
        UserError: If ``average`` is unknown.

    Source: Shanmugam et al. 2021, "Better aggregation in test-time augmentation", arXiv 2011.11156.
    """

    __test__ = False  # the name begins with the prefix of pytest classes

    def __init__(self, views: Specs | Sequence[Spec], average: Average = "probabilities", where: str = "tta") -> None:
        self.views = [VIEWS.build(spec, where) for spec in as_list(views)]
        if average not in ("probabilities", "logits"):
            raise UserError(f"{where}: expected the average probabilities or logits, got {average!r}.")
        self.average = average

    def all_views(self, images: Tensor) -> list[Tensor]:
        """Return the images, followed by all other views."""
        found = [images]
        for view in self.views:
            found += [more for each in found for more in view(each)]
        return found

    def combine(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the mean of the logits of all views, each ``(batch, num_classes)``, as logits.

        Example:
            >>> two = [torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 1.0]]).log()]
            >>> TestTimeAugmentation("hflip").combine(two).softmax(1)
            tensor([[0.2500, 0.7500]])
        """
        stacked = torch.stack(list(logits))
        if self.average == "logits":
            return stacked.mean(dim=0)
        return stacked.float().log_softmax(dim=-1).logsumexp(dim=0) - torch.tensor(float(len(logits))).log()

    def __call__(self, model: Any, images: Tensor) -> Tensor:
        """Return the combined logits of ``model(images)`` over all views.

        Raises:
            UserError: If the model rejects images of another size.
        """
        return self.combine([self.run(model, view, images) for view in self.all_views(images)])

    def run(self, model: Any, view: Tensor, images: Tensor) -> Any:
        """Return ``model(view)``. Raise a clear error if the model rejects a view of another size than ``images``."""
        try:
            return model(view)
        except (RuntimeError, AssertionError, ValueError) as error:
            if view.shape == images.shape or isinstance(error, UserError):
                raise
            size, full = (f"{each.shape[-2]} x {each.shape[-1]}" for each in (view, images))
            raise UserError(
                f"tta: expected a model that accepts images of {size} pixels as well as {full} ({error}). Remove "
                "`scales`, or use other values."
            ) from error


def _resized(images: Tensor, height: int, width: int) -> Tensor:
    resized = F.interpolate(to_float(images), size=(height, width), mode="bilinear", antialias=True)
    return resized.clamp_(0, 1)
