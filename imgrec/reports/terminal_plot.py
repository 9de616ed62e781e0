"""Plots in a terminal: a line of Braille dots, and marks."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

_BASE = 0x2800
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # by row and column of a character


def plot(
    line: tuple[ArrayLike, ArrayLike],
    marks: tuple[ArrayLike, ArrayLike],
    *,
    width: int,
    height: int,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    mark: str = "o",
) -> list[str]:
    """Plot a line and marks as text.

    A character has 2 by 4 dots. Values that are not finite leave a gap. Values outside the ranges are clipped.

    Args:
        line: x and y values of the line, sorted by x.
        marks: x and y values of the marks. Each is one character.
        width: Width in characters.
        height: Height in characters.
        x_range: Values at the left and right edge.
        y_range: Values at the lower and upper edge.
        mark: Character of a mark. Defaults to ``o``.

    Returns:
        ``height`` lines of ``width`` characters, from top to bottom.

    Example:
        >>> plot(([0, 1], [0, 1]), ([], []), width=2, height=1, x_range=(0, 1), y_range=(0, 1))
        ['⡠⠊']
    """
    cells = np.zeros((height, width), dtype=np.int64)
    x, y = _to_grid(*line, x_range, y_range, 2 * width - 1, 4 * height - 1)
    for i in range(len(x)):
        is_connected = i > 0 and bool(np.isfinite([x[i - 1], y[i - 1]]).all())
        if not np.isfinite([x[i], y[i]]).all():
            continue
        start = (x[i - 1], y[i - 1]) if is_connected else (x[i], y[i])
        count = int(max(abs(x[i] - start[0]), abs(y[i] - start[1]))) + 1
        columns = np.linspace(start[0], x[i], count + 1).round().astype(int)
        rows = (4 * height - 1) - np.linspace(start[1], y[i], count + 1).round().astype(int)
        np.bitwise_or.at(cells, (rows // 4, columns // 2), _DOTS[rows % 4, columns % 2])
    characters = [[chr(_BASE + int(cell)) if cell else " " for cell in row] for row in cells]
    x, y = _to_grid(*marks, x_range, y_range, width - 1, height - 1)
    for column, row in zip(x, y, strict=True):
        if np.isfinite([column, row]).all():
            characters[height - 1 - round(row)][round(column)] = mark
    return ["".join(row) for row in characters]


def _to_grid(
    x: ArrayLike, y: ArrayLike, x_range: tuple[float, float], y_range: tuple[float, float], last_x: int, last_y: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    def scaled(values: ArrayLike, bounds: tuple[float, float], last: int) -> NDArray[np.float64]:
        low, high = bounds
        fraction = (np.asarray(values, np.float64) - low) / ((high - low) or 1.0)
        return np.where(np.isfinite(fraction), np.clip(fraction, 0, 1) * last, np.nan)

    return scaled(x, x_range, last_x), scaled(y, y_range, last_y)
