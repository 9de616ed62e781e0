"""Logit adjustment for long-tailed classes: the log prior of the classes is added to the logits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import LOSSES, full_precision
from imgrec.losses.class_weights import positive_counts
from imgrec.losses.cross_entropy import cross_entropy
from imgrec.utils.ranges import NonNegativeFloat, RightOpenUnitInterval, check_ranges


def log_prior(class_counts: Sequence[int]) -> Tensor:
    """Return the logarithm of the share of each class in the training images.

    Args:
        class_counts: Number of training images per class.

    Returns:
        Float32 ``(num_classes,)``.

    Raises:
        UserError: If a class has no training image.

    >>> log_prior([30, 10]).exp()
    tensor([0.7500, 0.2500])
    """
    counts = positive_counts(class_counts, "its logit cannot be adjusted")
    return (counts / counts.sum()).log().float()


def logit_adjusted_loss(
    logits: Tensor, targets: Tensor, log_prior: Tensor, tau: float = 1.0, label_smoothing: float = 0.0
) -> Tensor:
    """Return the cross-entropy of the logits plus ``tau`` times the logarithm of the class prior.

    Label smoothing ``e`` mixes the target with ``u ~ prior^tau``, the distribution that the adjusted softmax gives for
    equal logits: ``(1 - e) p + e u``. The minimizer is ``logit_y = log((1 - e) p(y | x) / prior_y^tau + e c)`` with a
    constant ``c``. It increases with ``p(y | x) / prior_y^tau``, so the predicted class is the one without smoothing.
    A uniform ``u`` would favor rare classes: it raises the logit of each other class by ``-tau log(prior)``.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        log_prior: Float ``(num_classes,)``, see :func:`log_prior`.
        tau: Factor of the log prior. 0 is cross-entropy. Defaults to 1.
        label_smoothing: Share of each target that is spread in the ratio of ``prior^tau``, in [0, 1). Defaults to 0.

    Returns:
        Scalar, float32 or wider.

    Example:
        >>> import torch
        >>> logit_adjusted_loss(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0.75, 0.25]).log()).exp()
        tensor(4.)
    """
    logits = full_precision(logits)
    adjustment = tau * log_prior.to(logits)
    adjusted = logits + adjustment
    loss = cross_entropy(adjusted, targets)
    if not label_smoothing:
        return loss
    smoothed = cross_entropy(adjusted, adjustment.softmax(dim=0).expand_as(adjusted))
    return (1 - label_smoothing) * loss + label_smoothing * smoothed


@LOSSES.register("logit_adjusted")
class LogitAdjusted(nn.Module):
    """Cross-entropy of logits plus the log prior, which enlarges the margin of rare classes (long tails).

    With tau 1, the logits without the prior, which evaluation uses, minimize the error averaged over the classes. Every
    class must occur in the training images.

    Label smoothing is applied after the adjustment. Its target is the adjusted softmax of equal logits, which is the
    prior. It thus does not change the predicted class of the optimum.

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        tau: Factor of the log prior, at least 0. 0 is cross-entropy. Defaults to 1, the value of the paper, which is
            balanced softmax.
        label_smoothing: Share of each target that is spread in the ratio of ``prior^tau``, in [0, 1). Defaults to 0.
        class_counts: Number of training images per class, a fact of the data.

    Raises:
        UserError: If ``tau`` is negative, if label smoothing is outside [0, 1), or if a class has no training image.

    See Also:
        :func:`logit_adjusted_loss`. Use ``class_weights`` of :class:`CrossEntropy` instead if the imbalance is
        moderate.

    Source: Menon et al., Long-Tail Learning via Logit Adjustment, 2021, arXiv:2007.07314; balanced softmax: Ren et al.,
    2020, arXiv:2007.10740; smoothing to a distribution other than the uniform: Szegedy et al., 2016, arXiv:1512.00567,
    section 7.

    Example::

        model:
          loss: {name: logit_adjusted, tau: 1.0}

    >>> import torch
    >>> LogitAdjusted(class_counts=(30, 10))(torch.zeros(1, 2), torch.tensor([1])).exp()
    tensor(4.)
    """

    log_prior: Tensor

    @check_ranges
    def __init__(
        self,
        tau: NonNegativeFloat = 1.0,
        label_smoothing: RightOpenUnitInterval = 0.0,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if class_counts is None:
            raise UserError("logit adjustment requires the training counts of the classes, `class_counts`.")
        self.tau = float(tau)
        self.label_smoothing = float(label_smoothing)
        self.register_buffer("log_prior", log_prior(class_counts), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return logit_adjusted_loss(logits, targets, self.log_prior, self.tau, self.label_smoothing)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"tau={self.tau}, label_smoothing={self.label_smoothing}"
