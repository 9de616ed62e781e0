"""The figures of a comparison: curves over one another, and small drawings that stand in the cells of a table."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from imgrec.compare.align import ComparedRun
from imgrec.compare.comparison import Pair
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
_WIDE, _HIGH = 180, 18  # of a cell's drawing, in its own units


def curve_drawings(groups: Sequence[Group]) -> list[Drawing]:
    """A panel a metric: each run as a thin line, the mean of a group of several in bold. Empty panels are left out."""
    drawn = [_panel(title, groups, names) for title, names in _PANELS]
    return [drawing for drawing in drawn if drawing is not None]


def mean_curve(group: Group, names: Sequence[str]) -> Curve | None:
    """The mean over a group's runs at the epochs that all have a value of; ``None`` where there is no such epoch."""
    curves = [_curve(run, names) for run in group.runs]
    found = [dict(zip(curve[0].tolist(), curve[1], strict=True)) for curve in curves if curve is not None]
    if len(found) < len(group.runs):
        return None
    epochs = sorted(set.intersection(*(set(values) for values in found)))
    if not epochs:
        return None
    return np.array(epochs), np.array([np.mean([values[epoch] for values in found]) for epoch in epochs])


def accuracy_cells(groups: Sequence[Group]) -> tuple[list[str], str]:
    """For each group its runs' accuracies and what they may vary by, all on one scale; and that scale in words."""
    ends = [_extent(group) for group in groups]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    cells = []
    for number, (group, (left, right)) in enumerate(zip(groups, ends, strict=True)):
        dots = [(run.accuracy, 3.0, 0.45) for run in group.runs] if len(group.runs) > 1 else []
        cells.append(_cell(left, right, [*dots, (group.accuracy, 4.0, 1.0)], low, high, number % len(SERIES)))
    return cells, f"{100 * low:.1f} to {100 * high:.1f} %"


def difference_cells(pairs: Sequence[Pair]) -> tuple[list[str], str]:
    """For each pair the difference with its interval and zero, all on one scale; and that scale in words."""
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
    """A bar from ``left`` to ``right`` and dots (place, radius, opacity), as SVG between ``low`` and ``high``."""

    def x(value: float) -> str:
        return f"{6 + (_WIDE - 12) * (value - low) / ((high - low) or 1.0):.1f}"

    middle = _HIGH / 2
    colour = "var(--ink)" if series is None else f"var(--series-{series})"
    parts = [f'<svg class="cell" viewBox="0 0 {_WIDE} {_HIGH}" style="color: {colour}" aria-hidden="true">']
    if zero:
        parts.append(f'<line x1="{x(0)}" x2="{x(0)}" y1="0" y2="{_HIGH}" stroke="var(--soft)" stroke-dasharray="2 2"/>')
    parts.append(f'<line x1="{x(left)}" x2="{x(right)}" y1="{middle}" y2="{middle}" stroke="currentColor"/>')
    for place, radius, opacity in dots:
        parts.append(f'<circle cx="{x(place)}" cy="{middle}" r="{radius}" fill="currentColor" opacity="{opacity}"/>')
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
    ended = []
    for number, group in enumerate(groups):
        single = len(group.runs) == 1
        lines += [(number, curve, single) for run in group.runs if (curve := _curve(run, names)) is not None]
        mean = mean_curve(group, names)
        if mean is not None:
            ended.append(f"{group.name} {mean[1][-1]:.4g}")
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
    return Drawing(title, f"At the end: {', '.join(ended)}" if ended else title, svg)


def _limits(axes: Axes, values: Sequence[NDArray[np.float64]], accuracy: bool) -> None:
    """From the upper part of the curves on where it is accuracy, from zero where it is a loss."""
    everything = np.concatenate(list(values))
    everything = everything[np.isfinite(everything)]
    if not len(everything):
        return
    if accuracy:
        low = float(np.quantile(everything, 0.05))
        axes.set_ylim(max(0.0, low - 0.08 * (1 - low)), min(1.0, float(everything.max()) + 0.08 * (1 - low)))
    else:
        highest = np.quantile(everything, 0.98) if len(everything) > 200 else everything.max()
        axes.set_ylim(min(0.0, float(everything.min())), float(highest) * 1.05 or 1.0)
