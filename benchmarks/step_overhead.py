"""Overhead of a training step in a plain loop, a bare Lightning Trainer and `imgrec fit` with its default callbacks.

The network takes about 1.8 ms per step on Fashion-MNIST, with batches of 64 on one pinned core. The plain loop and the
bare Trainer read a shuffled TensorDataset through a DataLoader and log no metrics. A second bare Trainer receives its
batches from a list. `imgrec fit` uses its defaults. It seeds every step, updates running means, writes metrics.csv,
logs learning rate and system metrics, draws the progress bar and supports exact resume. Work done once per epoch
(validation, metrics, checkpoints) is not part of a step and is printed separately.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from common import Claim, finish, measure_interleaved, parse_options, pin, print_table
from input_common import BATCH, data
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from imgrec import ImageDataModule
from imgrec.callbacks import RunRecorder, remove_hook_overhead
from imgrec.engine.experiment import Experiment
from imgrec.models import Backbone, Classifier, build_classifier
from imgrec.optim import build_optimizer

GOAL = 1.10
EPOCHS = 2
NAMES = ("a plain loop", "a bare Trainer", "a bare Trainer, batches ready", "imgrec fit")


class Small(Backbone):
    """Network of two convolutions, whose training step is short."""

    def __init__(self, in_channels: int = 1) -> None:
        layers = [
            *(nn.Conv2d(in_channels, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
            *(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(inplace=True)),
        ]
        network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        super().__init__(network, 16, (0.5,), (0.5,))


CONFIG: dict[str, Any] = {
    "model": {
        "init_args": {
            "backbone": {"name": "step_overhead.Small"},
            "optimizer": {"name": "adamw", "lr": 1e-3},
            "normalize": {"mean": [0.286], "std": [0.353]},
        }
    },
    "data": {
        "init_args": {
            "source": {"name": "torchvision", "dataset": "FashionMNIST"},
            "image_size": 28,
            "channels": 1,
            "batch_size": BATCH,
        }
    },
}


class PreloadedBatches:
    """Iterable of preloaded batches. Lightning interprets a list as several loaders."""

    def __init__(self, batches: list[tuple[Tensor, Tensor]]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter(self.batches)


class TerminalBuffer(io.StringIO):
    """Output buffer that reports to be a terminal, so that the progress bar is drawn."""

    def isatty(self) -> bool:
        """Return True if the progress bar is drawn, which is always the case."""
        return True


class Clock(pl.Callback):
    """Timer of the steps of the last epoch and of the time between epochs, in CPU seconds."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.steps = 0.0
        self.ended: list[float] = []
        self.between: list[float] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the timer of the epoch."""
        self.begun = time.process_time()
        if self.ended:
            self.between.append(self.begun - self.ended[-1])

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop the timer after the last batch."""
        if trainer.is_last_batch:
            self.ended.append(time.process_time())
            self.steps = self.ended[-1] - self.begun


class MinimalModule(pl.LightningModule):
    """Minimal LightningModule."""

    def __init__(self, model: Classifier) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss."""
        return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer, without a schedule."""
        return build_optimizer("adamw", self.model)


def main() -> None:
    options = parse_options(__doc__ or "")
    if data("FashionMNIST") is None:
        sys.exit(0)
    pin()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    steps = 250 if options.quick else 800
    module = ImageDataModule(**CONFIG["data"]["init_args"], num_workers=0)
    module.setup()
    batches = [(batch.images, batch.targets) for batch in islice(module.train_dataloader(), steps)]
    pixels, targets = (torch.cat(parts) for parts in zip(*batches, strict=True))
    loader = DataLoader(TensorDataset(pixels, targets), BATCH, shuffle=True)
    between: list[float] = []
    sides: dict[str, Callable[[], float]] = dict(
        zip(
            NAMES,
            (
                lambda: run_plain_loop(network(module), loader),
                lambda: run_bare_trainer(network(module), loader),
                lambda: run_bare_trainer(network(module), PreloadedBatches(batches)),
                lambda: run_imgrec(steps, between),
            ),
            strict=True,
        )
    )
    found = measure_interleaved(sides, 3 if options.quick else 9)
    print_table(found, "ms", base=NAMES[1])
    median = 1000 * statistics.median(between)
    print(f"between two epochs of imgrec fit: {median:.0f} ms (5 validation batches, metrics, 2 checkpoints, figures)")
    ratio = statistics.median(a / b for a, b in zip(found[NAMES[-1]], found[NAMES[1]], strict=True))
    finish([Claim("a step of imgrec fit, to a bare Trainer", f"{ratio:.2f}x", f"at most {GOAL:.2f}x", ratio <= GOAL)])


def network(module: ImageDataModule) -> Classifier:
    """Build the network, which is the same for all loops."""
    model = CONFIG["model"]["init_args"]
    return build_classifier(model["backbone"], "linear", model["normalize"], module.facts)


def run_plain_loop(model: Classifier, batches: DataLoader[Any]) -> float:
    """Return the milliseconds per step of a plain PyTorch loop."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"  # default of torch
    optimizer = build_optimizer("adamw", model)
    begun = 0.0
    for _ in range(EPOCHS):
        begun = time.process_time()
        for images, targets in batches:
            loss = nn.functional.cross_entropy(model(images), targets)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    return 1000 * (time.process_time() - begun) / len(batches)


def run_bare_trainer(model: Classifier, batches: DataLoader[Any] | PreloadedBatches) -> float:
    """Return the milliseconds per step of a Lightning Trainer without callbacks and loggers."""
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # value set by Lightning
    clock = Clock()
    off: dict[str, Any] = dict.fromkeys(("enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=EPOCHS, logger=False, callbacks=[clock], **off)
    trainer.fit(MinimalModule(model), batches)
    return 1000 * clock.steps / len(batches)


def run_imgrec(steps: int, between: list[float]) -> float:
    """Return the milliseconds per step of `imgrec fit` with its defaults."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(TerminalBuffer()):
        limits = {"accelerator": "cpu", "max_epochs": EPOCHS, "limit_train_batches": steps, "limit_val_batches": 5}
        experiment = Experiment({**CONFIG, "trainer": limits, "runs": folder})
        trainer = experiment.resolve_auto()
        trainer.callbacks.insert(0, RunRecorder("overhead", folder, experiment.resolved))
        trainer.callbacks.append(clock)
        remove_hook_overhead(trainer, experiment.task)
        trainer.fit(experiment.task, datamodule=experiment.data)
    between += clock.between
    return 1000 * clock.steps / steps


if __name__ == "__main__":
    main()
