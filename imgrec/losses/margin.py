"""Margin losses on the cosines of a cosine head: ArcFace and CosFace."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt, Le
from torch import Tensor

from imgrec.errors import UserError
from imgrec.losses.base import LOSSES, as_probabilities, full_precision
from imgrec.losses.class_weights import ClassWeighted
from imgrec.losses.cross_entropy import cross_entropy
from imgrec.utils.ranges import LeftOpenUnitInterval, PositiveFloat, check_ranges


def arcface_logits(logits: Tensor, targets: Tensor, scale: float, margin: float = 0.5) -> Tensor:
    """Return the logits after adding the margin to the angle between the features and their class.

    The margin of a mixed image is weighted by the share of each class. If angle and margin add up to more than pi, the
    cosine is reduced by ``margin * sin(margin)`` instead, as in the authors' code. The logit thus decreases with the
    angle.

    Args:
        logits: Float ``(batch, num_classes)``, cosines times ``scale``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        scale: Factor of the cosines.
        margin: Angle in radians. Defaults to 0.5.

    Returns:
        Float ``(batch, num_classes)``, float32 or wider.
    """
    cosines = (full_precision(logits) / scale).clamp(-1, 1)
    angles = margin * as_probabilities(targets, cosines)
    # the lower bound keeps the gradient of the root finite for features parallel to a class vector
    sines = (1 - cosines.square()).clamp_min(torch.finfo(cosines.dtype).eps).sqrt()
    rotated = cosines * angles.cos() - sines * angles.sin()
    return scale * torch.where(cosines > -angles.cos(), rotated, cosines - angles * angles.sin())


def cosface_logits(logits: Tensor, targets: Tensor, scale: float, margin: float = 0.35) -> Tensor:
    """Return the logits after subtracting the margin from the cosine between the features and their class.

    The margin of a mixed image is weighted by the share of each class.

    Args:
        logits: Float ``(batch, num_classes)``, cosines times ``scale``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        scale: Factor of the cosines.
        margin: Difference of cosines. Defaults to 0.35.

    Returns:
        Float ``(batch, num_classes)``, float32 or wider.
    """
    logits = full_precision(logits)
    return logits - scale * margin * as_probabilities(targets, logits)


def arcface_loss(
    logits: Tensor, targets: Tensor, scale: float, margin: float = 0.5, class_weights: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of :func:`arcface_logits`, a scalar.

    Args:
        logits: Float ``(batch, num_classes)``, cosines times ``scale``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        scale: Factor of the cosines.
        margin: Angle in radians. Defaults to 0.5.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.

    Example:
        >>> logits, targets = torch.tensor([[8.0, 1.0]]), torch.tensor([0])
        >>> bool(arcface_loss(logits, targets, scale=8.0) > cross_entropy(logits, targets))
        True
    """
    return cross_entropy(arcface_logits(logits, targets, scale, margin), targets, class_weights)


def cosface_loss(
    logits: Tensor, targets: Tensor, scale: float, margin: float = 0.35, class_weights: Tensor | None = None
) -> Tensor:
    """Return the cross-entropy of :func:`cosface_logits`, a scalar.

    Args:
        logits: Float ``(batch, num_classes)``, cosines times ``scale``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        scale: Factor of the cosines.
        margin: Difference of cosines. Defaults to 0.35.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.

    Example:
        >>> cosface_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([0]), scale=4.0, margin=0.5).exp()
        tensor(2.)
    """
    return cross_entropy(cosface_logits(logits, targets, scale, margin), targets, class_weights)


class MarginLoss(ClassWeighted):
    """Base class of margin losses: cross-entropy of the logits of :meth:`with_margin`.

    Args:
        margin: Margin, above 0.
        logit_scale: Factor of the cosines in the cosine head, a fact of the network.
        **weighting: Arguments of :class:`imgrec.losses.class_weights.ClassWeighted`.
    """

    needs_head: ClassVar[str] = "cosine"
    """Required registered head, or a subclass of its class."""

    @check_ranges
    def __init__(self, margin: PositiveFloat, logit_scale: PositiveFloat | None = None, **weighting: Any) -> None:
        super().__init__(**weighting)
        if logit_scale is None:
            raise UserError("a margin loss requires the logits of a cosine head, and their scale, `logit_scale`.")
        self.margin = float(margin)
        self.logit_scale = float(logit_scale)

    @staticmethod
    def check_head(learnable: bool = False, **_: Any) -> None:
        """Raise an error if the scale of the head is learnable."""
        if learnable:
            raise UserError("a margin loss requires a cosine head with a constant scale. Set `learnable: false`.")

    def with_margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits, reduced for the classes of the targets."""
        raise NotImplementedError

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return cross_entropy(self.with_margin(logits, targets), targets, self.class_weights)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"margin={self.margin}, logit_scale={self.logit_scale:g}"


@LOSSES.register("arcface")
class ArcFace(MarginLoss):
    """Additive angular margin between the features and the class vectors (margin loss, requires the head ``cosine``).

    Shapes: logits float ``(batch, num_classes)`` of a cosine head. Targets int64 ``(batch,)`` or float ``(batch,
    num_classes)``.

    Accuracy is computed from the logits of the cosine head, without the margin. The scale of the head is 64 in the
    paper, for 100,000 classes. 16 is enough for ten classes.

    Args:
        margin: Angle in radians, in (0, pi / 2]. Defaults to 0.5.
        logit_scale: Factor of the cosines in the cosine head, a fact of the network.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If ``margin`` is out of range, the head is no cosine head or has a learnable scale, or the weights do
            not match the classes.

    See Also:
        :func:`arcface_loss`. Use :class:`CosFace` instead if training with an angular margin is unstable.

    Source: Deng et al., ArcFace, 2019, arXiv:1801.07698.

    Example::

        model:
          head: {name: cosine, scale: 16}
          loss: {name: arcface, margin: 0.3}

    >>> import torch
    >>> loss = ArcFace(margin=math.pi / 3, logit_scale=1.0)
    >>> loss.with_margin(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).round(decimals=3)
    tensor([[ 1.0000, -0.8660]])
    """

    @check_ranges
    def __init__(
        self,
        margin: Annotated[float, Gt(0), Le(math.pi / 2)] = 0.5,
        logit_scale: PositiveFloat | None = None,
        **weighting: Any,
    ) -> None:
        super().__init__(margin, logit_scale, **weighting)

    def with_margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits with the margin on the angles to the classes of the targets."""
        return arcface_logits(logits, targets, self.logit_scale, self.margin)


@LOSSES.register("cosface")
class CosFace(MarginLoss):
    """Additive cosine margin between the features and the class vectors (margin loss, requires the head ``cosine``).

    Shapes: logits float ``(batch, num_classes)`` of a cosine head. Targets int64 ``(batch,)`` or float ``(batch,
    num_classes)``.

    Accuracy is computed from the logits of the cosine head, without the margin. The scale of the head is 64 in the
    paper, for 10,000 classes. 16 is enough for ten classes.

    Args:
        margin: Difference of cosines, in (0, 1]. Defaults to 0.35.
        logit_scale: Factor of the cosines in the cosine head, a fact of the network.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If ``margin`` is out of range, the head is no cosine head or has a learnable scale, or the weights do
            not match the classes.

    See Also:
        :func:`cosface_loss`. Use :class:`ArcFace` instead for a margin that is constant on the sphere.

    Source: Wang et al., CosFace, 2018, arXiv:1801.09414; Wang et al., Additive Margin Softmax, 2018, arXiv:1801.05599.

    Example::

        model:
          head: {name: cosine, scale: 16}
          loss: {name: cosface, margin: 0.2}

    >>> import torch
    >>> CosFace(margin=0.25, logit_scale=8.0).with_margin(torch.tensor([[4.0, 1.0]]), torch.tensor([0]))
    tensor([[2., 1.]])
    """

    @check_ranges
    def __init__(
        self, margin: LeftOpenUnitInterval = 0.35, logit_scale: PositiveFloat | None = None, **weighting: Any
    ) -> None:
        super().__init__(margin, logit_scale, **weighting)

    def with_margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the logits with the margin on the cosines to the classes of the targets."""
        return cosface_logits(logits, targets, self.logit_scale, self.margin)
