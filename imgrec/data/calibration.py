"""Images of a run's own data on which a network in int8 is calibrated: drawn by position, never from the test split."""

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
    """Images as a network takes them, uint8 ``(N, C, H, W)``, and where they are from."""

    images: Tensor
    ids: tuple[str, ...]
    split: CalibrationSplit
    seed: int


def calibration_images(
    data: ImageDataModule, count: int = 256, split: CalibrationSplit = "train", seed: int = 0
) -> CalibrationImages:
    """Draw images of a split, with the transforms of evaluation.

    Which images they are is a function of the seed and of their ids alone. One that cannot be read is passed over.

    Args:
        data: a data module that is set up.
        count: how many.
        split: ``train`` or ``val``; a network that has seen test images in any way is not tested on them.
        seed: another one draws other images.

    Raises:
        UserError: the split is another one, or holds fewer images that can be read.
    """
    if split not in ("train", "val"):
        raise UserError(f'calibration: accepted are the splits train and val, never the test split; got "{split}"')
    rows = data.splits.train if split == "train" else data.splits.val
    ids = data.source.ids
    if count < 1 or count > len(rows):
        raise UserError(f"calibration: {count} images were asked for, and the split {split} has {len(rows)}")
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
    raise UserError(f"calibration: of the {len(rows)} images of the split {split} only {len(drawn)} can be read")
