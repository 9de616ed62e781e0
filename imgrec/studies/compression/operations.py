"""The steps that change a trained network without training it: pruned channels, dropped blocks, masked weights."""

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
"""Training batches that gradients, and the worth of blocks, are judged by."""


class Operations:
    """Changes networks on the images of a run.

    Args:
        data: the run's data module, set up.
        dense: the run's own network, which targets are shares of.
    """

    def __init__(self, data: Any, dense: Classifier) -> None:
        self.data = data
        self.dense = dense

    def apply(self, step: CompressionStep, loaded: Loaded) -> dict[str, Any]:
        """Carry out a step on a network, in place; gives what is to be kept of it in words and figures.

        Raises:
            UserError: the step cannot be done to this network, and why.
        """
        network = loaded.classifier
        if isinstance(step, Mask):
            return {"said": mask_weights(network, step)}
        assert isinstance(step, Prune | DropResidualBlocks)
        dense, start = self.scale(network, step.target)
        batches, said = self.batches, {}
        if isinstance(step, Prune):
            pruned = prune_channels(network, self.images, step.target, step.config, batches, dense=dense, start=start)
            said = {"said": str(pruned), "skipped": pruned.skipped}
        else:
            importance = step.importance
            dropped = drop_blocks(network, self.images, step.target, batches, importance, dense=dense, start=start)
            said = {"said": str(dropped)}
        self.settle(network)
        return said

    def settle(self, classifier: Classifier) -> None:
        """Estimate the statistics of batch norms anew, on what they are given now.

        Source: Li et al., 2020, "EagleEye: fast sub-net evaluation for efficient neural network pruning", arXiv
        2007.02491.
        """
        update_bn((images for images, _ in self.batches()), classifier)

    def scale(self, classifier: Classifier, target: dict[str, float]) -> tuple[float | None, float | None]:
        """What a target is a share of: the run's own network; of its time, how much there is now."""
        kind = parse_target(target).kind
        if kind == "latency":
            return None, share_of(classifier, self.dense, self.images, kind)
        return cost_of(self.dense, self.images, kind), None

    def figures(self, classifier: Classifier) -> dict[str, int]:
        """Parameters, those that are not zero, and MACs of one image."""
        return {
            "parameters": count_parameters(classifier),
            "nonzero": count_nonzero(classifier),
            "macs": count_macs(classifier, self.images[:1]),
        }

    @cached_property
    def images(self) -> Tensor:
        """Some validation images, as a classifier takes them."""
        batch: Batch = next(iter(self.data.val_dataloader()))
        return batch.images

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Some training images and their targets, the same each time, augmented as in training."""
        for i, batch in enumerate(self.data.train_dataloader()):
            if i == _BATCHES:
                return
            augmented = self.data.augment(batch) if hasattr(self.data, "augment") else batch
            yield augmented.images, augmented.targets


@torch.no_grad()
def mask_weights(classifier: Classifier, step: Mask) -> str:
    """Set the weights of a network to zero that matter least, by magnitude or at random; says what became of it."""
    weights, _ = step.config.select_layers(classifier)
    generator = position_generator(run_seed(), "mask") if step.criterion == "random" else None
    scores = score(weights, step.criterion, generator=generator)
    if step.config.pattern is None:
        masks = keep_best(scores, step.sparsity, step.scope)
    else:
        masks = {name: n_of_m(value, *step.config.pattern) for name, value in scores.items()}
    apply_masks(weights, masks)
    return f"{100 * sparsity_of(weights):.1f} % of the weights of {len(weights)} layers are zero"
