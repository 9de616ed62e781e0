"""Training throughput, including data loading: the loop of article.py compared with `imgrec fit` by default.

The baseline uses ImageFolder, PIL, torchvision's v1 transforms, Adam 1e-3 with torch's defaults, cross-entropy, float32
and batches of 64. The config of imgrec contains the same network, augmentation, optimizer and batch size. Cache, fused
optimizer, precision and memory format are the defaults. ResNet-18 is trained on the JPEG files of CIFAR-10 at 32
pixels, MobileNetV3-small and EfficientNet-Lite0 on photographs at 224 pixels. Images per core-second, one pinned core.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from article import cifar10, network, train_epoch
from common import Claim, finish, measure_interleaved, parse_options, pin
from input_common import BATCH, MEAN, STD, article, data
from input_photos import link_classes
from input_small import show
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from imgrec.callbacks import RunRecorder, remove_hook_overhead
from imgrec.engine.experiment import Experiment

GOALS = {"resnet18": 1.6, "mobilenetv3_small_100": 1.7, "tf_efficientnet_lite0": 1.3}
CIFAR = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2470, 0.2435, 0.2616]}


class Clock(pl.Callback):
    """Timer of training epochs, from the start to the last batch, in CPU seconds."""

    def __init__(self) -> None:
        self.begun = 0.0
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: Any) -> None:
        """Start the timer of the epoch."""
        self.begun = time.process_time()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop the timer after the last batch."""
        if trainer.is_last_batch:
            self.seconds.append(time.process_time() - self.begun)


def main() -> None:
    options = parse_options(__doc__ or "")
    roots = data("cifar10"), data("photos")
    if None in roots:
        sys.exit(0)
    cifar, photos = (root for root in roots if root is not None)
    warnings.filterwarnings("ignore")
    for name in ("pytorch_lightning.utilities.rank_zero", "pytorch_lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    pin()
    torch.set_num_threads(1)
    claims = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["IMGREC_CACHE"] = str(Path(folder) / "cache")
        batches = 6 if options.quick else 40
        crop = [{"name": "random_crop", "padding": 4}, "hflip"]
        config = {
            "model": {"init_args": {"backbone": "torchvision/resnet18", "normalize": CIFAR}},
            "data": {"init_args": {"source": {"name": "folder", "root": str(cifar)}, "train_transforms": crop}},
        }
        loader = cifar10(cifar).loaders(0)[0]
        claims.append(compare("resnet18", network, loader, config, batches, options.quick))
        root = link_classes(photos, Path(folder) / "photos")
        crop = ["random_resized_crop", "hflip"]  # type: ignore[list-item]
        steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip()]
        for name in ("mobilenetv3_small_100", "tf_efficientnet_lite0"):
            config = {
                "model": {"init_args": {"backbone": name, "normalize": {"mean": list(MEAN), "std": list(STD)}}},
                "data": {
                    "init_args": {
                        "source": {"name": "folder", "root": str(root)},
                        "image_size": 224,
                        "train_transforms": crop,
                        "num_workers": 0,
                    }
                },
            }
            build = lambda name=name: timm.create_model(name, num_classes=2)  # noqa: E731
            claims.append(
                compare(name, build, article(root / "train", steps), config, 1 if options.quick else 5, options.quick)
            )
    finish(claims)


def compare(
    name: str,
    build: Callable[[], nn.Module],
    loader: DataLoader[Any],
    config: dict[str, dict[str, Any]],
    batches: int,
    quick: bool,
) -> Claim:
    """Measure both loops in interleaved rounds, print their throughput and return the claim."""
    model = build()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def measure_article() -> float:
        begun = time.process_time()
        seen = train_epoch(model, loader, optimizer, batches)
        return (time.process_time() - begun) / seen

    settings: list[str] = []
    sides = {"the article's loop": measure_article, "imgrec fit": lambda: measure_imgrec(config, batches, settings)}
    found = measure_interleaved(sides, 1 if quick else 5)
    print(f"{name}: {settings[-1]}")
    show(found, "the article's loop")
    ratio = statistics.median(a / b for a, b in zip(found["the article's loop"], found["imgrec fit"], strict=True))
    goal = GOALS[name]
    return Claim(f"training {name}, to the article's loop", f"{ratio:.2f}x", f"{goal}x", ratio >= goal)


def measure_imgrec(config: dict[str, dict[str, Any]], batches: int, settings: list[str]) -> float:
    """Return the CPU seconds per image of the second epoch of `imgrec fit`."""
    clock = Clock()
    model = {**config["model"]["init_args"], "optimizer": {"name": "adam", "lr": 1e-3}, "schedule": "constant"}
    whole = {"model": {"init_args": model}, "data": config["data"]}
    limits = {"max_epochs": 2, "limit_train_batches": batches, "limit_val_batches": 1, "accelerator": "cpu"}
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        experiment = Experiment({**whole, "trainer": limits, "runs": folder})
        trainer = experiment.resolve_auto()
        trainer.callbacks = [RunRecorder("throughput", folder, experiment.resolved), *trainer.callbacks, clock]
        remove_hook_overhead(trainer, experiment.task)
        trainer.fit(experiment.task, datamodule=experiment.data)
    order = ", channels last" if experiment.task.channels_last else ""
    settings.append(f"precision {experiment.config['trainer']['precision']}{order}")
    return clock.seconds[-1] / (batches * BATCH)


if __name__ == "__main__":
    main()
