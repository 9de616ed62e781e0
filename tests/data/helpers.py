"""Helper functions of the tests of the data package."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from imgrec.data import BadImage, ImageDataModule, Source
from imgrec.types import Batch

Writer = Callable[..., Path]
ABOUT = {"origin": "here", "plan": "as they are", "source": "noise"}
ROWS = np.arange(70)


def ready(source: Any, **arguments: Any) -> ImageDataModule:
    """Return a data module after its setup."""
    module = ImageDataModule(source, **{"num_workers": 0, **arguments})
    module.setup()
    return module


def folder(root: Path) -> dict[str, Any]:
    """Return the spec of a folder source."""
    return {"name": "folder", "root": str(root)}


def epoch(module: ImageDataModule, number: int = 0) -> list[Batch]:
    """Return the augmented training batches of an epoch."""
    loader = module.train_dataloader()
    loader.sampler.set_epoch(number)  # type: ignore[attr-defined]
    return [module.augment(batch) for batch in loader]


def is_same(first: list[Batch], second: list[Batch]) -> bool:
    """Return True if two lists of batches are equal."""
    return len(first) == len(second) and all(
        a.ids == b.ids and torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets)
        for a, b in zip(first, second, strict=True)
    )


def jpegs(root: Path, count: int = 12, size: tuple[int, int] = (12, 12)) -> Path:
    """Write folders of two classes of random JPEG images."""
    for label in "ab":
        for i in range(count):
            pixels = np.random.default_rng([ord(label), i]).integers(0, 256, (*size, 3), dtype=np.uint8)
            (root / label).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((size[1], size[0])).save(root / label / f"{i:02d}.jpg", quality=90)
    return root


def cached_module(root: Path, **arguments: Any) -> ImageDataModule:
    """Return a data module of a folder with small batches after its setup."""
    options = {"num_workers": 0, "batch_size": 5, "eval_batch_size": 4, **arguments}
    made = ImageDataModule({"name": "folder", "root": str(root)}, **options)
    made.setup()
    return made


def uniform(row: int) -> Tensor:
    """Return a random image of one size. Some rows are unreadable."""
    if row % 30 == 7:
        raise BadImage(f"the fault of {row}")
    return torch.randint(256, (3, 5, 6), generator=torch.Generator().manual_seed(row), dtype=torch.uint8)


class BlankTable(Source):
    """Source of black images of 2 x 2 pixels."""

    def load(self, index: int) -> Tensor:
        return torch.zeros(1, 2, 2, dtype=torch.uint8)


def split_rows(source: Source, split: str) -> list[int]:
    """Return the rows of a split."""
    return [row for row, name in enumerate(source.splits) if name == split]


def png(seed: int) -> bytes:
    """Return a random PNG image of 5 x 6 pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()
