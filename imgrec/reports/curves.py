"""Curves of a learning-rate range test and of schedules, as figures and as text for the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgrec.errors import UserError
from imgrec.reports.terminal_plot import plot
from imgrec.utils.paths import written_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from imgrec.optim.lr_range_test import RangeTest

_WIDTH, _HEIGHT, _MARGIN = 64, 12, 9
_MARKS = {"steepest": "o", "valley": "s", "minimum": "^"}
_NUM_POINTS = 1001  # of the curve of a schedule
_SUFFIXES = (".png", ".svg", ".pdf")

ScheduleFactor = Callable[[float], float]
"""Factor on the learning rate at a fraction of training in [0, 1]."""


def lr_range_figure(test: RangeTest, rule: str, x_label: str = "learning rate") -> Figure:
    """Plot the losses and their smoothed curve over the learning rates, with the suggestion of every rule.

    Args:
        test: Result of the range test.
        rule: Rule whose suggestion is highlighted.
        x_label: Label of the x-axis. Defaults to ``learning rate``.
    """
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(7, 4.2))
    axes = figure.subplots()
    axes.plot(test.rates, test.losses, ".", color="0.75", markersize=4, label="training loss of a step")
    axes.plot(test.rates, test.smoothed, color="C0", linewidth=1.8, label="smoothed")
    try:
        suggested = test.suggestions()
    except UserError:
        suggested = {}
    for name, rate in suggested.items():
        loss = np.interp(np.log(rate), np.log(test.rates), test.smoothed)
        is_selected = name == rule
        if is_selected:
            axes.axvline(rate, color="C1", linewidth=1)
        axes.plot(
            [rate], [loss], _MARKS[name], color="C1" if is_selected else "0.35", markersize=8 if is_selected else 6,
            label=f"{name}: {rate:.2g}", zorder=3,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(*_bounds(test))
    axes.set_xlabel(x_label)
    axes.set_ylabel("training loss")
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout(pad=0.6)
    return figure


def lr_range_text(test: RangeTest, rule: str) -> list[str]:
    """Plot the smoothed curve as text in Braille dots, with a mark at the suggestion of ``rule``."""
    rates, (low, high) = np.log10(test.rates), _bounds(test)
    if len(rates) < 2:
        return []
    try:
        suggested = [math.log10(test.suggestions()[rule])]
    except UserError:
        suggested = []
    marks = (suggested, np.interp(suggested, rates, test.smoothed))
    ends = (float(rates[0]), float(rates[-1]))
    lines = plot((rates, test.smoothed), marks, width=_WIDTH, height=_HEIGHT, x_range=ends, y_range=(low, high))
    labels = {0: high, _HEIGHT - 1: low}
    drawn = [f"{f'{labels[i]:.3g}' if i in labels else '':>{_MARGIN}} {line.rstrip()}" for i, line in enumerate(lines)]
    return [*drawn, " " * (_MARGIN + 1) + _x_axis(*ends)]


def _x_axis(low: float, high: float) -> str:
    """Return a line with the powers of ten at their positions."""
    line = [" "] * (_WIDTH + 8)
    for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1):
        column = round((power - low) / (high - low) * (_WIDTH - 1))
        line[column : column + 5] = list(f"1e{power}".ljust(5))
    return "".join(line).rstrip()


def _bounds(test: RangeTest) -> tuple[float, float]:
    """Return the y-limits of the losses. They cut off most of a divergence."""
    curve = test.smoothed
    if not len(curve):
        return 0.0, 1.0
    low, first = float(curve.min()), float(curve[: max(1, len(curve) // 5)].max())
    top = min(float(curve.max()), first + 0.75 * max(first - low, 0.1 * abs(first)))
    pad = 0.05 * max(top - low, 1e-6)
    return low - pad, top + pad


def schedule_text(factor: ScheduleFactor) -> list[str]:
    """Plot the factor over training as text in Braille dots."""
    fractions, values = _sample(factor)
    top = max(values) or 1.0
    lines = plot((fractions, values), ([], []), width=_WIDTH, height=_HEIGHT, x_range=(0, 1), y_range=(0, top))
    labels = {0: f"{top:g}", _HEIGHT - 1: "0"}
    drawn = [f"{labels.get(i, ''):>6} {line.rstrip()}" for i, line in enumerate(lines)]
    return [*drawn, f"{'0':>8}{'50 %':>{_WIDTH // 2}}{'100 % of training':>{_WIDTH // 2 + 8}}"]


def schedule_points(factor: ScheduleFactor) -> dict[str, float]:
    """Return the factor at the start, after a warm-up, at half of training and at the end."""
    warmup = float(getattr(factor, "warmup", 0.0))
    peak = {f"after the warm-up, at {100 * warmup:g} %": factor(warmup)} if warmup else {}
    return {"first step": factor(0.0), **peak, "half of training": factor(0.5), "end": factor(1.0)}


def schedule_figure(curves: Sequence[tuple[str, ScheduleFactor]]) -> Figure:
    """Plot factors over training.

    Args:
        curves: Name and factor of every curve.
    """
    from matplotlib.figure import Figure as MatplotlibFigure

    figure = MatplotlibFigure(figsize=(6.4, 3.6))
    axes = figure.subplots()
    for i, (name, factor) in enumerate(curves):
        axes.plot(*_sample(factor), color=f"C{i}", linewidth=1.8, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, None)
    axes.xaxis.set_major_formatter(lambda fraction, _: f"{100 * fraction:g} %")
    axes.set_xlabel("training")
    axes.set_ylabel("factor on the learning rate")
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.tight_layout(pad=0.6)
    return figure


def check_figure_path(path: str | Path) -> Path:
    """Return the path if its suffix is that of a figure.

    Raises:
        UserError: If the suffix is not .png, .svg or .pdf.
    """
    path = Path(path)
    if path.suffix.lower() not in _SUFFIXES:
        raise UserError(f"figure: expected a file name with {', '.join(_SUFFIXES)}, got {path}.")
    return path


def write_schedule_figure(path: str | Path, curves: Sequence[tuple[str, ScheduleFactor]]) -> None:
    """Write a figure of the curves in the format of the suffix.

    Raises:
        UserError: If the suffix is not .png, .svg or .pdf, or if the file cannot be written.
    """
    path = check_figure_path(path)
    figure = schedule_figure(curves)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=150)


def _sample(factor: ScheduleFactor) -> tuple[list[float], list[float]]:
    fractions = [i / (_NUM_POINTS - 1) for i in range(_NUM_POINTS)]
    return fractions, [factor(fraction) for fraction in fractions]
