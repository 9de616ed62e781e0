"""A learning-rate range test as a picture, and as lines of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from imgrec.errors import UserError
from imgrec.reports.terminal_plot import plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from imgrec.optim.lr_range_test import RangeTest

_WIDTH, _HEIGHT, _MARGIN = 64, 12, 9
_MARKS = {"steepest": "o", "valley": "s", "minimum": "^"}


def range_picture(found: RangeTest, rule: str, place: str = "learning rate") -> Figure:
    """The losses and their smoothed curve over the learning rates, with what each rule suggests; ``rule``'s in colour.

    Args:
        found: the test.
        rule: the suggestion that is taken.
        place: what is varied, for the abscissa.
    """
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(7, 4.2))
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, ".", color="0.75", markersize=4, label="training loss of a step")
    axes.plot(found.rates, found.smoothed, color="C0", linewidth=1.8, label="smoothed")
    try:
        suggested = found.suggestions()
    except UserError:
        suggested = {}
    for name, rate in suggested.items():
        loss = np.interp(np.log(rate), np.log(found.rates), found.smoothed)
        taken = name == rule
        if taken:
            axes.axvline(rate, color="C1", linewidth=1)
        axes.plot(
            [rate], [loss], _MARKS[name], color="C1" if taken else "0.35", markersize=8 if taken else 6,
            label=f"{name}: {rate:.2g}", zorder=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(*_bounds(found))
    axes.set_xlabel(place)
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout(pad=0.6)
    return figure


def range_text(found: RangeTest, rule: str) -> list[str]:
    """The smoothed curve in Braille dots, with its axes, and what ``rule`` suggests as a mark."""
    rates, (low, high) = np.log10(found.rates), _bounds(found)
    if len(rates) < 2:
        return []
    try:
        at = [math.log10(found.suggestions()[rule])]
    except UserError:
        at = []
    marks = (at, np.interp(at, rates, found.smoothed))
    ends = (float(rates[0]), float(rates[-1]))
    lines = plot((rates, found.smoothed), marks, width=_WIDTH, height=_HEIGHT, x_range=ends, y_range=(low, high))
    labels = {0: high, _HEIGHT - 1: low}
    drawn = [f"{f'{labels[i]:.3g}' if i in labels else '':>{_MARGIN}} {line.rstrip()}" for i, line in enumerate(lines)]
    return [*drawn, " " * (_MARGIN + 1) + _abscissa(*ends)]


def _abscissa(low: float, high: float) -> str:
    """Powers of ten where they stand."""
    line = [" "] * (_WIDTH + 8)
    for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1):
        at = round((power - low) / (high - low) * (_WIDTH - 1))
        line[at : at + 5] = list(f"1e{power}".ljust(5))
    return "".join(line).rstrip()


def _bounds(found: RangeTest) -> tuple[float, float]:
    """What is shown of the losses: where they diverge, not all of it."""
    curve = found.smoothed
    if not len(curve):
        return 0.0, 1.0
    low, first = float(curve.min()), float(curve[: max(1, len(curve) // 5)].max())
    top = min(float(curve.max()), first + 0.75 * max(first - low, 0.1 * abs(first)))
    pad = 0.05 * max(top - low, 1e-6)
    return low - pad, top + pad
