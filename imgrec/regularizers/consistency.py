"""Consistency: what a network says of two views of an image is to be the same."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from imgrec.augment import AUGMENTATIONS, BatchRandom, BatchTransform
from imgrec.errors import UserError
from imgrec.losses.base import full_precision, in_range
from imgrec.models.utils.passes import another_pass, drops
from imgrec.registry import Spec
from imgrec.regularizers.augmix import augmix
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.seeding import run_seed


def symmetric_kl(logits: Tensor, others: Tensor) -> Tensor:
    """Half of ``KL(p, q) + KL(q, p)`` of the softmaxes of two sets of logits, a mean over the batch: a scalar.

    >>> symmetric_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(0.)
    """
    log_p, log_q = full_precision(logits).log_softmax(1), full_precision(others).log_softmax(1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean() / 2


def jensen_shannon(*views: Tensor) -> Tensor:
    """The Jensen-Shannon divergence of the softmaxes of several sets of logits, a mean over the batch: a scalar.

    The mean of ``KL(p, m)`` over the views, where ``m`` is the mean of their probabilities; at most the logarithm of
    how many there are.

    >>> jensen_shannon(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])).exp()
    tensor(2.)
    """
    log_p = torch.stack([full_precision(logits).log_softmax(1) for logits in views])
    log_m = log_p.logsumexp(0) - math.log(len(views))
    return (log_p.exp() * (log_p - log_m)).sum(2).mean()


@REGULARIZERS.register("r_drop")
class RDrop(nn.Module):
    """The difference between two passes with other dropout: what the network says should not hang on the draw.

    The second pass sees the same images, and takes as long as the first. Batch normalization takes its running
    statistics from the first alone. The mean of both Kullback-Leibler divergences; weights of 0.5 to 5 are usual.

    Raises:
        UserError: a network without dropout or stochastic depth, whose passes are the same.

    Example::

        head: {name: linear, dropout: 0.3}
        regularizers: {name: r_drop, weight: 1.0}

    Source: Liang et al., R-Drop: Regularized Dropout for Neural Networks, 2021, arXiv:2106.14448.
    """

    def check_model(self, model: nn.Module) -> None:
        """Refuse a network whose passes are all the same, before it is trained."""
        if not drops(model):
            raise UserError(
                "r_drop compares two passes with other dropout, and this network has none: give the head `dropout: "
                "0.3`, say, or the backbone drop_rate or drop_path_rate."
            )

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        return symmetric_kl(output.logits, another_pass(model, output.images))


@REGULARIZERS.register("jensen_shannon")
class JensenShannon(nn.Module):
    """The difference between predictions on an image and on further augmented views of it, as AugMix has it.

    A view is made on the device as AugMix does: the image averaged with several chains of one to three of the
    transforms each, with random weights. It starts from the image that the step sees, which has gone through
    ``data.train_transforms`` already; keep those gentle. What a sample draws depends on the seed, the epoch and its id.
    All views go through the network in one further pass, ``views`` times as large as the batch; batch normalization
    takes its running statistics from the first alone. The paper's weight is 12.

    Args:
        transforms: specs of whole-batch transforms, see `imgrec list augmentations`, which chains are made of.
        views: how many further views, 1 or more.
        chains: how many chains a view mixes; 0 applies all transforms to the image, in order, and mixes nothing.
        alpha: shape of the distributions of the weights, above 0.
        num_classes: a fact of the data.
        image_size: a fact of the data.
        in_channels: a fact of the data.

    Raises:
        UserError: a number that cannot be; no transform, or one that changes single images or mixes them.

    Example::

        regularizers:
          - {name: jensen_shannon, weight: 12, transforms: [{name: affine, degrees: 30}, brightness, contrast]}

    Source: Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty, 2020,
    arXiv:1912.02781.
    """

    def __init__(
        self,
        transforms: Annotated[Any, AUGMENTATIONS] | list[Annotated[Any, AUGMENTATIONS]] | None = None,
        views: int = 2,
        chains: int = 3,
        alpha: float = 1.0,
        num_classes: int | None = None,
        image_size: int | None = None,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        facts = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
        known = {name: value for name, value in facts.items() if value is not None}
        given = _listed(_DEFAULT if transforms is None else transforms)
        made = [AUGMENTATIONS.build(each, "", **known) if isinstance(each, str | dict) else each for each in given]
        self.check_arguments(made, views, chains, alpha)
        self.transforms = [transform for transform in made if isinstance(transform, BatchTransform)]
        self.views = views
        self.chains = chains
        self.alpha = float(alpha)

    @staticmethod
    def check_arguments(transforms: Any = None, views: int = 2, chains: int = 3, alpha: float = 1.0, **_: Any) -> None:
        """Refuse what is wrong whatever the data may be."""
        if views < 1 or chains < 0:
            raise UserError(f"`views` must be 1 or more and `chains` 0 or more, got {views} and {chains}.")
        in_range("alpha", alpha, open_low=True)
        if transforms == []:
            raise UserError("`transforms`: an empty list: without a transform a view is the image itself.")
        for each in _listed(transforms or []):
            if isinstance(each, str | dict):
                name, _arguments = AUGMENTATIONS.parse(each)
                made: Any = AUGMENTATIONS.entry(name).factory
                fits = not isinstance(made, type) or issubclass(made, BatchTransform)
            else:
                name, fits = type(each).__name__, isinstance(each, BatchTransform)
            if not fits:
                raise UserError(
                    f"`transforms`: {name} does not change whole batches; those that do are marked `batch` in "
                    "`imgrec list augmentations`."
                )

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """The penalty, a scalar."""
        with torch.no_grad():
            draws = _draws(output)
            views = torch.cat([self._view(output.images, draws.fork(number)) for number in range(self.views)])
        others = another_pass(model, views)
        return jensen_shannon(output.logits, *others.chunk(self.views))

    def _view(self, images: Tensor, draws: BatchRandom) -> Tensor:
        if self.chains:
            return augmix(images, self.transforms, draws, self.chains, self.alpha)
        for number, transform in enumerate(self.transforms):
            images = transform(images, draws.fork(number))
        return images


def _listed(given: Any) -> list[Any]:
    return list(given) if isinstance(given, list | tuple) else [given]


_DEFAULT: list[Spec] = [{"name": "affine", "degrees": 20.0, "translate": 0.1}, "brightness", "contrast"]


def _draws(output: StepOutput) -> BatchRandom:
    """One row a sample, by its id and the epoch; of a task that does not say the ids, by the step."""
    keys = output.keys
    if keys is None:
        keys = torch.randint(2**62, (len(output.images),), device=output.images.device)
    return BatchRandom(keys, run_seed(), output.epoch, "jensen_shannon")
