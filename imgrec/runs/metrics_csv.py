"""metrics.csv: one row an occasion, one column a metric, readable while the run still writes it."""

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


class MetricsLog:
    """Writes metrics.csv row by row; what was written is on disk, also when the run is killed.

    A cell is blank where its row lacks the metric. Numbers are written as ``repr`` writes them, so that they read back
    exactly. A row with a new metric rewrites the file once, with the wider header, aside and renamed; every other row
    is one short append, whatever stands in the file already.

    Args:
        path: the file; where it exists it is continued. A last line that a killed run left unfinished is dropped.
        last_step: rows of later steps are dropped from an existing file: a run that is resumed from a checkpoint at
            this step writes them again.

    Raises:
        UserError: the file exists and is no metrics.csv.
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
        """Add a row: the metrics in ``values`` at optimizer step ``step`` of epoch ``epoch``, both counted from 0.

        Raises:
            ValueError: a metric is named ``step`` or ``epoch`` or by more than one line, or the log is closed.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        if taken := [name for name in values if name in _POSITION]:
            raise ValueError(f"a metric cannot be named {taken[0]!r}: that column says where a row stands")
        if new := [name for name in values if name not in self._names]:
            if broken := [name for name in new if len(name.splitlines()) != 1]:
                raise ValueError(f"a metric's name is one line, not {broken[0]!r}")
            self._rewrite([*self._names, *new], None)
        cells = [repr(float(values[name])) if name in values else "" for name in self._names]
        csv.writer(self._file, lineterminator="\n").writerow([int(step), int(epoch), *cells])
        self._file.flush()

    def synchronise(self) -> None:
        """Wait until every row is on the disk, as a checkpoint is: neither outlives the other when the power fails."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; a second time does nothing."""
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
    """One metric over a run: ``steps`` and ``epochs`` int64 ``(n,)``, ``values`` float64 ``(n,)``, in written order."""

    steps: NDArray[np.int64]
    epochs: NDArray[np.int64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.values)


def read_metrics(path: str | Path) -> dict[str, MetricSeries]:
    """The metrics of a metrics.csv by name, without the blank cells; a metric never written is left out.

    A run may be writing still: a last line that is not finished is not read.

    Raises:
        UserError: there is no such file, or a cell is no number; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"metrics not found: {path}")
    with reading(path):
        return _read_series(path)


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
        raise UserError(f"{path} is no metrics.csv: its first line should begin with step,epoch")
    return header[2:]


def _rows(path: Path) -> Iterator[list[str]]:
    """The complete rows, checked: integers first, then numbers or blanks."""
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
