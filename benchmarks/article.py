"""Baseline: a plain PyTorch loop that trains ResNet-18 on 32x32 images, in the form used by many articles.

It reads ImageFolder with PIL (for Fashion-MNIST torchvision's dataset) and uses torchvision's v1 transforms. The
network is torchvision's unmodified ResNet-18. It is trained with Adam 1e-3, cross-entropy, float32, batches of 64 and
no schedule.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision import datasets, models, transforms

BATCH = 64
NUM_VAL = 5000


@dataclass(frozen=True)
class BaselineData:
    """Datasets of the baseline: train with augmentation, train without it, and test."""

    train: Dataset[Any]
    plain: Dataset[Any]
    test: Dataset[Any]

    def loaders(self, seed: int) -> tuple[DataLoader[Any], DataLoader[Any], DataLoader[Any]]:
        """Return loaders of train (augmented, shuffled), validation (5,000 random images of train) and test."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed)).tolist()  # type: ignore[arg-type]
        return (
            DataLoader(Subset(self.train, order[NUM_VAL:]), BATCH, shuffle=True),
            DataLoader(Subset(self.plain, order[:NUM_VAL]), BATCH),
            DataLoader(self.test, BATCH),
        )


def cifar10(root: Path) -> BaselineData:
    """Return CIFAR-10 from ``{train,test}/<class>/*.jpg``, with padding by 4, random crop and flip."""
    plain = [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))]
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    folder = lambda part, steps: datasets.ImageFolder(str(root / part), transforms.Compose(steps))  # noqa: E731
    return BaselineData(folder("train", [*augment, *plain]), folder("train", plain), folder("test", plain))


def fashion_mnist(root: Path) -> BaselineData:
    """Return Fashion-MNIST in torchvision's layout, resized to 32 pixels, with three equal channels and flips."""
    sized = [transforms.Resize(32), transforms.Grayscale(3)]
    plain = [transforms.ToTensor(), transforms.Normalize((0.286,) * 3, (0.353,) * 3)]

    def part(train: bool, steps: Sequence[Callable[[Any], Any]]) -> Dataset[Any]:
        return datasets.FashionMNIST(str(root.parent), train=train, transform=transforms.Compose(list(steps)))

    flip = transforms.RandomHorizontalFlip()
    return BaselineData(part(True, [*sized, flip, *plain]), part(True, [*sized, *plain]), part(False, [*sized, *plain]))


SETTINGS: dict[str, tuple[str, Callable[[Path], BaselineData]]] = {
    "cifar10": ("cifar10", cifar10),
    "fashion_mnist": ("FashionMNIST", fashion_mnist),
}
"""Folder below IMGREC_DATA and function that reads it, by dataset."""


def network(num_classes: int = 10) -> nn.Module:
    """Return torchvision's unmodified ResNet-18 with random weights."""
    model: nn.Module = models.resnet18(num_classes=num_classes)
    return model


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> Tensor:
    """Run one optimizer step and return the loss."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), targets)
    loss.backward()
    optimizer.step()
    return loss


def train_epoch(
    model: nn.Module, loader: DataLoader[Any], optimizer: torch.optim.Optimizer, batches: int | None = None
) -> int:
    """Train for one epoch, or for its first ``batches``, and return the number of images."""
    model.train()
    seen = 0
    for number, (images, targets) in enumerate(loader):
        if number == batches:
            break
        train_step(model, optimizer, images, targets).item()
        seen += len(images)
    return seen


@torch.no_grad()
def accuracy(model: nn.Module, loader: DataLoader[Any]) -> float:
    """Return the share of correctly classified images."""
    model.eval()
    hits = [(model(images).argmax(1) == targets) for images, targets in loader]
    return torch.cat(hits).float().mean().item()


@dataclass
class LevelResult:
    """Cost of training to an accuracy level. CPU seconds of training and of evaluation are separate."""

    data: str
    seed: int
    level: float
    epochs: int = 0
    train_cpu_s: float = 0.0
    evaluate_cpu_s: float = 0.0
    val: list[float] = field(default_factory=list)
    test: float | None = None
    """Accuracy on the test split, measured once, after the validation accuracy has reached the level."""


def time_to_level(
    data: str,
    root: Path,
    level: float,
    seed: int,
    limit: float = math.inf,
    keep: Callable[[LevelResult], None] = lambda _: None,
) -> LevelResult:
    """Train until the validation accuracy reaches ``level``, at most ``limit`` CPU seconds (``test`` is then ``None``).

    ``keep`` is called after every epoch.
    """
    torch.manual_seed(seed)
    train, val, test = SETTINGS[data][1](root).loaders(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    found = LevelResult(data, seed, level)
    while found.train_cpu_s < limit and found.test is None:
        begun = time.process_time()
        train_epoch(model, train, optimizer)
        trained = time.process_time()
        found.val.append(accuracy(model, val))
        found.epochs += 1
        found.train_cpu_s += trained - begun
        found.evaluate_cpu_s += time.process_time() - trained
        if found.val[-1] >= level:
            found.test = accuracy(model, test)
        keep(found)
    return found


def main() -> None:
    """Run ``python article.py cifar10 DIR --level 0.84 --seed 0 --out FILE``, which writes JSON after every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=sorted(SETTINGS))
    parser.add_argument("root", type=Path, help="path of IMGREC_DATA")
    parser.add_argument("--level", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=math.inf, help="CPU seconds of training, at most")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    time_to_level(
        options.data,
        options.root / SETTINGS[options.data][0],
        options.level,
        options.seed,
        options.limit,
        lambda found: options.out.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8") and None,
    )


if __name__ == "__main__":
    main()
