"""Cross-entropy, on class indices and on class probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from imgrec.losses.base import LOSSES, expected_loss, full_precision
from imgrec.losses.class_weights import ClassWeighted, ClassWeights
from imgrec.utils.ranges import RightOpenUnitInterval, check_ranges


def cross_entropy(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None, label_smoothing: float = 0.0
) -> Tensor:
    """Return the weighted mean of ``-log q[target]``, with ``q`` the softmax of the logits.

    With class weights ``w`` it is the sum of ``w[target] * -log q[target]`` over the sum of ``w[target]``, as in
    ``torch.nn.functional.cross_entropy`` on indices. For probabilities ``p`` the weight of a sample is ``sum(p * w)``.
    One-hot probabilities and indices thus agree with any weights. torch divides by the batch size there.

    Smoothing ``e`` changes the sample loss to ``w[target] * (-(1 - e) log q[target] - e mean(log q))``.
    torch weights the classes of the smoothed part one by one, which moves the optimum (pytorch#104776). See
    :func:`imgrec.losses.base.expected_loss`.

    Args:
        logits: Float ``(batch, num_classes)``.
        targets: Int64 indices ``(batch,)`` or float probabilities ``(batch, num_classes)``.
        class_weights: Float ``(num_classes,)``. Defaults to equal weights.
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1). Defaults to 0.

    Returns:
        Scalar, float32 or wider.

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
class CrossEntropy(ClassWeighted):
    """Cross-entropy with optional label smoothing and class weights.

    Shapes: logits float ``(batch, num_classes)``. Targets int64 ``(batch,)`` or float ``(batch, num_classes)``.

    The weight of a label multiplies its whole smoothed target. With both options the largest class of the optimum is
    that of ``w_y p(y | x)``, as without smoothing. The combination in torch lacks this property (pytorch#104776).

    The weights are a buffer that is not saved. They follow from the arguments and from the facts of the data, both of
    which a checkpoint contains.

    Args:
        label_smoothing: Share of each target that is spread evenly over all classes, in [0, 1). Defaults to 0.
        class_weights: List of weights in the order of the classes, or a mapping from class names with weight 1 for
            missing names. ``balanced`` gives every class the same total weight. ``effective``, or ``{name: effective,
            beta: 0.999}``, uses the effective number of images (class-balanced loss). Defaults to equal weights.
        num_classes: Number of classes, a fact of the data.
        class_names: Names of the classes, a fact of the data.
        class_counts: Number of training images per class, a fact of the data.

    Raises:
        UserError: If label smoothing is outside [0, 1), or if the weights do not match the classes.

    See Also:
        :func:`cross_entropy`. Use :class:`LogitAdjusted` instead for long-tailed classes, :class:`BinaryCrossEntropy`
        for images with several classes.

    Source: label smoothing: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, 2016,
    arXiv:1512.00567. Effective number: Cui et al., Class-Balanced Loss Based on Effective Number of Samples, 2019,
    arXiv:1901.05555.

    Example::

        model:
          loss: {name: cross_entropy, label_smoothing: 0.1, class_weights: {name: effective, beta: 0.999}}

    >>> CrossEntropy(class_weights="balanced", class_counts=(30, 10)).class_weights
    tensor([0.6667, 2.0000])
    """

    @check_ranges
    def __init__(
        self,
        label_smoothing: RightOpenUnitInterval = 0.0,
        class_weights: ClassWeights = None,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        class_counts: Sequence[int] | None = None,
    ) -> None:
        super().__init__(class_weights, num_classes, class_names, class_counts)
        self.label_smoothing = float(label_smoothing)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar."""
        return cross_entropy(logits, targets, self.class_weights, self.label_smoothing)

    def extra_repr(self) -> str:
        """Return the arguments that ``print`` shows."""
        return f"label_smoothing={self.label_smoothing}"
