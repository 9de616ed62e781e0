"""Distillation of logits: softened probabilities, hard labels, decoupled terms and correlation."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.losses.base import full_precision
from imgrec.losses.distillation.base import DISTILLATIONS, Distillation, Signals
from imgrec.utils.ranges import NonNegativeFloat, PositiveFloat, RightOpenUnitInterval, check_ranges

_TINY = 1e-8


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Return ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, the mean over the batch.

    The factor keeps the scale of the gradient independent of the temperature.

    Shapes: both float ``(batch, num_classes)``, to a scalar, float32 or wider.

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> softened_divergence(logits, logits + 1)
    tensor(0.)
    """
    log_q = (full_precision(student) / temperature).log_softmax(1)
    log_p = (full_precision(teacher) / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def hard_label_loss(student: Tensor, teacher: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy with the class that the teacher predicts.

    Shapes: both float ``(batch, num_classes)``, to a scalar, float32 or wider.

    Example:
        >>> hard_label_loss(torch.zeros(1, 4), torch.tensor([[0.0, 9.0, 0.0, 0.0]])).exp()
        tensor(4.)
    """
    return F.cross_entropy(full_precision(student), teacher.argmax(1), label_smoothing=label_smoothing)


def decoupled_divergence(
    student: Tensor, teacher: Tensor, classes: Tensor, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """Return ``T^2 * (alpha * TCKD + beta * NCKD)``: the divergence on the target class, and on the other classes.

    TCKD is the divergence of the two-way distributions (target, all others). NCKD is the divergence of the
    distributions over the other classes. With ``beta`` one minus the teacher's probability of the target, per image,
    and ``alpha`` 1, it is :func:`softened_divergence`.

    Shapes: logits float ``(batch, num_classes)``, classes int64 ``(batch,)``, to a scalar, float32 or wider.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 1.0]])
        >>> decoupled_divergence(logits, logits, torch.tensor([0]))
        tensor(0.)
    """
    log_q, log_p = ((full_precision(each) / temperature).log_softmax(1) for each in (student, teacher))
    others = torch.ones_like(log_q, dtype=torch.bool).scatter_(1, classes[:, None], False)
    rest_q, rest_p = (each[others].view(len(each), -1) for each in (log_q, log_p))
    two_q, two_p = (
        torch.cat([each.gather(1, classes[:, None]), rest.logsumexp(1, keepdim=True)], 1)
        for each, rest in ((log_q, rest_q), (log_p, rest_p))
    )
    target = F.kl_div(two_q, two_p, reduction="batchmean", log_target=True)
    among = F.kl_div(rest_q.log_softmax(1), rest_p.log_softmax(1), reduction="batchmean", log_target=True)
    return temperature**2 * (alpha * target + beta * among)


def correlation_loss(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, inter: float = 1.0, intra: float = 1.0
) -> Tensor:
    """Return ``T^2`` times one minus the Pearson correlation of the probabilities, per image and per class.

    ``inter`` weights the relations between classes of an image, ``intra`` those between images within a class.

    Shapes: both float ``(batch, num_classes)``, to a scalar, float32 or wider.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]])
        >>> bool(correlation_loss(logits, logits) < 1e-6)
        True
    """
    q, p = ((full_precision(each) / temperature).softmax(1) for each in (student, teacher))
    return temperature**2 * (inter * (1 - _pearson(q, p)) + intra * (1 - _pearson(q.T, p.T)))


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    return F.cosine_similarity(one, other, dim=1, eps=_TINY).mean()  # rows that are nearly constant count as 0


@DISTILLATIONS.register("logits")
class SoftLogits(Distillation):
    """Divergence from the softened probabilities of the teacher, times the square of the temperature.

    Args:
        temperature: Divisor of the logits of both networks, above 0. Larger values emphasize the teacher's
            probabilities of the wrong classes. Defaults to 4.

    See Also:
        :func:`softened_divergence`. Use :class:`DecoupledLogits` instead if the teacher is very confident.

    Source: Hinton, Vinyals and Dean, 2015, "Distilling the knowledge in a neural network", arXiv 1503.02531.

    Example::

        distillation: {name: logits, temperature: 4, weight: 0.9}
    """

    @check_ranges
    def __init__(self, temperature: PositiveFloat = 4.0) -> None:
        super().__init__()
        self.temperature = float(temperature)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return softened_divergence(student.logits, teacher.logits, self.temperature)


@DISTILLATIONS.register("hard")
class HardLabels(Distillation):
    """Cross-entropy with the class that the teacher predicts.

    Args:
        label_smoothing: Share of each label that is spread evenly over all classes, in [0, 1). Defaults to 0.

    See Also:
        :func:`hard_label_loss`. Use :class:`SoftLogits` instead to use the probabilities of all classes.

    Source: Touvron et al., 2021, "Training data-efficient image transformers and distillation through attention",
    arXiv 2012.12877.

    Example::

        distillation: {name: hard, label_smoothing: 0.1}
    """

    @check_ranges
    def __init__(self, label_smoothing: RightOpenUnitInterval = 0.0) -> None:
        super().__init__()
        self.label_smoothing = float(label_smoothing)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return hard_label_loss(student.logits, teacher.logits, self.label_smoothing)


@DISTILLATIONS.register("decoupled")
class DecoupledLogits(Distillation):
    """Decoupled knowledge distillation: separate weights for the target class and for the other classes.

    The target class of a mixed image is the one with the largest share.

    Args:
        temperature: Divisor of the logits of both networks, above 0. Defaults to 4.
        alpha: Weight of the target class against all others, at least 0. Defaults to 1.
        beta: Weight of the distribution over the other classes, at least 0. In plain distillation it is small for a
            confident teacher. Defaults to 8.

    See Also:
        :func:`decoupled_divergence`. Use :class:`SoftLogits` instead to set one parameter.

    Source: Zhao et al., 2022, "Decoupled knowledge distillation", arXiv 2203.08679.

    Example::

        distillation: {name: decoupled, alpha: 1, beta: 8}
    """

    @check_ranges
    def __init__(
        self, temperature: PositiveFloat = 4.0, alpha: NonNegativeFloat = 1.0, beta: NonNegativeFloat = 8.0
    ) -> None:
        super().__init__()
        self.temperature = float(temperature)
        self.alpha = float(alpha)
        self.beta = float(beta)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        classes = targets.argmax(1) if targets.is_floating_point() else targets
        return decoupled_divergence(student.logits, teacher.logits, classes, self.temperature, self.alpha, self.beta)


@DISTILLATIONS.register("correlation")
class Correlation(Distillation):
    """One minus the correlation with the probabilities of the teacher, suited to a much stronger teacher (DIST).

    Args:
        temperature: Divisor of the logits of both networks, above 0. Defaults to 1.
        between: Weight of the correlation over the classes of an image, at least 0. Defaults to 1.
        within: Weight of the correlation over the images of a batch, per class, at least 0. Defaults to 1.

    See Also:
        :func:`correlation_loss`. Use :class:`SoftLogits` instead for small batches.

    Source: Huang et al., 2022, "Knowledge distillation from a stronger teacher", arXiv 2205.10536.

    Example::

        distillation: {name: correlation, between: 2, within: 2}
    """

    @check_ranges
    def __init__(
        self, temperature: PositiveFloat = 1.0, between: NonNegativeFloat = 1.0, within: NonNegativeFloat = 1.0
    ) -> None:
        super().__init__()
        self.temperature = float(temperature)
        self.between = float(between)
        self.within = float(within)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """Return the loss, a scalar."""
        return correlation_loss(student.logits, teacher.logits, self.temperature, self.between, self.within)
