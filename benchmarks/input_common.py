"""Baselines of the input benchmarks: ImageFolder with PIL and torchvision v1 transforms, and timm's loader."""

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
    """Return a folder of IMGREC_DATA. If it is missing, print a message and return ``None``."""
    root = os.environ.get("IMGREC_DATA")
    if root and (Path(root) / name).is_dir():
        return Path(root) / name
    print(f"IMGREC_DATA: expected a folder with {name}. Nothing is measured.")
    return None


def article(root: Path, steps: list[Any]) -> DataLoader[Any]:
    """Return a DataLoader of ImageFolder with PIL and torchvision's v1 transforms."""
    chain = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    return DataLoader(datasets.ImageFolder(str(root), chain), BATCH, shuffle=True, drop_last=True)


def timm_loader(root: Path, size: int, **options: Any) -> Iterable[Any]:
    """Return timm's loader with the options of its training script, on the CPU."""
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
    """Return the normalization that imgrec classifiers apply before the backbone."""
    return Classifier(nn.Identity(), nn.Identity(), MEAN, STD).normalize  # type: ignore[arg-type]


def rate(batches: Callable[[], Iterable[tuple[int, torch.dtype]]], images: int) -> Callable[[], float]:
    """Return a function that measures CPU seconds per image over the first ``images`` of an epoch."""

    def measure() -> float:
        begun, seen = time.process_time(), 0
        for count, dtype in batches():
            if dtype != torch.float32:
                raise RuntimeError("expected normalized float32 images")
            seen += count
            if seen >= images:
                break
        return (time.process_time() - begun) / seen

    return measure


def iterate_pairs(loader: Iterable[Any]) -> Callable[[], Iterable[tuple[int, torch.dtype]]]:
    """Return a function that iterates over size and dtype of the batches of ``(images, targets)``."""

    def batches() -> Iterable[tuple[int, torch.dtype]]:
        for images, _ in loader:
            yield len(images), images.dtype

    return batches
