"""Triplets: an image is to be nearer to one of its class than to one of another, by a margin."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.losses.base import full_precision, in_range
from imgrec.regularizers.base import REGULARIZERS
from imgrec.regularizers.pairwise import agreement
from imgrec.types import StepOutput
from imgrec.utils.vectors import unit_length

Margin = float | Literal["soft"]
Mining = Literal["hard", "semi_hard"]


def distances(features: Tensor) -> Tensor:
    """The Euclidean distance between each two vectors, ``(batch, batch)``; no gradient where it is 0.

    >>> distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[0., 5.],
            [5., 0.]])
    """
    return torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")


def triplet_loss(features: Tensor, targets: Tensor, margin: Margin = 0.2, mining: Mining = "hard") -> Tensor:
    """The mean over triplets of how much nearer the positive should be, a scalar; without a triplet, zero.

    ``hard`` takes for each image the farthest of its class and the nearest of another. ``semi_hard`` takes for each two
    images of a class the nearest of another class that is farther than the second, or the farthest where none is.

    Args:
        features: float ``(batch, feature_dim)``.
        targets: int64 ``(batch,)``, or float ``(batch, num_classes)`` probabilities: two images are of one class where
            they agree in more than half, and of two where they share none; other pairs make no triplet.
        margin: ``max(0, margin + positive - negative)`` counts; ``soft`` takes ``log(1 + exp(positive - negative))``.
        mining: which triplets.

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
    """Each image nearer to those of its class than to any of another, by a margin, in the space of the features.

    It compares the images of a process's batch: large batches, or a sampler that repeats classes, give it triplets.
    Mixed images are compared where they are clearly of one class or of different ones.

    Args:
        margin: how much nearer; or ``soft``, without an end.
        mining: ``hard``: for each image the farthest of its class and the nearest of another; ``semi_hard``: for each
            two images of a class the nearest of another class that is farther than the second.
        normalize: compare directions; the margin is then at most 2. Without, features of any length.

    Raises:
        UserError: a margin of 0 or less.

    Example::

        regularizers: {name: triplet, weight: 0.5, margin: 0.3, mining: semi_hard}

    Source: Schroff, Kalenichenko and Philbin, FaceNet, 2015, arXiv:1503.03832 (semi-hard); Hermans, Beyer and Leibe,
    In Defense of the Triplet Loss for Person Re-Identification, 2017, arXiv:1703.07737 (hard, soft).
    """

    def __init__(self, margin: Margin = 0.2, mining: Mining = "hard", normalize: bool = True) -> None:
        super().__init__()
        self.check_arguments(margin)
        self.margin = margin
        self.mining = mining
        self.normalize = normalize

    @staticmethod
    def check_arguments(margin: Margin = 0.2, **_: Any) -> None:
        """Refuse what is wrong whatever the model may be."""
        if margin != "soft":
            in_range("margin", margin, open_low=True)

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar; zero, with a gradient of zero, where the batch holds no triplet."""
        with torch.autocast(output.features.device.type, enabled=False):
            features = full_precision(output.features)
            features = unit_length(features) if self.normalize else features
            return triplet_loss(features, output.targets, self.margin, self.mining)
