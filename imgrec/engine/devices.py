"""What has to be right between ``trainer`` and the devices before Lightning's Trainer is built."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import FSDPStrategy

from imgrec.errors import UserError
from imgrec.tasks.sync_batch_norm import SyncBatchNorm


def prepare_devices(arguments: dict[str, Any]) -> None:
    """Refuse the strategy that loses the weight decay; take a conversion of batch normalization that loses nothing.

    Args:
        arguments: those of the Trainer; ``plugins`` may get another one.

    Raises:
        UserError: it names the strategy to take.
    """
    strategy = arguments.get("strategy")
    if isinstance(strategy, str) and strategy in FSDPStrategy.get_registered_strategies():
        raise UserError(
            f'trainer.strategy: "{strategy}" flattens the parameters before the optimizer sees them, and no weight '
            'would decay. Take "fsdp2": it shares them out as they are.'
        )
    if arguments.get("sync_batchnorm"):
        given = arguments.get("plugins") or []
        arguments["plugins"] = [*(given if isinstance(given, list) else [given]), SyncBatchNorm()]


def check_devices(trainer: pl.Trainer) -> None:
    """Refuse what would fail at the first batch.

    Raises:
        UserError: batch normalization is to be synchronised on a CPU.
    """
    layers = getattr(trainer.strategy, "_layer_sync", None)
    if layers is not None and trainer.world_size > 1 and isinstance(trainer.accelerator, CPUAccelerator):
        raise UserError(
            "trainer.sync_batchnorm: torch synchronises batch normalization on GPUs only; on a CPU, leave it away."
        )
