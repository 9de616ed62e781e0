"""System metrics of a training: throughput, waiting time, memory, energy."""

from __future__ import annotations

import time
from typing import Any

import pytorch_lightning as pl
import torch

from imgrec.runs.system import EnergyMeter, energy_meters, peak_process_memory_gib
from imgrec.types import Batch

_READ_EVERY = 60.0  # seconds, because the energy counters of processors overflow


class SystemMonitor(pl.Callback):
    """Callback that logs system metrics once per epoch. It never waits for a device.

    - ``system/images_per_second``: training images of all processes per second, without validation.
    - ``system/data_wait``: fraction of that time in which training waited for the loader, averaged over processes.
      Augmentation on the device is training time. It requires the loader of imgrec.
    - ``system/peak_memory_gib``: peak memory of the largest process, without its loader workers.
    - ``system/peak_gpu_memory_gib``: peak memory of a GPU, as counted by PyTorch.
    - ``system/energy_joules``: energy of processors and GPUs since the previous epoch, validation included. It requires
      readable counters (RAPL, NVML). Otherwise environment.json contains the reason.
    """

    def __init__(self) -> None:
        self._meters: list[EnergyMeter] = []
        self._joules = 0.0
        self._read_at = 0.0
        self._began = 0.0
        self._paused = 0.0
        self._pause_began = 0.0
        self._waited = 0.0
        self._images = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the energy meters."""
        device = pl_module.device
        gpus = [str(torch.cuda.get_device_properties(device).uuid)] if device.type == "cuda" else []
        self._meters, _ = energy_meters(gpus, processors=trainer.local_rank == 0)
        self._joules = 0.0

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._images = 0
        self._paused = 0.0
        self._waited = _waited(trainer) or 0.0
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images."""
        self._images += _count(batch)
        if self._meters and time.perf_counter() - self._read_at > _READ_EVERY:
            self._read_energy()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock, because validation is part of an epoch."""
        self._pause_began = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock again."""
        self._paused += time.perf_counter() - self._pause_began

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics of the epoch."""
        seconds = time.perf_counter() - self._began - self._paused
        figures: dict[str, tuple[float, str]] = {}
        if self._images:
            figures["images_per_second"] = (self._images / max(seconds, 1e-9), "sum")
        if (waited := _waited(trainer)) is not None:
            figures["data_wait"] = ((waited - self._waited) / max(seconds, 1e-9), "mean")
        if (memory := peak_process_memory_gib()) is not None:
            figures["peak_memory_gib"] = (memory, "max")
        if pl_module.device.type == "cuda":
            figures["peak_gpu_memory_gib"] = (torch.cuda.max_memory_allocated(pl_module.device) / 2**30, "max")
        if _anywhere(trainer, bool(self._meters)):
            before, now = self._joules, self._read_energy()
            figures["energy_joules"] = (now - before, "sum")
            self._joules = now
        for name, (value, over) in figures.items():
            pl_module.log(f"system/{name}", value, on_step=False, on_epoch=True, sync_dist=True, reduce_fx=over)

    def _read_energy(self) -> float:
        self._read_at = time.perf_counter()
        return sum(meter.joules() for meter in self._meters)


def _waited(trainer: pl.Trainer) -> float | None:
    waited = getattr(trainer.train_dataloader, "waited", None)
    return waited if isinstance(waited, float) else None


def _count(batch: Any) -> int:
    images = batch.images if isinstance(batch, Batch) else batch[0] if isinstance(batch, list | tuple) else batch
    return len(images) if isinstance(images, torch.Tensor) else 0


def _anywhere(trainer: pl.Trainer, mine: bool) -> bool:
    """Return True if any process has a meter, because all processes have to log the same metrics."""
    if trainer.world_size == 1:
        return mine
    return not trainer.strategy.reduce_boolean_decision(not mine, all=True)
