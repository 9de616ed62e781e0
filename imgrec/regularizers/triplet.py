"""Triplet loss on the features of a batch."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.losses.base import full_precision
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.pairwise import agreement
from imgrec.types import StepOutput
from imgrec.utils.ranges import PositiveFloat, check_ranges
from imgrec.utils.vectors import unit_length

Margin = PositiveFloat | Literal["soft"]
Mining = Literal["hard", "semi_hard"]


def distances(features: Tensor) -> Tensor:
    """Return the Euclidean distance between each pair of vectors, ``(batch, batch)``. The gradient is 0 at distance 0.

    >>> distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[0., 5.],
            [5., 0.]])
    """
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")


def triplet_loss(features: Tensor, targets: Tensor, margin: Margin = 0.2, mining: Mining = "hard") -> Tensor:
    """Return the mean over triplets of the violated margin between positive and negative distance, a scalar.

    ``hard`` selects per image the farthest image of its class and the nearest image of another class. ``semi_hard``
    selects for each pair of a class the nearest image of another class that is farther than the pair. If there is none,
    it selects the farthest one. The loss is zero if the batch has no triplet.

    Args:
        features: Float ``(batch, feature_dim)``.
        targets: Int64 ``(batch,)`` or float probabilities ``(batch, num_classes)``. Two images have the same class if
            their agreement is above 0.5, and different classes if it is 0. Other pairs are ignored.
        margin: Margin of ``max(0, margin + positive - negative)``. ``soft`` is ``log(1 + exp(positive - negative))``.
            Defaults to 0.2.
        mining: Selection of triplets, ``hard`` or ``semi_hard``. Defaults to ``hard``.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [3.0]])
        >>> triplet_loss(features, torch.tensor([0, 0, 1]), margin=1.5)  # (0 + 0.5) / 2
        tensor(0.2500)
    """
    features = full_precision(features)
    apart, alike = distances(features), agreement(targets)
    same = (alike > 0.5) & ~torch.eye(len(features), dtype=torch.bool, device=features.device)
    other = alike == 0
    if mining == "hard":
        valid = same.any(1) & other.any(1)
        positive = apart.masked_fill(~same, -torch.inf).amax(1)[valid]
        negative = apart.masked_fill(~other, torch.inf).amin(1)[valid]
    else:
        valid = same & other.any(1, keepdim=True)
        ordered, order = apart.detach().masked_fill(~other, torch.inf).sort(1)
        farther = torch.searchsorted(ordered, apart.detach().contiguous(), right=True)
        taken = torch.minimum(farther, other.sum(1, keepdim=True) - 1).clamp_min(0)
        positive, negative = apart[valid], apart.gather(1, order.gather(1, taken))[valid]
    if not len(positive):
        return features.sum() * 0
    gap = positive - negative
    return F.softplus(gap).mean() if margin == "soft" else (gap + margin).clamp_min(0).mean()


@REGULARIZERS.register("triplet")
class Triplet(nn.Module):
    """Triplet loss: each image nearer to images of its class than to images of other classes, by a margin.

    It compares the images of the batch of one process. Large batches, or a sampler that repeats classes, provide
    triplets. Pairs of mixed images are used only if they have clearly the same class or different classes.

    Args:
        margin: Margin of the distances, above 0, or ``soft`` for a smooth loss without a bound. Defaults to 0.2.
        mining: ``hard`` selects per image the farthest image of its class and the nearest of another class.
            ``semi_hard`` selects for each pair of a class the nearest other image that is farther than the pair.
            Defaults to ``hard``.
        normalize: ``True`` normalizes features to length 1. The margin is then at most 2. Defaults to ``True``.

    Raises:
        UserError: If ``margin`` is not above 0.

    Example::

        regularizers: {name: triplet, weight: 0.5, margin: 0.3, mining: semi_hard}

    See Also:
        :func:`triplet_loss`. Use :class:`SupervisedContrastive` instead with large batches.

    Source: Schroff, Kalenichenko and Philbin, FaceNet, 2015, arXiv:1503.03832 (semi-hard); Hermans, Beyer and Leibe,
    In Defense of the Triplet Loss for Person Re-Identification, 2017, arXiv:1703.07737 (hard, soft).
    """

    @check_ranges
    def __init__(self, margin: Margin = 0.2, mining: Mining = "hard", normalize: bool = True) -> None:
        super().__init__()
        self.margin = margin
        self.mining = mining
        self.normalize = normalize

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar. It and its gradient are zero if the batch has no triplet."""
        with torch.autocast(output.features.device.type, enabled=False):
            features = full_precision(output.features)
            features = unit_length(features) if self.normalize else features
            return triplet_loss(features, output.targets, self.margin, self.mining)
