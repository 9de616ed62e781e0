"""Figures of a comparison: curves of all runs, and small drawings in the cells of its tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imgrec.compare.align import ComparedRun
from imgrec.compare.comparison import PairComparison
from imgrec.compare.groups import Group
from imgrec.reports.figures import Drawing
from imgrec.reports.svg import SERIES, SvgFigure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = tuple[NDArray[np.int64], NDArray[np.float64]]
"""Epochs, counted from 1, and values."""

_PANELS = (
    ("Validation accuracy", ("val/acc",)),
    ("Validation NLL", ("val/nll", "val/loss")),
    ("Training loss", ("train/loss", "train/loss_epoch")),
)
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)))
_WIDTH, _HEIGHT = 180, 18  # of the drawing of a cell, in SVG units


def curve_drawings(groups: Sequence[Group]) -> list[Drawing]:
    """Draw a panel of curves for every metric. Empty panels are omitted.

    A thin line is a run. A bold line is the mean of a group with several runs.
    """
    drawn = [_panel(title, groups, names) for title, names in _PANELS]
    return [drawing for drawing in drawn if drawing is not None]


def mean_curve(group: Group, names: Sequence[str]) -> Curve | None:
    """Return the mean over the runs of a group, at the epochs that all runs have, or ``None`` without such an epoch."""
    curves = [_curve(run, names) for run in group.runs]
    found = [dict(zip(curve[0].tolist(), curve[1], strict=True)) for curve in curves if curve is not None]
    if len(found) < len(group.runs):
        return None
    epochs = sorted(set.intersection(*(set(values) for values in found)))
    if not epochs:
        return None
    return np.array(epochs), np.array([np.mean([values[epoch] for values in found]) for epoch in epochs])


def accuracy_cells(groups: Sequence[Group]) -> tuple[list[str], str]:
    """Draw accuracies and interval of every group on one scale, and return the drawings and the scale as text."""
    ends = [_extent(group) for group in groups]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    cells = []
    for number, (group, (left, right)) in enumerate(zip(groups, ends, strict=True)):
        dots = [(run.accuracy, 3.0, 0.45) for run in group.runs] if len(group.runs) > 1 else []
        cells.append(_cell(left, right, [*dots, (group.accuracy, 4.0, 1.0)], low, high, number % len(SERIES)))
    return cells, f"{100 * low:.1f} to {100 * high:.1f} %"


def difference_cells(pairs: Sequence[PairComparison]) -> tuple[list[str], str]:
    """Draw difference and interval of every pair on one scale, and return the drawings and the scale as text."""
    reach = max((max(abs(pair.low), abs(pair.high)) for pair in pairs), default=0.0) * 1.04 or 0.01
    cells = [
        _cell(pair.low, pair.high, [(pair.difference, 4.0, 1.0)], -reach, reach, None, zero=True) for pair in pairs
    ]
    return cells, f"{-100 * reach:+.1f} to {100 * reach:+.1f}"


def _extent(group: Group) -> tuple[float, float]:
    if group.interval is not None:
        return group.interval
    spread = group.spread or 0.0
    accuracies = [run.accuracy for run in group.runs]
    return max(0.0, min([group.accuracy - spread, *accuracies])), min(1.0, max([group.accuracy + spread, *accuracies]))


def _cell(
    left: float,
    right: float,
    dots: Sequence[tuple[float, float, float]],
    low: float,
    high: float,
    series: int | None,
    zero: bool = False,
) -> str:
    """Draw a bar from ``left`` to ``right`` and dots (position, radius, opacity) on the scale ``low`` to ``high``."""

    def x(value: float) -> str:
        return f"{6 + (_WIDTH - 12) * (value - low) / ((high - low) or 1.0):.1f}"

    middle = _HEIGHT / 2
    colour = "var(--ink)" if series is None else f"var(--series-{series})"
    parts = [f'<svg class="cell" viewBox="0 0 {_WIDTH} {_HEIGHT}" style="color: {colour}" aria-hidden="true">']
    if zero:
        parts.append(
            f'<line x1="{x(0)}" x2="{x(0)}" y1="0" y2="{_HEIGHT}" stroke="var(--soft)" stroke-dasharray="2 2"/>'
        )
    parts.append(f'<line x1="{x(left)}" x2="{x(right)}" y1="{middle}" y2="{middle}" stroke="currentColor"/>')
    for position, radius, opacity in dots:
        parts.append(f'<circle cx="{x(position)}" cy="{middle}" r="{radius}" fill="currentColor" opacity="{opacity}"/>')
    return "".join([*parts, "</svg>"])


def _curve(run: ComparedRun, names: Sequence[str]) -> Curve | None:
    for name in names:
        series = run.metrics.get(name)
        if series is not None:
            last = dict(zip(series.epochs.tolist(), series.values, strict=True))
            return np.array(list(last)) + 1, np.array(list(last.values()))
    return None


def _panel(title: str, groups: Sequence[Group], names: Sequence[str]) -> Drawing | None:
    lines: list[tuple[int, Curve, bool]] = []
    final_values = []
    for number, group in enumerate(groups):
        single = len(group.runs) == 1
        lines += [(number, curve, single) for run in group.runs if (curve := _curve(run, names)) is not None]
        mean = mean_curve(group, names)
        if mean is not None:
            final_values.append(f"{group.name} {mean[1][-1]:.4g}")
            if not single:
                lines.append((number, mean, True))
    if not lines:
        return None
    with SvgFigure(3.9, 2.6) as drawn:
        axes = drawn.figure.add_axes((0.15, 0.18, 0.82, 0.78))
        for number, (epochs, values), bold in lines:
            (line,) = axes.plot(
                epochs,
                values,
                color=SERIES[number % len(SERIES)],
                linestyle=_DASHES[number // len(SERIES) % len(_DASHES)],
                linewidth=1.9 if bold else 0.8,
                alpha=1.0 if bold else 0.45,
                marker="o" if bold and len(epochs) <= 30 else "",
                markersize=2.8,
            )
            line.set_gid(f"series-{number}")
        _limits(axes, [values for _, (_, values), _ in lines], "accuracy" in title)
        axes.set_xlabel("epoch")
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    svg = drawn.svg
    for number, group in enumerate(groups):
        named = f'<g class="series-{number}">'
        svg = svg.replace(named, f"{named}<title>{escape(group.name)}</title>")
    return Drawing(title, f"Final values: {', '.join(final_values)}" if final_values else title, svg)


def _limits(axes: Axes, values: Sequence[NDArray[np.float64]], accuracy: bool) -> None:
    """Set the y-limits: the upper range of the curves for an accuracy, from zero for a loss."""
    joined = np.concatenate(list(values))
    joined = joined[np.isfinite(joined)]
    if not len(joined):
        return
    if accuracy:
        low = float(np.quantile(joined, 0.05))
        axes.set_ylim(max(0.0, low - 0.08 * (1 - low)), min(1.0, float(joined.max()) + 0.08 * (1 - low)))
    else:
        highest = np.quantile(joined, 0.98) if len(joined) > 200 else joined.max()
        axes.set_ylim(min(0.0, float(joined.min())), float(highest) * 1.05 or 1.0)
