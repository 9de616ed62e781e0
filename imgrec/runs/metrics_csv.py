"""metrics.csv: writing and reading of the logged metrics, also during training."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self, SupportsFloat

import numpy as np
from numpy.typing import NDArray

from imgrec.errors import UserError
from imgrec.trust import reading
from imgrec.utils.paths import written_aside

_POSITION = ("step", "epoch")
_TAIL = 65_536  # bytes of the last rows of metrics.csv, each of a few hundred bytes


class MetricsLog:
    """Writer of metrics.csv. Every row is in the file immediately, so that a killed run loses none.

    A cell is blank if its row lacks the metric. Numbers are written by ``repr`` and are exact. A row with a new metric
    rewrites the file atomically with a longer header. Every other row is appended.

    Args:
        path: Path of the file. An existing file is continued. An incomplete last line of a killed run is removed.
        last_step: Last step to keep in an existing file. A run that is resumed at this step writes later rows again.

    Raises:
        UserError: If the file exists and is no metrics.csv.
    """

    def __init__(self, path: str | Path, last_step: int | None = None) -> None:
        self.path = Path(path)
        self._names: list[str] = []
        self._file: IO[str] | None = None
        if self.path.exists() and self.path.stat().st_size:
            self._names = _read_header(self.path)
            self._rewrite(self._names, last_step)
        else:
            self._rewrite([], None)

    def append(self, step: int, epoch: int, values: Mapping[str, SupportsFloat]) -> None:
        """Append a row.

        Args:
            step: Optimizer step, counted from 0.
            epoch: Epoch, counted from 0.
            values: Metrics by name.

        Raises:
            ValueError: If a name is ``step`` or ``epoch`` or has several lines, or if the log is closed.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        if reserved := [name for name in values if name in _POSITION]:
            raise ValueError(f"metric: expected a name other than step and epoch, got {reserved[0]!r}")
        if new := [name for name in values if name not in self._names]:
            if broken := [name for name in new if len(name.splitlines()) != 1]:
                raise ValueError(f"metric: expected a name of one line, got {broken[0]!r}")
            self._rewrite([*self._names, *new], None)
        cells = [repr(float(values[name])) if name in values else "" for name in self._names]
        csv.writer(self._file, lineterminator="\n").writerow([int(step), int(epoch), *cells])
        self._file.flush()

    def synchronise(self) -> None:
        """Flush the file to the disk, so that it matches a checkpoint after a power failure."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file. Further calls have no effect."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _rewrite(self, names: list[str], last_step: int | None) -> None:
        self.close()
        with written_aside(self.path) as aside, aside.open("w", newline="", encoding="utf-8") as target:
            writer = csv.writer(target, lineterminator="\n")
            writer.writerow([*_POSITION, *names])
            blank = [""] * (len(names) - len(self._names))
            for row in _rows(self.path) if self.path.exists() else ():
                if last_step is None or int(row[0]) <= last_step:
                    writer.writerow([*row, *blank])
        self._names = names
        self._file = self.path.open("a", newline="", encoding="utf-8")


@dataclass(frozen=True, eq=False)
class MetricSeries:
    """Values of one metric in written order.

    Attributes:
        steps: Optimizer steps of shape ``(n,)``, counted from 0.
        epochs: Epochs of shape ``(n,)``, counted from 0.
        values: Values of shape ``(n,)``.
    """

    steps: NDArray[np.int64]
    epochs: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)


def read_metrics(path: str | Path) -> dict[str, MetricSeries]:
    """Read metrics.csv, without blank cells. A metric without values is omitted.

    An incomplete last line, which a run may be writing, is not read.

    Args:
        path: Path of the file.

    Returns:
        Series of values by name.

    Raises:
        UserError: If there is no such file, or a cell is no number.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"metrics not found: {path}")
    with reading(path):
        return _read_series(path)


def read_last_values(path: Path) -> dict[str, float]:
    """Read the last value of each training and validation metric from the end of metrics.csv.

    Args:
        path: Path of the file. A missing file has no values.

    Raises:
        UserError: If a cell is no number.
    """
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        header = file.readline()
        start = file.tell()
        end = file.seek(0, os.SEEK_END)
        file.seek(max(start, end - _TAIL))
        tail = file.read()
    lines = tail.split(b"\n")[1 if end - _TAIL > start else 0 : -1]  # complete lines only
    names = next(csv.reader([header.decode()]), [])
    missing = {i: name for i, name in enumerate(names) if name.startswith(("train/", "val/"))}
    found: dict[str, float] = {}
    for cells in csv.reader(line.decode() for line in reversed(lines)):
        for i in list(missing):
            if i < len(cells) and cells[i]:
                found[missing.pop(i)] = _number(cells[i], path)
        if not missing:
            break
    return {name: found[name] for name in names if name in found}


def _number(cell: str, path: Path) -> float:
    try:
        return float(cell)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _read_series(path: Path) -> dict[str, MetricSeries]:
    names = _read_header(path)
    series: list[tuple[list[int], list[int], list[float]]] = [([], [], []) for _ in names]
    for row in _rows(path):
        step, epoch = int(row[0]), int(row[1])
        for (steps, epochs, values), cell in zip(series, row[2:], strict=True):
            if cell:
                steps.append(step)
                epochs.append(epoch)
                values.append(float(cell))
    return {
        name: MetricSeries(np.array(steps, np.int64), np.array(epochs, np.int64), np.array(values, np.float64))
        for name, (steps, epochs, values) in zip(names, series, strict=True)
        if values
    }


def _read_header(path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8") as file:
        header = next(csv.reader(file), [])
    if tuple(header[:2]) != _POSITION:
        raise UserError(f"{path} is no metrics.csv: expected a first line that begins with step,epoch")
    return header[2:]


def _rows(path: Path) -> Iterator[list[str]]:
    """Yield the complete rows after a check: two integers, then numbers or blanks."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(line for line in file if line.endswith("\n"))
        width = len(next(reader, []))
        for row in reader:
            try:
                int(row[0]), int(row[1]), [float(cell) for cell in row[2:] if cell]
                if len(row) != width:
                    raise ValueError(f"{len(row)} cells under {width} names")
            except (ValueError, IndexError) as error:
                raise UserError(f"{path}, line {reader.line_num}: {error}") from error
            yield row
