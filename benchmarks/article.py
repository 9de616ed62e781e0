"""The other side: how an article trains ResNet-18 on 32x32 images, as a plain PyTorch loop without imgrec.

ImageFolder (Fashion-MNIST: torchvision's dataset, as there are no files), PIL, torchvision's v1 transforms,
torchvision's ResNet-18 as it is, Adam 1e-3, cross-entropy, float32, batches of 64, no schedule.
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
VAL = 5000


@dataclass(frozen=True)
class Setting:
    """A data set as the article reads it: three views of train and test, without and with augmentation."""

    train: Dataset[Any]
    plain: Dataset[Any]
    test: Dataset[Any]

    def loaders(self, seed: int) -> tuple[DataLoader[Any], DataLoader[Any], DataLoader[Any]]:
        """Train (augmented, shuffled), validation (5,000 images of train, drawn by the seed) and test."""
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed)).tolist()  # type: ignore[arg-type]
        return (
            DataLoader(Subset(self.train, order[VAL:]), BATCH, shuffle=True),
            DataLoader(Subset(self.plain, order[:VAL]), BATCH),
            DataLoader(self.test, BATCH),
        )


def cifar10(root: Path) -> Setting:
    """CIFAR-10's JPEG files, ``{train,test}/<class>/*.jpg``; padded by 4 and cropped, flipped, as most articles do."""
    plain = [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))]
    augment = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    folder = lambda part, steps: datasets.ImageFolder(str(root / part), transforms.Compose(steps))  # noqa: E731
    return Setting(folder("train", [*augment, *plain]), folder("train", plain), folder("test", plain))


def fashion_mnist(root: Path) -> Setting:
    """Fashion-MNIST in torchvision's layout; resized to 32 pixels, grey in all three channels, flipped."""
    sized = [transforms.Resize(32), transforms.Grayscale(3)]
    plain = [transforms.ToTensor(), transforms.Normalize((0.286,) * 3, (0.353,) * 3)]

    def part(train: bool, steps: Sequence[Callable[[Any], Any]]) -> Dataset[Any]:
        return datasets.FashionMNIST(str(root.parent), train=train, transform=transforms.Compose(list(steps)))

    flip = transforms.RandomHorizontalFlip()
    return Setting(part(True, [*sized, flip, *plain]), part(True, [*sized, *plain]), part(False, [*sized, *plain]))


SETTINGS: dict[str, tuple[str, Callable[[Path], Setting]]] = {
    "cifar10": ("cifar10", cifar10),
    "fashion_mnist": ("FashionMNIST", fashion_mnist),
}
"""Which folder of IMGREC_DATA, and what reads it."""


def network(num_classes: int = 10) -> nn.Module:
    """ResNet-18 of torchvision as it is, from scratch."""
    made: nn.Module = models.resnet18(num_classes=num_classes)
    return made


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> Tensor:
    """One step, as everybody writes it; gives the loss."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(images), targets)
    loss.backward()
    optimizer.step()
    return loss


def train_epoch(
    model: nn.Module, loader: DataLoader[Any], optimizer: torch.optim.Optimizer, batches: int | None = None
) -> int:
    """One epoch, or its first ``batches``; gives the number of images that were trained on."""
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
    """The part of the images that is named correctly."""
    model.eval()
    hits = [(model(images).argmax(1) == targets) for images, targets in loader]
    return torch.cat(hits).float().mean().item()


@dataclass
class Reached:
    """What the loop took to a level. CPU seconds are of training alone, evaluation stands beside them."""

    data: str
    seed: int
    level: float
    epochs: int = 0
    train_cpu_s: float = 0.0
    evaluate_cpu_s: float = 0.0
    val: list[float] = field(default_factory=list)
    test: float | None = None
    """The accuracy on the test split, read once, when the validation split says that the level is reached."""


def time_to_level(
    data: str,
    root: Path,
    level: float,
    seed: int,
    limit: float = math.inf,
    keep: Callable[[Reached], None] = lambda _: None,
) -> Reached:
    """Train until the validation accuracy is at ``level``, or for ``limit`` CPU seconds (then ``test`` stays ``None``).

    ``keep`` is called after every epoch.
    """
    torch.manual_seed(seed)
    train, val, test = SETTINGS[data][1](root).loaders(seed)
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    found = Reached(data, seed, level)
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
    """``python article.py cifar10 DIR --level 0.84 --seed 0 --out FILE``: one line of JSON, rewritten every epoch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", choices=sorted(SETTINGS))
    parser.add_argument("root", type=Path, help="the folder that IMGREC_DATA names")
    parser.add_argument("--level", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=math.inf, help="CPU seconds of training after which it stops")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    time_to_level(
        given.data,
        given.root / SETTINGS[given.data][0],
        given.level,
        given.seed,
        given.limit,
        lambda found: given.out.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8") and None,
    )


if __name__ == "__main__":
    main()
