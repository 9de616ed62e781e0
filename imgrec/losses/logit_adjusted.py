"""Cross-entropy for long tails: the classes' shares of the training images are added to the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses.base import LOSSES, full_precision, in_range
from imgrec.losses.class_weights import positive_counts
from imgrec.losses.cross_entropy import cross_entropy


def log_prior(class_counts: Sequence[int]) -> Tensor:
    """The logarithm of each class's share of the training images.

    Returns:
        float32 ``(num_classes,)``.

    Raises:
        UserError: a class has no training image.

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
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        log_prior: float ``(num_classes,)``, see :func:`log_prior`.
        tau: factor of the log prior; 0 is cross-entropy.
        label_smoothing: part of each target that is spread over the classes in the ratio of ``prior^tau``; in [0, 1).

    Returns:
        A scalar; float32 or wider.
    """
    logits = full_precision(logits)
    adjustment = tau * log_prior.to(logits)
    adjusted = logits + adjustment
    loss = cross_entropy(adjusted, targets)
    if not label_smoothing:
        return loss
    unsure = cross_entropy(adjusted, adjustment.softmax(dim=0).expand_as(adjusted))
    return (1 - label_smoothing) * loss + label_smoothing * unsure


@LOSSES.register("logit_adjusted")
class LogitAdjusted(nn.Module):
    """Cross-entropy after adding the classes' log prior to the logits: a rare class has to win by more (long tails).

    With tau 1, the network's own logits, to which nothing is added in evaluation, aim at the least error averaged over
    the classes, whatever their sizes. It needs every class in the training images.

    Label smoothing is applied after the adjustment: it draws the network's own logits to equal ones, which are the
    prior after the adjustment. It thus leaves the predicted class of the optimum as it is.

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        tau: how much of the prior is added, at least 0; 0 is cross-entropy, 1 the paper's choice and balanced softmax.
        label_smoothing: part of each target that is spread over the classes in the ratio of ``prior^tau``; in [0, 1),
            0 by default.
        class_counts: a fact of the data.

    Raises:
        UserError: a negative tau, label smoothing outside [0, 1), or a class without training images.

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

    def __init__(
        self, tau: float = 1.0, label_smoothing: float = 0.0, class_counts: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.check_arguments(tau, label_smoothing)
        if class_counts is None:
            raise UserError("logit adjustment needs the training counts of the classes, `class_counts`.")
        self.tau = float(tau)
        self.label_smoothing = float(label_smoothing)
        self.register_buffer("log_prior", log_prior(class_counts), persistent=False)

    @staticmethod
    def check_arguments(tau: float = 1.0, label_smoothing: float = 0.0, **_: Any) -> None:
        """Refuse what is wrong whatever the data may be."""
        in_range("tau", tau)
        in_range("label_smoothing", label_smoothing, high=1.0, open_high=True)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return logit_adjusted_loss(logits, targets, self.log_prior, self.tau, self.label_smoothing)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"tau={self.tau}, label_smoothing={self.label_smoothing}"
