"""Margin losses on the cosines of a cosine head: the right class has to win by an angle, or by a cosine."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from imgrec.errors import UserError
from imgrec.losses.base import LOSSES, as_probabilities, full_precision, in_range
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights
from imgrec.losses.cross_entropy import cross_entropy


def arcface_logits(logits: Tensor, targets: Tensor, scale: float, margin: float = 0.5) -> Tensor:
    """The logits after the margin was added to the angle between the features and their class.

    A mixed image has of each class its share of the margin. Where angle and margin together are more than a half turn,
    the cosine is lowered by ``margin * sin(margin)`` instead, as in the authors' code, so that more is always worse.

    Args:
        logits: float ``(batch, num_classes)``, ``scale`` times a cosine each.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        scale: what the cosines were multiplied by.
        margin: an angle in radians.

    Returns:
        Float ``(batch, num_classes)``; float32 or wider.
    """
    cosines = (full_precision(logits) / scale).clamp(-1, 1)
    angles = margin * as_probabilities(targets, cosines)
    # the floor keeps the root's gradient finite where features point straight at a class or away from it
    sines = (1 - cosines.square()).clamp_min(torch.finfo(cosines.dtype).eps).sqrt()
    turned = cosines * angles.cos() - sines * angles.sin()
    return scale * torch.where(cosines > -angles.cos(), turned, cosines - angles * angles.sin())


def cosface_logits(logits: Tensor, targets: Tensor, scale: float, margin: float = 0.35) -> Tensor:
    """The logits after the margin was taken from the cosine between the features and their class.

    A mixed image has of each class its share of the margin.

    Args:
        logits: float ``(batch, num_classes)``, ``scale`` times a cosine each.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        scale: what the cosines were multiplied by.
        margin: a difference of cosines.

    Returns:
        Float ``(batch, num_classes)``; float32 or wider.
    """
    logits = full_precision(logits)
    return logits - scale * margin * as_probabilities(targets, logits)


class MarginLoss(ClassWeighted):
    """The base class of margin losses: cross-entropy of the logits that :meth:`with_margin` gives.

    Args:
        margin: above 0.
        logit_scale: a fact of the network: what its cosine head multiplies the cosines by.
        **weighting: see :class:`imgrec.losses.class_weights.ClassWeighted`.
    """

    needs_head: ClassVar[str] = "cosine"
    """The registered head that it is made for; a subclass of that head's class will do."""

    largest_margin: ClassVar[float]

    def __init__(self, margin: float, logit_scale: float | None = None, **weighting: Any) -> None:
        self.check_arguments(margin)
        super().__init__(**weighting)
        if logit_scale is None:
            raise UserError("a margin loss needs the logits of a cosine head, and the scale of these, `logit_scale`.")
        self.margin = float(margin)
        self.logit_scale = in_range("logit_scale", logit_scale, open_low=True)

    @classmethod
    def check_arguments(cls, margin: float = 0.1, class_weights: ClassWeights = None, **_: Any) -> None:
        """Refuse what is wrong whatever network and data may be."""
        in_range("margin", margin, high=cls.largest_margin, open_low=True)
        check_class_weights(class_weights)

    @staticmethod
    def check_head(learnable: bool = False, **_: Any) -> None:
        """Refuse a head whose scale the loss could not know."""
        if learnable:
            raise UserError(
                "a margin is measured on cosines, so their scale has to be known and stay: `learnable: false`."
            )

    def with_margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The logits, less for the classes of the targets."""
        raise NotImplementedError

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return cross_entropy(self.with_margin(logits, targets), targets, self.class_weights)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"margin={self.margin}, logit_scale={self.logit_scale:g}"


@LOSSES.register("arcface")
class ArcFace(MarginLoss):
    """Additive angular margin: the right class has to win by an angle (a margin loss; needs the head `cosine`).

    Shapes: logits float ``(batch, num_classes)``, as a cosine head gives them; targets int64 ``(batch,)`` or float
    ``(batch, num_classes)``.

    The network's own logits are those of the cosine head, without the margin: accuracy is of them. The head's scale is
    the paper's 64 for a hundred thousand classes; for ten, 16 does.

    Args:
        margin: the angle in radians, above 0 and below a quarter turn.
        logit_scale: a fact of the network: what its cosine head multiplies the cosines by.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: a margin out of its range, another head than a cosine head or one with a learnable scale, or weights
            that do not fit the classes.

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

    largest_margin = math.pi / 2

    def __init__(self, margin: float = 0.5, logit_scale: float | None = None, **weighting: Any) -> None:
        super().__init__(margin, logit_scale, **weighting)

    def with_margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The logits, with the margin on the angles to the classes of the targets."""
        return arcface_logits(logits, targets, self.logit_scale, self.margin)


@LOSSES.register("cosface")
class CosFace(MarginLoss):
    """Additive cosine margin: the right class has to win by a cosine (a margin loss; needs the head `cosine`).

    Shapes: logits float ``(batch, num_classes)``, as a cosine head gives them; targets int64 ``(batch,)`` or float
    ``(batch, num_classes)``.

    The network's own logits are those of the cosine head, without the margin: accuracy is of them. The head's scale is
    the paper's 64 for ten thousand classes; for ten, 16 does.

    Args:
        margin: the difference of cosines, above 0 and at most 1.
        logit_scale: a fact of the network: what its cosine head multiplies the cosines by.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: a margin out of its range, another head than a cosine head or one with a learnable scale, or weights
            that do not fit the classes.

    Source: Wang et al., CosFace, 2018, arXiv:1801.09414; Wang et al., Additive Margin Softmax, 2018, arXiv:1801.05599.

    Example::

        model:
          head: {name: cosine, scale: 16}
          loss: {name: cosface, margin: 0.2}

    >>> import torch
    >>> CosFace(margin=0.25, logit_scale=8.0).with_margin(torch.tensor([[4.0, 1.0]]), torch.tensor([0]))
    tensor([[2., 1.]])
    """

    largest_margin = 1.0

    def __init__(self, margin: float = 0.35, logit_scale: float | None = None, **weighting: Any) -> None:
        super().__init__(margin, logit_scale, **weighting)

    def with_margin(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The logits, with the margin on the cosines to the classes of the targets."""
        return cosface_logits(logits, targets, self.logit_scale, self.margin)
