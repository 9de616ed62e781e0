"""Consistency regularization: the same predictions for two views of an image."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from imgrec.augment import AUGMENTATIONS, BatchRandom, BatchTransform
from imgrec.errors import UserError
from imgrec.losses.base import full_precision
from imgrec.models.utils.forward import extra_forward, has_dropout
from imgrec.registry import Spec
from imgrec.regularizers.augmix import augmix
from imgrec.regularizers.base import REGULARIZERS
from imgrec.types import StepOutput
from imgrec.utils.ranges import NonNegativeInt, PositiveFloat, PositiveInt, check_ranges
from imgrec.utils.seeding import run_seed


def symmetric_kl(logits: Tensor, other_logits: Tensor) -> Tensor:
    """Return half of ``KL(p, q) + KL(q, p)`` of the softmaxes of two sets of logits, a mean over the batch.

    Example:
        >>> symmetric_kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
        tensor(0.)
    """
    log_p, log_q = full_precision(logits).log_softmax(1), full_precision(other_logits).log_softmax(1)
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(1).mean() / 2


def r_drop_penalty(model: nn.Module, images: Tensor, logits: Tensor | None = None) -> Tensor:
    """Return the symmetric Kullback-Leibler divergence between two passes with different dropout masks, a scalar.

    Args:
        model: Network from images to logits, in training mode.
        images: Batch of images.
        logits: Logits of the first pass. Defaults to a separate pass.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 2))
        >>> bool(r_drop_penalty(model, torch.ones(64, 1, 2, 2)) > 0)
        True
    """
    return symmetric_kl(model(images) if logits is None else logits, extra_forward(model, images))


def jensen_shannon(*views: Tensor) -> Tensor:
    """Return the Jensen-Shannon divergence of the softmaxes of several sets of logits, a mean over the batch.

    It is the mean over the views of ``KL(p, m)``, where ``m`` is the mean of their probabilities. The maximum is the
    logarithm of the number of views.

    Example:
        >>> jensen_shannon(torch.tensor([[99.0, 0.0]]), torch.tensor([[0.0, 99.0]])).exp()
        tensor(2.)
    """
    log_p = torch.stack([full_precision(logits).log_softmax(1) for logits in views])
    log_m = log_p.logsumexp(0) - math.log(len(views))
    return (log_p.exp() * (log_p - log_m)).sum(2).mean()


@REGULARIZERS.register("r_drop")
class RDrop(nn.Module):
    """Divergence between two passes with different dropout masks, so that predictions depend less on the mask.

    The second pass processes the same images and takes as long as the first. Batch normalization updates its running
    statistics from the first pass only. The value is the mean of both Kullback-Leibler divergences. Weights of 0.5 to 5
    are usual.

    Raises:
        UserError: If the network has no dropout or stochastic depth, so that both passes are equal.

    Example::

        head: {name: linear, dropout: 0.3}
        regularizers: {name: r_drop, weight: 1.0}

    See Also:
        :func:`r_drop_penalty`. Use :class:`JensenShannon` instead for networks without dropout.

    Source: Liang et al., R-Drop: Regularized Dropout for Neural Networks, 2021, arXiv:2106.14448.
    """

    def check_model(self, model: nn.Module) -> None:
        """Raise an error if all passes of the network are equal, before it is trained."""
        if not has_dropout(model):
            raise UserError(
                "r_drop requires a network with dropout. Set `dropout: 0.3` in the head, or drop_rate or "
                "drop_path_rate in the backbone."
            )

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        return r_drop_penalty(model, output.images, output.logits)


@REGULARIZERS.register("jensen_shannon")
class JensenShannon(nn.Module):
    """Divergence between the predictions on an image and on augmented views of it, as in AugMix.

    A view is made on the device: the image is averaged with several chains of one to three transforms, with random
    weights. The input is the image of the training step, after ``data.train_transforms``, so keep those weak. The
    random numbers of a sample depend on the seed, the epoch and its id. All views are processed in one additional pass,
    ``views`` times as large as the batch. Batch normalization updates its running statistics from the first pass only.
    The weight of the paper is 12.

    Args:
        transforms: Specs of batch transforms for the chains, see ``imgrec list augmentations``. Defaults to affine,
            brightness and contrast.
        views: Number of additional views, at least 1. Defaults to 2.
        chains: Number of chains per view. 0 applies all transforms to the image, in order, without mixing. Defaults to
            3.
        alpha: Parameter of the distributions of the weights, above 0. Defaults to 1.
        num_classes: Number of classes, a fact of the data.
        image_size: Height and width of the images in pixels, a fact of the data.
        in_channels: Number of channels of the images, a fact of the data.

    Raises:
        UserError: If a number is out of range, if the list of transforms is empty, or if a transform processes single
            images or mixes images.

    Example::

        regularizers:
          - {name: jensen_shannon, weight: 12, transforms: [{name: affine, degrees: 30}, brightness, contrast]}

    See Also:
        :func:`jensen_shannon`. Use :class:`RDrop` instead if the network has dropout and augmentation is undesired.

    Source: Hendrycks et al., AugMix: A Simple Data Processing Method to Improve Robustness and Uncertainty, 2020,
    arXiv:1912.02781.
    """

    @check_ranges
    def __init__(
        self,
        transforms: Annotated[Any, AUGMENTATIONS] | list[Annotated[Any, AUGMENTATIONS]] | None = None,
        views: PositiveInt = 2,
        chains: NonNegativeInt = 3,
        alpha: PositiveFloat = 1.0,
        num_classes: int | None = None,
        image_size: int | None = None,
        in_channels: int | None = None,
    ) -> None:
        super().__init__()
        facts = {"num_classes": num_classes, "image_size": image_size, "in_channels": in_channels}
        facts = {name: value for name, value in facts.items() if value is not None}
        given = _listed(_DEFAULT if transforms is None else transforms)
        made = [AUGMENTATIONS.build(each, "", **facts) if isinstance(each, str | dict) else each for each in given]
        self.check_arguments(made)
        self.transforms = [transform for transform in made if isinstance(transform, BatchTransform)]
        self.views = views
        self.chains = chains
        self.alpha = float(alpha)

    @staticmethod
    def check_arguments(transforms: Any = None, **_: Any) -> None:
        """Raise an error if a transform does not process whole batches."""
        if transforms == []:
            raise UserError("transforms: expected one transform or more, got an empty list.")
        for each in _listed(transforms or []):
            if isinstance(each, str | dict):
                name, _arguments = AUGMENTATIONS.parse(each)
                made: Any = AUGMENTATIONS.entry(name).factory
                fits = not isinstance(made, type) or issubclass(made, BatchTransform)
            else:
                name, fits = type(each).__name__, isinstance(each, BatchTransform)
            if not fits:
                raise UserError(
                    f"transforms: expected batch transforms, got {name}. `imgrec list augmentations` marks them with "
                    "`batch`."
                )

    def forward(self, output: StepOutput, model: nn.Module) -> Tensor:
        """Return the penalty, a scalar."""
        with torch.no_grad():
            draws = _draws(output)
            views = torch.cat([self._view(output.images, draws.fork(number)) for number in range(self.views)])
        others = extra_forward(model, views)
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
    """Return random numbers with one row per sample, by its id and the epoch, or by the step for tasks without ids."""
    keys = output.keys
    if keys is None:
        keys = torch.randint(2**62, (len(output.images),), device=output.images.device)
    return BatchRandom(keys, run_seed(), output.epoch, "jensen_shannon")
