"""Bootstrapping: what the network says itself is a part of the target, for noisy labels."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from imgrec.losses.base import LOSSES, as_probabilities, full_precision, image_mean, in_range, one_of
from imgrec.losses.class_weights import ClassWeighted, ClassWeights, check_class_weights

_BETAS = {"soft": 0.95, "hard": 0.8}
"""The paper's choices."""


def bootstrapped_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    kind: Literal["soft", "hard"] = "hard",
    beta: float | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Cross-entropy with the target ``beta * p + (1 - beta) * own``, where ``own`` is what the network says.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        kind: ``soft``: its probabilities, through which the gradient goes too, so that it is cross-entropy with a
            penalty on the entropy; ``hard``: the one class that it names.
        beta: the part of the given target, in [0, 1]; left out, 0.95 for soft and 0.8 for hard.
        class_weights: float ``(num_classes,)``; an image weighs what its given classes weigh on average.

    Returns:
        A scalar; float32 or wider.
    """
    share = _BETAS[kind] if beta is None else beta
    log_q = full_precision(logits).log_softmax(dim=1)
    own = log_q.exp() if kind == "soft" else as_probabilities(log_q.argmax(dim=1), log_q)
    mixed = share * as_probabilities(targets, log_q) + (1 - share) * own
    return image_mean(-(mixed * log_q).sum(dim=1), targets, class_weights)


@LOSSES.register("bootstrapping")
class Bootstrapping(ClassWeighted):
    """Cross-entropy whose targets are in part what the network says itself, soft or hard (label noise).

    It helps once the network knows something: cross-entropy alone for the first epochs, or a gentle beta.

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    Args:
        kind: ``soft`` takes the network's probabilities, ``hard`` the one class that it names.
        beta: the part of the given target, above 0 and at most 1; 1 is cross-entropy. Left out, it is the paper's: 0.95
            for soft, 0.8 for hard.
        **weighting: ``class_weights``, see :class:`imgrec.losses.CrossEntropy`, and the facts of the data that they
            are worked out from.

    Raises:
        UserError: beta out of its range, or weights that do not fit the classes.

    Source: Reed et al., Training Deep Neural Networks on Noisy Labels with Bootstrapping, 2015, arXiv:1412.6596.

    Example::

        model:
          loss: {name: bootstrapping, kind: soft}

    >>> import torch
    >>> Bootstrapping("soft", beta=0.5)(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor(4.)
    """

    def __init__(self, kind: Literal["soft", "hard"] = "hard", beta: float | None = None, **weighting: Any) -> None:
        self.check_arguments(kind, beta)
        super().__init__(**weighting)
        self.kind: Literal["soft", "hard"] = kind
        self.beta = _BETAS[kind] if beta is None else float(beta)

    @staticmethod
    def check_arguments(
        kind: str = "hard", beta: float | None = None, class_weights: ClassWeights = None, **_: Any
    ) -> None:
        """Refuse what is wrong whatever the data may be."""
        one_of("kind", kind, tuple(_BETAS))
        if beta is not None:
            in_range("beta", beta, high=1.0, open_low=True)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return bootstrapped_cross_entropy(logits, targets, self.kind, self.beta, self.class_weights)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"kind={self.kind!r}, beta={self.beta}"
