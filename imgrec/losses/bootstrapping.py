"""Bootstrapping: targets mixed with the predictions of the network, for noisy labels."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean, one_of
from imgrec.losses.class_weights import ClassWeighted
from imgrec.utils.ranges import LeftOpenUnitInterval, check_ranges

_BETAS = {"soft": 0.95, "hard": 0.8}
"""Values of the paper."""


def bootstrapped_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    kind: Literal["soft", "hard"] = "hard",
    beta: float | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the cross-entropy with the target ``beta * p + (1 - beta) * own``, where ``own`` is the prediction.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        kind: ``soft`` mixes in the predicted probabilities, with their gradient, which adds a penalty on the entropy.
            ``hard`` mixes in the predicted class. Defaults to ``hard``.
        beta: Share of the given target, in [0, 1]. Defaults to 0.95 for ``soft`` and 0.8 for ``hard``.
        class_weights: Float ``(num_classes,)``. The weight of an image is the mean weight of its given classes.

    Returns:
        Scalar, float32 or wider.

    Example:
        >>> import torch
        >>> bootstrapped_cross_entropy(torch.zeros(1, 4), torch.tensor([2]), "soft", beta=0.5).exp()
        tensor(4.)
    """
    share = _BETAS[kind] if beta is None else beta
    log_q = full_precision(logits).log_softmax(dim=1)
    own = log_q.exp() if kind == "soft" else as_probabilities(log_q.argmax(dim=1), log_q)
    mixed = share * as_probabilities(targets, log_q) + (1 - share) * own
    return image_mean(-(mixed * log_q).sum(dim=1), targets, class_weights)


@LOSSES.register("bootstrapping")
class Bootstrapping(ClassWeighted):
    """Cross-entropy with targets that are mixed with the predictions of the network (label noise).

    It requires a partly trained network: train with cross-entropy for the first epochs, or use a large beta.

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        kind: ``soft`` mixes in the predicted probabilities, ``hard`` the predicted class. Defaults to ``hard``.
        beta: Share of the given target, in (0, 1]. 1 is cross-entropy. Defaults to the values of the paper, 0.95 for
            ``soft`` and 0.8 for ``hard``.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data from which
            they are computed.

    Raises:
        UserError: If ``beta`` is out of range, or if the weights do not match the classes.

    See Also:
        :func:`bootstrapped_cross_entropy`. Use :class:`GeneralizedCrossEntropy` instead from the first epoch on.

    Source: Reed et al., Training Deep Neural Networks on Noisy Labels with Bootstrapping, 2015, arXiv:1412.6596.

    Example::

        model:
          loss: {name: bootstrapping, kind: soft}

    >>> import torch
    >>> Bootstrapping("soft", beta=0.5)(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor(4.)
    """

    @check_ranges
    def __init__(
        self, kind: Literal["soft", "hard"] = "hard", beta: LeftOpenUnitInterval | None = None, **weighting: Any
    ) -> None:
        one_of("kind", kind, tuple(_BETAS))
        super().__init__(**weighting)
        self.kind: Literal["soft", "hard"] = kind
        self.beta = _BETAS[kind] if beta is None else float(beta)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return bootstrapped_cross_entropy(logits, targets, self.kind, self.beta, self.class_weights)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"kind={self.kind!r}, beta={self.beta}"
