"""Predictions of a split, one per image, and their parquet file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from imgrec.errors import UserError
from imgrec.metrics.probabilities import softmax
from imgrec.utils import json_text
from imgrec.utils.paths import written_aside

_COLUMNS = ("id", "target", "predicted", "logits")
_CLASS_NAMES = b"class_names"
_ROW_GROUP = 16 << 20
"""Size of the logits of a row group, in bytes."""


@dataclass(frozen=True, eq=False, init=False)
class Predictions:
    """Predictions of a model for the images of a split.

    Args:
        ids: Sample ids.
        targets: Class indices of shape ``(N,)``.
        logits: Logits of shape ``(N, num_classes)``.
        class_names: Names of the classes.

    Raises:
        ValueError: If the shapes do not match, or a target is no class index.

    Example:
        >>> predictions = Predictions(["a", "b"], [0, 1], [[2.0, 0.0], [1.0, 0.0]], ["cat", "dog"])
        >>> predictions.predicted.tolist(), predictions.accuracy
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
                f"expected targets of shape ({count},) and logits of shape ({count}, {classes}) for {count} ids and "
                f"{classes} class names, got {self.targets.shape} and {self.logits.shape}"
            )
        if count and (self.targets.min() < 0 or self.targets.max() >= classes):
            raise ValueError(
                f"targets: expected indices of {classes} classes, got {self.targets.min()} to {self.targets.max()}"
            )

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """Class with the largest logit, of shape ``(N,)``. Of equal logits, the lower class index."""
        return np.asarray(self.logits.argmax(axis=1), dtype=np.int64)

    @cached_property
    def probabilities(self) -> NDArray[np.float64]:
        """Softmax of the logits, of shape ``(N, num_classes)``."""
        return softmax(self.logits)

    @cached_property
    def finite(self) -> NDArray[np.bool_]:
        """True for each image whose logits have a softmax: no NaN, and a finite maximum. Shape ``(N,)``."""
        return np.asarray(np.isfinite(self.logits.max(axis=1)))

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """True for each image with finite logits whose predicted class is the target. Shape ``(N,)``."""
        return np.asarray((self.predicted == self.targets) & self.finite)

    @property
    def accuracy(self) -> float:
        """Fraction of ``correct`` images. NaN if there is no image."""
        return float(self.correct.mean()) if len(self) else float("nan")


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write predictions as a parquet file, atomically.

    The columns are ``id`` (string), ``target`` and ``predicted`` (int32), and ``logits`` (list of float32). The
    metadata of the schema contain ``class_names`` as JSON. Row groups of about 16 MiB limit the additional memory.

    Args:
        path: Path of the file.
        predictions: Predictions to write.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes = len(predictions.class_names)
    names = json.dumps(list(predictions.class_names), ensure_ascii=False).encode()
    types = (pa.string(), pa.int32(), pa.int32(), pa.list_(pa.float32(), classes))
    schema = pa.schema(list(zip(_COLUMNS, types, strict=True)), {_CLASS_NAMES: names})
    rows = max(1, _ROW_GROUP // (4 * classes))
    with (
        written_aside(path) as aside,
        pq.ParquetWriter(aside, schema, use_dictionary=["target", "predicted"]) as writer,
    ):
        for start in range(0, len(predictions), rows):
            part = slice(start, start + rows)
            logits = predictions.logits[part]
            columns = [
                pa.array(predictions.ids[part], pa.string()),
                pa.array(predictions.targets[part].astype(np.int32)),
                pa.array(logits.argmax(axis=1).astype(np.int32)),
                pa.FixedSizeListArray.from_arrays(pa.array(logits.reshape(-1), pa.float32()), classes),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def read_predictions(path: str | Path) -> Predictions:
    """Read a file of :func:`write_predictions`.

    Raises:
        UserError: If there is no such file, or it is no parquet file of predictions.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise UserError(f"predictions not found: {path}")
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            missing = [name for name in _COLUMNS if name not in schema.names]
            names = (schema.metadata or {}).get(_CLASS_NAMES)
            if missing or names is None:
                lacks = ", ".join([f'the column "{name}"' for name in missing] or ["the class names in its metadata"])
                raise UserError(f"{path}: expected predictions, but it lacks {lacks}")
            class_names = json_text.loads(names)
            count = file.metadata.num_rows
            ids: list[str] = []
            targets = np.empty(count, dtype=np.int64)
            logits = np.empty((count, len(class_names)), dtype=np.float32)
            for number in range(file.num_row_groups):  # copied one by one, to limit the memory
                table = file.read_row_group(number, columns=["id", "target", "logits"])
                part = slice(len(ids), len(ids) + len(table))
                targets[part] = table.column("target").to_numpy()
                flat = table.column("logits").combine_chunks().flatten().to_numpy(zero_copy_only=False)
                logits[part] = flat.reshape(len(table), len(class_names))
                ids += table.column("id").to_pylist()
        return Predictions(ids, targets, logits, class_names)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a readable parquet file: {error}") from error
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path}: expected predictions. {error}") from error
