"""What a network loses against another one on the validation images of a run, and whether a budget allows it."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from imgrec.data import ImageDataModule
from imgrec.errors import UserError
from imgrec.export.runtimes.registry import open_runtime
from imgrec.runs.evaluation import unit_images
from imgrec.stats.accuracy_drop import AccuracyDrop, accuracy_drop, min_images_for_drop
from imgrec.types import DataFacts


@dataclass(frozen=True)
class Budget:
    """What a lower precision may cost.

    Args:
        max_drop: points of accuracy; ``None`` measures, and nothing follows from it.
        level: the confidence of the interval that is reported with the drop.
        sure: whether the upper end of the interval has to lie within ``max_drop``, rather than the drop itself.
        max_kept: the part of the layers that may stay in floating point.

    Raises:
        UserError: a number out of its range.
    """

    max_drop: float | None = None
    level: float = 0.95
    sure: bool = False
    max_kept: float = 0.5

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise UserError(f"max_drop: expected points of accuracy, 0 to 100, got {self.max_drop}")
        if not 0 < self.level < 1:
            raise UserError(f"level: expected a confidence between 0 and 1, got {self.level}")
        if not 0 <= self.max_kept <= 1:
            raise UserError(f"max_kept: expected a part of the layers, 0 to 1, got {self.max_kept}")

    @property
    def points(self) -> float:
        """``max_drop``, or infinity."""
        return float("inf") if self.max_drop is None else self.max_drop + 1e-9

    def check_images(self, count: int) -> None:
        """Raise :class:`UserError` where so few images cannot show what is asked for."""
        if count < 1:
            raise UserError("no validation image is left to judge on; calibrate on train, or on fewer images")
        needed = min_images_for_drop(self.max_drop, self.level) if self.sure and self.max_drop else 1
        if count < needed:
            raise UserError(
                f"max_drop: {count} validation images cannot show with {100 * self.level:g} % confidence that at most "
                f"{self.max_drop:g} points are lost; it takes {needed} at least, or sure=False"
            )


@dataclass(frozen=True)
class Judgement:
    """What a network loses, and on what part of the images it says what the other one says."""

    drop: AccuracyDrop
    agreement: float

    def cost(self, budget: Budget) -> float:
        """The points that are held against the budget."""
        return self.drop.high if budget.sure else self.drop.drop

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers."""
        return {**self.drop.to_dict(), "agreement": round(self.agreement, 6)}


class Judge:
    """Compares networks with a reference on validation images; only one batch of these is in memory.

    Args:
        data: the data module, set up.
        reference: the network's file in float32.
        runtime: what opens the reference and all others.
        left_out: ids of images that are not judged on: those of calibration.
        budget: for how many images it takes.

    Raises:
        UserError: too few images are left.
    """

    split = "val"

    def __init__(
        self, data: ImageDataModule, reference: Path, runtime: str, left_out: Set[str], budget: Budget
    ) -> None:
        self._data = data
        self._runtime = runtime
        self._left_out = left_out
        self._level = budget.level
        ids = (data.source.ids[row] for row in data.splits.val.tolist())
        budget.check_images(sum(name not in left_out for name in ids))
        self._right, self._said = self._look(reference, None)

    def __call__(self, file: Path, precision: str | None = None) -> Judgement:
        """Return the accuracy drop of ``file``, computed in ``precision``, and its agreement with the reference."""
        right, said = self._look(file, precision)
        agree = np.asarray(said == self._said)
        same = agree.all(axis=1) if agree.ndim > 1 else agree
        return Judgement(accuracy_drop(self._right, right, self._level), float(same.mean()))

    def _look(self, file: Path, precision: str | None) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        right, said = [], []
        with open_runtime(file, self._runtime, threads=torch.get_num_threads(), precision=precision) as network:
            for images, targets in self._batches():
                logits = network(images)
                if targets.ndim > 1:  # several labels: right is what has them all and no other
                    said.append(logits > 0)
                    right.append((said[-1] == (targets > 0.5)).all(axis=1))
                else:
                    said.append(logits.argmax(axis=1))
                    right.append(said[-1] == targets)
        return np.concatenate(right), np.concatenate(said)

    def _batches(self) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        for batch in self._data.val_dataloader():
            rows = [i for i, name in enumerate(batch.ids) if name not in self._left_out]
            if rows:
                yield unit_images(batch)[rows], batch.targets.numpy()[rows]


def check_data(data: Any, facts: DataFacts) -> None:
    """Raise where a network cannot be judged on some data.

    Raises:
        UserError: the data has other classes, or images of another size or kind.
    """
    if not isinstance(data, ImageDataModule):
        raise UserError(f"images are drawn from an ImageDataModule, and the run's data is a {type(data).__name__}")
    if data.facts.class_names != facts.class_names:
        raise UserError(
            f"the data has {data.facts.num_classes} classes ({', '.join(data.facts.class_names[:5])}, ...), and they "
            f"are not the {facts.num_classes} that the network was trained for"
        )
    here, there = ((each.channels, each.image_size, each.image_size) for each in (data.facts, facts))
    if here != there:
        said = [" x ".join(map(str, shape)) for shape in (there, here)]
        raise UserError(f"calibration: the network takes images of {said[0]}, and the data's are {said[1]}")
