"""One prediction an image, kept as parquet: id, target, predicted, logits."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.errors import UserError
from imgrec.evaluate.probabilities import softmax
from imgrec.files import written_aside

_COLUMNS = ("id", "target", "predicted", "logits")
_CLASS_NAMES = b"class_names"


@dataclass(frozen=True, eq=False, init=False)
class Predictions:
    """What a model said of each image of a split.

    Shapes: ``ids`` N strings; ``targets`` int64 ``(N,)``; ``logits`` float32 ``(N, C)``; ``class_names`` C strings.
    Anything that NumPy takes for these is converted.

    Raises:
        ValueError: the shapes do not belong together, or a target is no class.

    >>> said = Predictions(["a", "b"], [0, 1], [[2.0, 0.0], [1.0, 0.0]], ["cat", "dog"])
    >>> said.predicted.tolist(), said.accuracy
    ([0, 0], 0.5)
    """

    ids: list[str]
    targets: NDArray[np.int64]
    logits: NDArray[np.float32]
    class_names: tuple[str, ...]

    def __init__(self, ids: Iterable[str], targets: ArrayLike, logits: ArrayLike, class_names: Iterable[str]) -> None:
        object.__setattr__(self, "ids", list(ids))
        object.__setattr__(self, "class_names", tuple(class_names))
        object.__setattr__(self, "targets", np.asarray(targets, dtype=np.int64))
        object.__setattr__(self, "logits", np.ascontiguousarray(logits, dtype=np.float32))
        count, classes = len(self.ids), len(self.class_names)
        if self.targets.shape != (count,) or self.logits.shape != (count, classes) or classes == 0:
            raise ValueError(
                f"{count} ids and {classes} class names do not go with targets of shape {self.targets.shape} "
                f"and logits of shape {self.logits.shape}"
            )
        if count and (self.targets.min() < 0 or self.targets.max() >= classes):
            raise ValueError(
                f"targets lie between {self.targets.min()} and {self.targets.max()}; there are {classes} classes"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """The class with the largest logit, int64 ``(N,)``; the first one where several are equal."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """The softmax of the logits, float64 ``(N, C)``."""
        return softmax(self.logits)

    @property
    def accuracy(self) -> float:
        """The fraction of images whose predicted class is the target; NaN where there is no image."""
        return float((self.predicted == self.targets).mean()) if len(self) else float("nan")


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write ``predictions`` as a parquet file, whole or not at all.

    Columns: ``id`` string, ``target`` and ``predicted`` int32, ``logits`` a list of C float32; the class names stand in
    the schema's metadata under ``class_names``, as JSON.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    logits = pa.FixedSizeListArray.from_arrays(
        pa.array(predictions.logits.reshape(-1), pa.float32()), len(predictions.class_names)
    )
    columns = [
        pa.array(predictions.ids, pa.string()),
        pa.array(predictions.targets.astype(np.int32)),
        pa.array(predictions.predicted.astype(np.int32)),
        logits,
    ]
    table = pa.table(dict(zip(_COLUMNS, columns, strict=True)))
    names = json.dumps(list(predictions.class_names), ensure_ascii=False).encode()
    with written_aside(path) as aside:
        pq.write_table(table.replace_schema_metadata({_CLASS_NAMES: names}), aside)


def read_predictions(path: str | Path) -> Predictions:
    """Read what :func:`write_predictions` wrote.

    Raises:
        UserError: there is no such file, it is not parquet, or it is a parquet file of something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise UserError(f"predictions not found: {path}")
    try:
        table = pq.ParquetFile(path).read()
    except pa.ArrowException as error:
        raise UserError(f"{path} is not a readable parquet file: {error}") from error
    missing = [name for name in _COLUMNS if name not in table.column_names]
    names = (table.schema.metadata or {}).get(_CLASS_NAMES)
    if missing or names is None:
        lacks = ", ".join([f'the column "{name}"' for name in missing] or ["the class names in its metadata"])
        raise UserError(f"{path} does not hold predictions: it lacks {lacks}")
    class_names = json.loads(names)
    logits = table.column("logits").combine_chunks()
    flat = logits.flatten().to_numpy(zero_copy_only=False)
    try:
        return Predictions(
            table.column("id").to_pylist(),
            table.column("target").to_numpy(),
            flat.reshape(len(table), len(class_names)),
            class_names,
        )
    except ValueError as error:
        raise UserError(f"{path} does not hold predictions: {error}") from error
