"""Learning what another network says: its logits, softened, as labels, taken apart, or by their correlation."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.losses.base import full_precision, in_range
from imgrec.losses.distillation.base import DISTILLATIONS, Distillation, Signals

_TINY = 1e-8


def softened_divergence(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, the mean over the batch.

    The square keeps the gradient as large as that of cross-entropy, whatever the temperature.

    Shapes: both float ``(batch, num_classes)``; a scalar, float32 or wider.

    >>> logits = torch.tensor([[2.0, 0.0]])
    >>> softened_divergence(logits, logits + 1)
    tensor(0.)
    """
    log_q = (full_precision(student) / temperature).log_softmax(1)
    log_p = (full_precision(teacher) / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def hard_label_loss(student: Tensor, teacher: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy with the class that the teacher holds to be the right one.

    Shapes: both float ``(batch, num_classes)``; a scalar, float32 or wider.
    """
    return F.cross_entropy(full_precision(student), teacher.argmax(1), label_smoothing=label_smoothing)


def decoupled_divergence(
    student: Tensor, teacher: Tensor, classes: Tensor, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0
) -> Tensor:
    """``T^2 * (alpha * TCKD + beta * NCKD)``: of the target class against all others, and among the others.

    TCKD is the divergence of the two-way distributions (target, all others), NCKD that of the distributions over the
    other classes alone. With ``beta`` one minus the teacher's probability of the target, per image, and ``alpha`` 1,
    it is :func:`softened_divergence`.

    Shapes: logits float ``(batch, num_classes)``; classes int64 ``(batch,)``; a scalar, float32 or wider.
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
    student: Tensor, teacher: Tensor, temperature: float = 1.0, between: float = 1.0, within: float = 1.0
) -> Tensor:
    """``T^2`` times one minus Pearson's correlation of the probabilities: of each image's, and of each class's.

    Shapes: both float ``(batch, num_classes)``; a scalar, float32 or wider.
    """
    q, p = ((full_precision(each) / temperature).softmax(1) for each in (student, teacher))
    return temperature**2 * (between * (1 - _pearson(q, p)) + within * (1 - _pearson(q.T, p.T)))


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    one, other = one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True)
    return F.cosine_similarity(one, other, dim=1, eps=_TINY).mean()  # rows that are nearly constant count as 0


@DISTILLATIONS.register("logits")
class SoftLogits(Distillation):
    """The divergence from the teacher's softened probabilities, times the temperature's square.

    Args:
        temperature: what both networks' logits are divided by; above 0. Higher ones show more of what the teacher
            thinks of the wrong classes.

    Source: Hinton, Vinyals and Dean, 2015, "Distilling the knowledge in a neural network", arXiv 1503.02531.

    Example::

        distillation: {name: logits, temperature: 4, weight: 0.9}
    """

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.check_arguments(temperature)
        self.temperature = float(temperature)

    @staticmethod
    def check_arguments(temperature: float = 4.0, **_: Any) -> None:
        """Refuse what is wrong whatever the networks may be."""
        in_range("temperature", temperature, open_low=True)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """A scalar."""
        return softened_divergence(student.logits, teacher.logits, self.temperature)


@DISTILLATIONS.register("hard")
class HardLabels(Distillation):
    """Cross-entropy with the class that the teacher names.

    Args:
        label_smoothing: the part of each such label, in [0, 1), that is spread evenly over all classes.

    Source: Touvron et al., 2021, "Training data-efficient image transformers and distillation through attention",
    arXiv 2012.12877.

    Example::

        distillation: {name: hard, label_smoothing: 0.1}
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.check_arguments(label_smoothing)
        self.label_smoothing = float(label_smoothing)

    @staticmethod
    def check_arguments(label_smoothing: float = 0.0, **_: Any) -> None:
        """Refuse what is wrong whatever the networks may be."""
        in_range("label_smoothing", label_smoothing, high=1.0, open_high=True)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """A scalar."""
        return hard_label_loss(student.logits, teacher.logits, self.label_smoothing)


@DISTILLATIONS.register("decoupled")
class DecoupledLogits(Distillation):
    """The divergence on the target class, and that among the other classes, each with a weight of its own.

    On mixed images the target class is the one with the largest share.

    Args:
        temperature: what both networks' logits are divided by; above 0.
        alpha: the weight of the target class against all others.
        beta: the weight of the other classes among one another; in plain distillation it is small where the teacher is
            sure.

    Source: Zhao et al., 2022, "Decoupled knowledge distillation", arXiv 2203.08679.

    Example::

        distillation: {name: decoupled, alpha: 1, beta: 8}
    """

    def __init__(self, temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0) -> None:
        super().__init__()
        self.check_arguments(temperature, alpha, beta)
        self.temperature = float(temperature)
        self.alpha = float(alpha)
        self.beta = float(beta)

    @staticmethod
    def check_arguments(temperature: float = 4.0, alpha: float = 1.0, beta: float = 8.0, **_: Any) -> None:
        """Refuse what is wrong whatever the networks may be."""
        in_range("temperature", temperature, open_low=True)
        in_range("alpha", alpha)
        in_range("beta", beta)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """A scalar."""
        classes = targets.argmax(1) if targets.is_floating_point() else targets
        return decoupled_divergence(student.logits, teacher.logits, classes, self.temperature, self.alpha, self.beta)


@DISTILLATIONS.register("correlation")
class Correlation(Distillation):
    """One minus the correlation with the teacher's probabilities: milder where the teacher is much stronger (DIST).

    Args:
        temperature: what both networks' logits are divided by; above 0.
        between: the weight of the correlation over the classes of an image.
        within: the weight of the correlation over the images of a batch, class by class.

    Source: Huang et al., 2022, "Knowledge distillation from a stronger teacher", arXiv 2205.10536.

    Example::

        distillation: {name: correlation, between: 2, within: 2}
    """

    def __init__(self, temperature: float = 1.0, between: float = 1.0, within: float = 1.0) -> None:
        super().__init__()
        self.check_arguments(temperature, between, within)
        self.temperature = float(temperature)
        self.between = float(between)
        self.within = float(within)

    @staticmethod
    def check_arguments(temperature: float = 1.0, between: float = 1.0, within: float = 1.0, **_: Any) -> None:
        """Refuse what is wrong whatever the networks may be."""
        in_range("temperature", temperature, open_low=True)
        in_range("between", between)
        in_range("within", within)

    def forward(self, student: Signals, teacher: Signals, targets: Tensor) -> Tensor:
        """A scalar."""
        return correlation_loss(student.logits, teacher.logits, self.temperature, self.between, self.within)
