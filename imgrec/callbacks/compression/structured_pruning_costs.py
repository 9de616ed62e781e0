"""Costs of a model before and after a round of structured pruning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from imgrec.compress.pruning.targets import CostKind, cost_of
from imgrec.models import Classifier
from imgrec.models.utils.forward import preserve_modes

COST_TITLES: dict[CostKind, str] = {"macs": "MACs", "parameters": "parameters"}


def log_round(
    trainer: pl.Trainer, number: int, rounds: int, before: Mapping[str, float], after: Mapping[str, float]
) -> None:
    """Log ``train/macs`` and ``train/parameters`` after a round, and print them.

    Args:
        trainer: Trainer between two optimizer steps.
        number: Number of the round, from 1.
        rounds: Number of rounds of the training.
        before: Costs at the start of the training.
        after: Costs after the round.
    """
    metrics = {f"train/{name}": after[name] for name in COST_TITLES} | {"epoch": trainer.current_epoch}
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
    costs = ", ".join(
        f"{format_count(after[name])} {title} ({after[name] / before[name]:.0%})" for name, title in COST_TITLES.items()
    )
    trainer.print(f"pruned after step {trainer.global_step}, round {number} of {rounds}: {costs} left")


def format_count(count: float) -> str:
    """Return a count in millions, with three significant digits.

    Example:
        >>> format_count(40813184), format_count(272474), format_count(1_234_000_000)
        ('40.8 M', '0.272 M', '1,230 M')
    """
    value = float(f"{count / 1e6:.3g}")
    return f"{value:,.0f} M" if value >= 100 else f"{value:g} M"


def measure_costs(pl_module: pl.LightningModule, *kinds: CostKind) -> dict[str, float]:
    """Return the costs of the present model by kind."""
    network, images = network_of_task(pl_module), zero_images(pl_module)
    with preserve_modes(network), torch.compiler.set_stance("force_eager"):
        return {kind: cost_of(network, images, kind) for kind in kinds}


def network_of_task(pl_module: pl.LightningModule) -> Classifier:
    """Return the model of a task."""
    task: Any = pl_module
    network: Classifier = task.model
    return network


def zero_images(pl_module: pl.LightningModule) -> Tensor:
    """Return a batch of zeros of the input size of the model."""
    task: Any = pl_module
    size = task.facts.image_size
    return torch.zeros(2, task.facts.channels, size, size, dtype=torch.uint8, device=task.device)
