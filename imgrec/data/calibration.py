"""Calibration images of the data of a run for int8, never from the test split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from imgrec.data.decoding.image import BadImage
from imgrec.data.loading import EvaluationSet
from imgrec.data.module import ImageDataModule
from imgrec.errors import UserError
from imgrec.utils.seeding import position_seed

CalibrationSplit = Literal["train", "val"]


@dataclass(frozen=True)
class CalibrationImages:
    """Input images of a model, uint8 ``(N, C, H, W)``, and their origin."""

    images: Tensor
    ids: tuple[str, ...]
    split: CalibrationSplit
    seed: int


def calibration_images(
    data: ImageDataModule, count: int = 256, split: CalibrationSplit = "train", seed: int = 0
) -> CalibrationImages:
    """Draw images of a split, with the transforms of evaluation.

    The selection is a function of the seed and the ids. Unreadable images are skipped.

    Args:
        data: Data module after its setup.
        count: Number of images. Defaults to 256.
        split: ``train`` or ``val``. Test images are not allowed. Defaults to ``train``.
        seed: Seed of the draw. Defaults to 0.

    Raises:
        UserError: If the split is another one, or has fewer readable images.
    """
    if split not in ("train", "val"):
        raise UserError(f'calibration: expected the split train or val, got "{split}"')
    rows = data.splits.train if split == "train" else data.splits.val
    ids = data.source.ids
    if count < 1 or count > len(rows):
        raise UserError(f"calibration: expected at most {len(rows)} images of the split {split}, got {count}")
    order = sorted(rows.tolist(), key=lambda row: position_seed(seed, "calibration", ids[row]))
    table = EvaluationSet(data.source, rows, data.eval_pipeline, data.facts.channels, seed)  # type: ignore[arg-type]
    images: list[Tensor] = []
    drawn: list[str] = []
    for row in order:
        try:
            images.append(table.read(row, "evaluation"))
        except BadImage:
            continue
        drawn.append(ids[row])
        if len(drawn) == count:
            return CalibrationImages(torch.stack(images), tuple(drawn), split, seed)
    raise UserError(f"calibration: only {len(drawn)} of {len(rows)} images of the split {split} can be read")
