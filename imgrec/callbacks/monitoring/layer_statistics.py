"""Statistics of gradients, updates and activations by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from imgrec.loggers.media import show_histogram
from imgrec.models.utils.layer_statistics import ActivationProbe, layer_name, layer_norms
from imgrec.utils.checks import check_names
from imgrec.utils.ranges import PositiveInt, check_ranges

Shown = Literal["gradients", "updates", "activations"]
_SHOWN = ("gradients", "updates", "activations")


class LayerStatistics(pl.Callback):
    """Callback that logs the size of gradients, updates and activations of every layer.

    - ``grad/<layer>``: norm of the gradient before clipping. ``grad/total`` is the norm over all layers.
    - ``update/<layer>``: norm of the change in a step, relative to the norm of the weights. About 1e-3 is usual.
    - ``act/<layer>/mean``, ``/std``: mean and standard deviation of the output. ``/dead``: fraction of the channels of
      its ReLUs that are 0 in the whole batch.

    Other steps have no overhead. A layer is a part of the backbone, such as ``layer1``, or the head.

    Args:
        every_n_steps: Number of optimizer steps between two measurements. Defaults to 100.
        show: Names among ``gradients``, ``updates`` and ``activations``. Defaults to all.
        depth: Number of parts of a module name that identify a layer. 2 gives ``layer1.0``. Defaults to 1.
        histograms: True to log histograms of weights and gradients to W&B and TensorBoard. Defaults to False.

    Raises:
        UserError: If an argument is out of range, or if a name is unknown.

    Example::

        trainer:
          callbacks:
            - {class_path: LayerStatistics, every_n_steps: 50, show: [gradients, updates]}
    """

    @check_ranges
    def __init__(
        self,
        every_n_steps: PositiveInt = 100,
        show: list[Shown] | None = None,
        depth: PositiveInt = 1,
        histograms: bool = False,
    ) -> None:
        check_names("LayerStatistics", show or (), _SHOWN, "statistics")
        self.every_n_steps = every_n_steps
        self.show: tuple[str, ...] = tuple(show) if show is not None else _SHOWN
        self.depth = depth
        self.histograms = histograms
        self._probe: ActivationProbe | None = None
        self._found: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}
        self._step = -1

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Attach the probe if a measurement is due."""
        if not trainer.is_global_zero or (trainer.global_step + 1) % self.every_n_steps:
            return
        self._step = trainer.global_step
        if "activations" in self.show:
            self._remove_probe()
            self._probe = ActivationProbe(pl_module, self.depth)
            self._probe.__enter__()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the gradients, and copy the weights to measure the update."""
        if self._step != trainer.global_step:
            return
        gradients = {name: p.grad for name, p in pl_module.named_parameters() if p.grad is not None}
        if "gradients" in self.show:
            norms = layer_norms(gradients, self.depth)
            self._found = {f"grad/{layer}": norm for layer, norm in norms.items()}
            if norms:
                self._found["grad/total"] = torch.linalg.vector_norm(torch.stack(list(norms.values())))
        if "updates" in self.show:
            self._before = {name: p.detach().clone() for name, p in pl_module.named_parameters() if p.requires_grad}
        if self.histograms:
            weights = {name: p for name, p in pl_module.named_parameters() if p.requires_grad}
            self._show_histograms(trainer, "grad", gradients)
            self._show_histograms(trainer, "weight", weights)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the measurements in the row of this step."""
        if self._step < 0 or trainer.global_step <= self._step:
            return
        self._step = -1
        found, self._found = self._found, {}
        if self._before:
            now = {name: p.detach() for name, p in pl_module.named_parameters() if name in self._before}
            changed = torch._foreach_sub(list(now.values()), [self._before[name] for name in now])
            sizes = layer_norms(self._before, self.depth)
            changes = layer_norms(dict(zip(now, changed, strict=True)), self.depth)
            found |= {f"update/{layer}": norm / sizes[layer].clamp_min(1e-12) for layer, norm in changes.items()}
            self._before = {}
        if self._probe is not None:
            found |= {f"act/{name}": value for name, value in self._probe.figures.items()}
            self._remove_probe()
        if found:
            values = torch.stack(list(found.values())).tolist()
            figures = dict(zip(found, values, strict=True)) | {"epoch": trainer.current_epoch}
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Remove the probe."""
        self._remove_probe()

    def _remove_probe(self) -> None:
        if self._probe is not None:
            self._probe.__exit__(None, None, None)
            self._probe = None

    def _show_histograms(self, trainer: pl.Trainer, what: str, tensors: Mapping[str, Tensor]) -> None:
        layers: dict[str, list[Tensor]] = {}
        for name, tensor in tensors.items():
            layers.setdefault(layer_name(name.rpartition(".")[0], self.depth), []).append(tensor.detach().flatten())
        for layer, parts in layers.items():
            show_histogram(trainer, f"{what}/{layer}", torch.cat([part.float() for part in parts]).cpu().numpy())
