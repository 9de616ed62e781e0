"""The other side of the input benchmarks: ImageFolder with PIL and torchvision v1 transforms, and timm's loader."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from imgrec.models.classifier import Classifier

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 64


def data(name: str) -> Path | None:
    """A folder of IMGREC_DATA; without it, says so."""
    root = os.environ.get("IMGREC_DATA")
    if root and (Path(root) / name).is_dir():
        return Path(root) / name
    print(f"IMGREC_DATA does not name a folder with {name}: nothing is measured, nothing is claimed")
    return None


def article(root: Path, steps: list[Any]) -> DataLoader[Any]:
    """ImageFolder, PIL, torchvision's v1 transforms, a plain DataLoader."""
    chain = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    return DataLoader(datasets.ImageFolder(str(root), chain), BATCH, shuffle=True, drop_last=True)


def timm_loader(root: Path, size: int, **options: Any) -> Iterable[Any]:
    """The dataset and loader of timm, as its training script makes them, on the CPU."""
    from timm.data import create_dataset, create_loader

    dataset = create_dataset("", str(root), is_training=True)
    loader: Iterable[Any] = create_loader(
        dataset,
        (3, size, size),
        BATCH,
        is_training=True,
        use_prefetcher=False,
        num_workers=0,
        mean=MEAN,
        std=STD,
        persistent_workers=False,
        **options,
    )
    return loader


def normalizer() -> Callable[[torch.Tensor], torch.Tensor]:
    """What our classifiers do to a batch before the backbone."""
    return Classifier(nn.Identity(), nn.Identity(), MEAN, STD).normalize  # type: ignore[arg-type]


def rate(batches: Callable[[], Iterable[tuple[int, torch.dtype]]], images: int) -> Callable[[], float]:
    """CPU seconds of an image, measured over the first ``images`` of an epoch."""

    def measure() -> float:
        begun, seen = time.process_time(), 0
        for count, dtype in batches():
            if dtype != torch.float32:
                raise RuntimeError("a side gave images that are not normalised floats")
            seen += count
            if seen >= images:
                break
        return (time.process_time() - begun) / seen

    return measure


def of_pairs(loader: Iterable[Any]) -> Callable[[], Iterable[tuple[int, torch.dtype]]]:
    """The batches of a loader that gives images and targets."""

    def batches() -> Iterable[tuple[int, torch.dtype]]:
        for images, _ in loader:
            yield len(images), images.dtype

    return batches
