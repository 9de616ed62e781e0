"""Accuracy drop of a model against a reference on validation images, and the budget for it."""

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
    """Largest accuracy drop of a model in a lower precision.

    Args:
        max_drop: Points of accuracy, in [0, 100]. Defaults to None: the drop is measured only.
        level: Confidence level of the reported interval, in (0, 1). Defaults to 0.95.
        sure: True to compare the upper end of the interval with ``max_drop`` instead of the drop. Defaults to False.
        max_kept: Largest share of layers in floating point, in [0, 1]. Defaults to 0.5.
    """

    max_drop: float | None = None
    level: float = 0.95
    sure: bool = False
    max_kept: float = 0.5

    @property
    def points(self) -> float:
        """``max_drop``, or infinity without a budget."""
        return float("inf") if self.max_drop is None else self.max_drop + 1e-9

    def check_images(self, count: int) -> None:
        """Check that ``count`` images are enough to decide on this budget.

        Raises:
            UserError: If there are too few images.
        """
        if count < 1:
            raise UserError(
                "calibration: expected validation images that are not used for calibration, got none. "
                "Calibrate on train, or on fewer images."
            )
        needed = min_images_for_drop(self.max_drop, self.level) if self.sure and self.max_drop else 1
        if count < needed:
            raise UserError(
                f"max_drop: expected {needed} validation images or more to show with {100 * self.level:g} % confidence "
                f"a drop of at most {self.max_drop:g} points, got {count}. Set sure=False or a larger max_drop."
            )


@dataclass(frozen=True)
class AccuracyCheck:
    """Accuracy of a model compared with the reference.

    Args:
        drop: Accuracy drop with its interval.
        agreement: Share of images for which both predict the same class, in [0, 1].
    """

    drop: AccuracyDrop
    agreement: float

    def cost(self, budget: Budget) -> float:
        """Return the points of accuracy that are compared with the budget."""
        return self.drop.high if budget.sure else self.drop.drop

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers by name."""
        return {**self.drop.to_dict(), "agreement": round(self.agreement, 6)}


class AccuracyEvaluator:
    """Function that compares models with a reference on validation images, of which one batch is in memory.

    Args:
        data: Data module after ``setup``.
        reference: File of the model in float32.
        runtime: Runtime of the reference and of all models.
        excluded: Ids of images that are not evaluated, because they are used for calibration.
        budget: Accuracy budget, which determines the required number of images.

    Raises:
        UserError: If there are too few images.
    """

    split = "val"

    def __init__(
        self, data: ImageDataModule, reference: Path, runtime: str, excluded: Set[str], budget: Budget
    ) -> None:
        self._data = data
        self._runtime = runtime
        self._excluded = excluded
        self._level = budget.level
        ids = (data.source.ids[row] for row in data.splits.val.tolist())
        budget.check_images(sum(name not in excluded for name in ids))
        self._correct, self._predicted = self._predict(reference, None)

    def __call__(self, file: Path, precision: str | None = None) -> AccuracyCheck:
        """Return the accuracy drop of ``file``, computed in ``precision``, and its agreement with the reference."""
        correct, predicted = self._predict(file, precision)
        agree = np.asarray(predicted == self._predicted)
        same = agree.all(axis=1) if agree.ndim > 1 else agree
        return AccuracyCheck(accuracy_drop(self._correct, correct, self._level), float(same.mean()))

    def _predict(self, file: Path, precision: str | None) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        correct, predicted = [], []
        with open_runtime(file, self._runtime, threads=torch.get_num_threads(), precision=precision) as network:
            for images, targets in self._batches():
                logits = network(images)
                if targets.ndim > 1:  # a multi-label prediction is correct if all labels are
                    predicted.append(logits > 0)
                    correct.append((predicted[-1] == (targets > 0.5)).all(axis=1))
                else:
                    predicted.append(logits.argmax(axis=1))
                    correct.append(predicted[-1] == targets)
        return np.concatenate(correct), np.concatenate(predicted)

    def _batches(self) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        for batch in self._data.val_dataloader():
            rows = [i for i, name in enumerate(batch.ids) if name not in self._excluded]
            if rows:
                yield unit_images(batch)[rows], batch.targets.numpy()[rows]


def check_evaluation_data(data: Any, facts: DataFacts) -> None:
    """Check that a model can be evaluated on the data of a data module.

    Args:
        data: Data module.
        facts: Facts of the training data of the model.

    Raises:
        UserError: If the data has other classes, or images of another shape.
    """
    if not isinstance(data, ImageDataModule):
        raise UserError(f"data: expected an ImageDataModule for calibration, got {type(data).__name__}.")
    if data.facts.class_names != facts.class_names:
        raise UserError(
            f"data: expected the {facts.num_classes} classes of the model ({', '.join(facts.class_names[:5])}, ...), "
            f"got {data.facts.num_classes} classes ({', '.join(data.facts.class_names[:5])}, ...)."
        )
    shape, expected = ((each.channels, each.image_size, each.image_size) for each in (data.facts, facts))
    if shape != expected:
        texts = [" x ".join(map(str, each)) for each in (expected, shape)]
        raise UserError(f"data: expected images of {texts[0]} for calibration, got {texts[1]}.")
