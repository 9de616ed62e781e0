"""Checks of the trainer arguments that depend on the devices."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import FSDPStrategy

from imgrec.errors import UserError
from imgrec.tasks.strategies import SyncBatchNorm


def prepare_devices(arguments: dict[str, Any]) -> None:
    """Refuse FSDP 1, and add the plugin that synchronizes batch normalization without losing its state.

    Args:
        arguments: Arguments of the Trainer. The value of ``plugins`` may be replaced.

    Raises:
        UserError: If the strategy flattens the parameters, which disables the weight decay.
    """
    strategy = arguments.get("strategy")
    if isinstance(strategy, str) and strategy in FSDPStrategy.get_registered_strategies():
        raise UserError(
            f'trainer.strategy: "{strategy}" flattens the parameters before the optimizer is built, so no weight '
            'would decay. Use "fsdp2", which shards them in their shape.'
        )
    if arguments.get("sync_batchnorm"):
        given = arguments.get("plugins") or []
        arguments["plugins"] = [*(given if isinstance(given, list) else [given]), SyncBatchNorm()]


def check_devices(trainer: pl.Trainer) -> None:
    """Raise an error for a combination of devices and arguments that would fail at the first batch.

    Raises:
        UserError: If batch normalization is synchronized on a CPU.
    """
    layers = getattr(trainer.strategy, "_layer_sync", None)
    if layers is not None and trainer.world_size > 1 and isinstance(trainer.accelerator, CPUAccelerator):
        raise UserError(
            "trainer.sync_batchnorm: expected false on a CPU, got true. "
            "torch synchronizes batch normalization on GPUs only."
        )
