"""Cross-entropy, on class indices and on class probabilities alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.losses.base import LOSSES, expected_loss, full_precision, in_range
from imgrec.losses.class_weights import ClassWeights, check_class_weights, resolve_class_weights


def cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the weighted mean of ``-log q[target]``, with ``q`` the softmax of the logits.

    With class weights ``w`` it is the sum of ``w[target] * -log q[target]`` over the sum of ``w[target]``, as in
    ``torch.nn.functional.cross_entropy`` on indices. For probabilities ``p`` the weight of a sample is ``sum(p * w)``,
    so that one-hot probabilities and indices agree with any weights. torch divides by the batch size there.

    With both weights and smoothing ``e``, the sample loss is ``w[target] * (-(1 - e) log q[target] - e mean(log q))``.
    torch weights the classes of the smoothed part one by one, which moves the optimum (pytorch#104776); see
    :func:`imgrec.losses.base.expected_loss`.

    Args:
        logits: float ``(batch, num_classes)``.
        targets: int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        class_weights: float ``(num_classes,)``.
        label_smoothing: part of each target that is spread evenly over all classes; in [0, 1).

    Returns:
        A scalar; float32 or wider.

    >>> import torch
    >>> cross_entropy(torch.zeros(1, 10), torch.tensor([3])).exp()
    tensor(10.)
    """
    logits = full_precision(logits)
    weights = None if class_weights is None else class_weights.to(logits)
    if weights is not None and label_smoothing:
        return expected_loss(-logits.log_softmax(dim=1), targets, weights, label_smoothing)
    if not targets.is_floating_point():
        return F.cross_entropy(logits, targets, weights, label_smoothing=label_smoothing)
    probabilities = targets.to(logits.dtype)
    if weights is None:
        return F.cross_entropy(logits, probabilities, label_smoothing=label_smoothing)
    return F.cross_entropy(logits, probabilities, weights, reduction="sum") / (probabilities * weights).sum()


@LOSSES.register("cross_entropy")
class CrossEntropy(nn.Module):
    """Cross-entropy with optional label smoothing and class weights.

    Shapes: logits float ``(batch, num_classes)``; targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    The weight of a label multiplies its whole smoothed target. With both options the largest class of the optimum is
    that of ``w_y p(y | x)``, as without smoothing. torch's own combination lacks this property (pytorch#104776).

    The weights are a buffer that is not saved. They follow from the arguments and from the facts of the data, both of
    which a checkpoint holds.

    Args:
        label_smoothing: part of each target that is spread evenly over all classes; in [0, 1), 0 by default.
        class_weights: one weight a class; a mapping by class name, where classes that are not named weigh 1;
            ``balanced``: every class counts as much as any other; or ``effective``, on request with its ``beta`` as
            ``{name: effective, beta: 0.999}``: the class-balanced loss, by the effective number of images.
        num_classes: a fact of the data.
        class_names: a fact of the data.
        class_counts: a fact of the data.

    Raises:
        UserError: label smoothing outside [0, 1), or weights that do not fit the classes.

    Source: label smoothing: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016,
    arXiv:1512.00567. Effective number: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019,
    arXiv:1901.05555.

    Example::

        model:
          loss: {name: cross_entropy, label_smoothing: 0.1, class_weights: {name: effective, beta: 0.999}}

    >>> CrossEntropy(class_weights="balanced", class_counts=(30, 10)).class_weights
    tensor([0.6667, 2.0000])
    """

    class_weights: Tensor | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: ClassWeights = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.check_arguments(label_smoothing)
        self.label_smoothing = float(label_smoothing)
        weights = resolve_class_weights(class_weights, num_classes, class_names, class_counts)
        self.register_buffer("class_weights", weights, persistent=False)

    @staticmethod
    def check_arguments(label_smoothing: float = 0.0, class_weights: ClassWeights = None, **_: Any) -> None:
        """Refuse what is wrong whatever the data may be."""
        in_range("label_smoothing", label_smoothing, high=1.0, open_high=True)
        check_class_weights(class_weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return cross_entropy(logits, targets, self.class_weights, self.label_smoothing)

    def extra_repr(self) -> str:
        """What ``print`` shows of it."""
        return f"label_smoothing={self.label_smoothing}"
