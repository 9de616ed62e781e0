"""AugMix of a batch on its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from imgrec.augment import BatchRandom, BatchTransform, to_float
from imgrec.augment.base import expand_per_image, is_gather_faster
from imgrec.errors import UserError

_LONGEST = 3


def augmix(
    images: Tensor, transforms: Sequence[BatchTransform], draws: BatchRandom, chains: int = 3, alpha: float = 1.0
) -> Tensor:
    """Return the average of each image and several chains of one to three random transforms of it, with random weights.

    The weights of the chains are uniform on the simplex for ``alpha: 1``. The weight of the image is uniform on [0, 1].

    Args:
        images: Images as uint8, or as float in [0, 1], ``(batch, channels, height, width)``.
        transforms: Transforms of the chains, drawn per position. They must keep the size of the images.
        draws: Random numbers with one row per sample.
        chains: Number of chains, at least 1. Defaults to 3.
        alpha: Parameter of the Dirichlet distribution of the chain weights and of the beta distribution of the image
            weight. Defaults to 1.

    Returns:
        Float in [0, 1], in the shape of the images.

    Source: Hendrycks et al., AugMix, 2020, arXiv:1912.02781, algorithm 1.
    """
    pixels = to_float(images)
    weights = _dirichlet(draws.fork("weights"), chains, alpha)
    mixed = torch.zeros_like(pixels)
    for chain in range(chains):
        stream = draws.fork(f"chain {chain}")
        mixed += expand_per_image(weights[:, chain]) * _chain(pixels, transforms, stream)
    kept = expand_per_image(draws.fork("kept").beta(alpha, alpha))
    return kept * pixels + (1 - kept) * mixed


def _chain(images: Tensor, transforms: Sequence[BatchTransform], draws: BatchRandom) -> Tensor:
    """Apply one to three transforms to each image, one after another."""
    stream = draws.fork("choice")
    lengths = stream.integers(1, _LONGEST + 1)[:, 0]
    choices = stream.integers(0, len(transforms), _LONGEST)
    for place in range(_LONGEST):
        for number, transform in enumerate(transforms):
            chosen = (choices[:, place] == number) & (lengths > place)
            own = draws.fork(f"{place} {number}")
            if not is_gather_faster(images):
                images = torch.where(expand_per_image(chosen), _changed(transform, images, own), images)
            elif len(rows := chosen.nonzero()[:, 0]):
                images = images.index_copy(0, rows, _changed(transform, images[rows], BatchRandom(own.keys[rows])))
    return images


def _changed(transform: BatchTransform, images: Tensor, draws: BatchRandom) -> Tensor:
    changed = to_float(transform(images, draws))
    if changed.shape != images.shape:
        raise UserError(
            f"transforms: expected transforms that keep the size of images, got {type(transform).__name__}."
        )
    return changed


def _dirichlet(draws: BatchRandom, count: int, alpha: float) -> Tensor:
    """Return weights with the sum 1, float ``(batch, count)``, by stick breaking."""
    left = torch.ones(len(draws), device=draws.device)
    parts = []
    for place in range(count - 1):
        broken = draws.fork(place).beta(alpha, alpha * (count - 1 - place))
        parts.append(left * broken)
        left = left * (1 - broken)
    return torch.stack([*parts, left], dim=1)
