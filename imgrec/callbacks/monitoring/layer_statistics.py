"""Statistics of gradients, updates and activations, layer by layer, on request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor

from imgrec.loggers.media import show_histogram
from imgrec.models.utils.layer_statistics import ActivationProbe, layer_norms, layer_of
from imgrec.utils.checks import at_least_one, known

Shown = Literal["gradients", "updates", "activations"]
_SHOWN = ("gradients", "updates", "activations")


class LayerStatistics(pl.Callback):
    """Logs, every so many steps, how large each layer's gradients, updates and activations are.

    - ``grad/<layer>``: the norm of its gradient, before clipping; ``grad/total``: of all.
    - ``update/<layer>``: the norm of what the step changed, over that of the weights. About 1e-3 is usual.
    - ``act/<layer>/mean``, ``/std``: of its output; ``/dead``: the share of its ReLUs' channels that are 0 in the whole
      batch.

    The steps between cost nothing. A layer is a part of the backbone, ``layer1`` say, or the head.

    Args:
        every_n_steps: counted in optimizer steps.
        show: which of ``gradients``, ``updates`` and ``activations``.
        depth: how many parts of a module's name tell layers apart: 2 gives ``layer1.0``.
        histograms: send histograms of weights and gradients to W&B and TensorBoard, where they are on.

    Raises:
        UserError: a number or a name that cannot be.

    Example::

        trainer:
          callbacks:
            - {class_path: LayerStatistics, every_n_steps: 50, show: [gradients, updates]}
    """

    def __init__(
        self,
        every_n_steps: int = 100,
        show: list[Shown] | None = None,
        depth: int = 1,
        histograms: bool = False,
    ) -> None:
        at_least_one("LayerStatistics", every_n_steps=every_n_steps, depth=depth)
        known("LayerStatistics", show or (), _SHOWN, "statistic called")
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
        """Watch the layers where it is their turn."""
        if not trainer.is_global_zero or (trainer.global_step + 1) % self.every_n_steps:
            return
        self._step = trainer.global_step
        if "activations" in self.show:
            self._leave()
            self._probe = ActivationProbe(pl_module, self.depth)
            self._probe.__enter__()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Measure the gradients, and keep the weights to see what the step changes."""
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
        """Log what was measured, in the row of this step."""
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
            self._leave()
        if found:
            values = torch.stack(list(found.values())).tolist()
            figures = dict(zip(found, values, strict=True)) | {"epoch": trainer.current_epoch}
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave no hook behind."""
        self._leave()

    def _leave(self) -> None:
        if self._probe is not None:
            self._probe.__exit__(None, None, None)
            self._probe = None

    def _show_histograms(self, trainer: pl.Trainer, what: str, tensors: Mapping[str, Tensor]) -> None:
        layers: dict[str, list[Tensor]] = {}
        for name, tensor in tensors.items():
            layers.setdefault(layer_of(name.rpartition(".")[0], self.depth), []).append(tensor.detach().flatten())
        for layer, parts in layers.items():
            show_histogram(trainer, f"{what}/{layer}", torch.cat([part.float() for part in parts]).cpu().numpy())
