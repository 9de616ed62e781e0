"""Compression steps without training: pruned channels, dropped blocks, masked weights."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from imgrec.compress.profiling import count_macs, count_nonzero, count_parameters
from imgrec.compress.pruning.blocks import drop_blocks
from imgrec.compress.pruning.channels import prune_channels
from imgrec.compress.pruning.masks import apply_masks, keep_best, n_of_m, sparsity_of
from imgrec.compress.pruning.targets import cost_of, parse_target, share_of
from imgrec.compress.pruning.weight_importance import score
from imgrec.compress.steps import CompressionStep, DropResidualBlocks, Mask, Prune
from imgrec.export import Loaded
from imgrec.models import Classifier
from imgrec.types import Batch
from imgrec.utils.seeding import position_generator, run_seed

_BATCHES = 16
"""Number of training batches from which gradients and the importance of blocks are computed."""


class Operations:
    """Compression steps without training, for models of one run.

    Args:
        data: Data module of the run, after ``setup``.
        dense: Model of the run. Targets are relative to its cost.
    """

    def __init__(self, data: Any, dense: Classifier) -> None:
        self.data = data
        self.dense = dense

    def apply(self, step: CompressionStep, loaded: Loaded) -> dict[str, Any]:
        """Apply a step to a model, in place.

        Returns:
            A line for the terminal as ``summary``, and the layers that were ``skipped`` with the reason.

        Raises:
            UserError: If the step cannot be applied to this model.
        """
        network = loaded.classifier
        if isinstance(step, Mask):
            return {"summary": mask_weights(network, step)}
        assert isinstance(step, Prune | DropResidualBlocks)
        dense, start = self.scale(network, step.target)
        result: dict[str, Any]
        if isinstance(step, Prune):
            pruned = prune_channels(
                network, self.images, step.target, step.config, self.batches, dense=dense, start=start
            )
            result = {"summary": str(pruned), "skipped": pruned.skipped}
        else:
            importance = step.importance
            dropped = drop_blocks(network, self.images, step.target, self.batches, importance, dense=dense, start=start)
            result = {"summary": str(dropped)}
        self.update_batch_norm(network)
        return result

    def update_batch_norm(self, classifier: Classifier) -> None:
        """Recompute the statistics of batch normalization on training images.

        Source: Li et al., 2020, "EagleEye: fast sub-net evaluation for efficient neural network pruning", arXiv
        2007.02491.
        """
        update_bn((images for images, _ in self.batches()), classifier)

    def scale(self, classifier: Classifier, target: dict[str, float]) -> tuple[float | None, float | None]:
        """Return the cost of the model of the run and the present share of its latency. One of them is ``None``."""
        kind = parse_target(target).kind
        if kind == "latency":
            return None, share_of(classifier, self.dense, self.images, kind)
        return cost_of(self.dense, self.images, kind), None

    def costs(self, classifier: Classifier) -> dict[str, int]:
        """Return the number of parameters, of nonzero parameters, and of MACs for one image."""
        return {
            "parameters": count_parameters(classifier),
            "nonzero": count_nonzero(classifier),
            "macs": count_macs(classifier, self.images[:1]),
        }

    @cached_property
    def images(self) -> Tensor:
        """Images of the first validation batch."""
        batch: Batch = next(iter(self.data.val_dataloader()))
        return batch.images

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images and targets of the first training batches, augmented as in training."""
        for i, batch in enumerate(self.data.train_dataloader()):
            if i == _BATCHES:
                return
            augmented = self.data.augment(batch) if hasattr(self.data, "augment") else batch
            yield augmented.images, augmented.targets


@torch.no_grad()
def mask_weights(classifier: Classifier, step: Mask) -> str:
    """Set the least important weights of a model to zero and return a line about the result."""
    weights, _ = step.config.select_layers(classifier)
    generator = position_generator(run_seed(), "mask") if step.criterion == "random" else None
    scores = score(weights, step.criterion, generator=generator)
    if step.config.pattern is None:
        masks = keep_best(scores, step.sparsity, step.scope)
    else:
        masks = {name: n_of_m(value, *step.config.pattern) for name, value in scores.items()}
    apply_masks(weights, masks)
    return f"{100 * sparsity_of(weights):.1f} % of the weights of {len(weights)} layers are zero"
