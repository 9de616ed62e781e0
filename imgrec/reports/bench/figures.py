"""Figures of a benchmark: accuracy over latency and size, with the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrec.export.runtimes import RUNTIMES
from imgrec.export.runtimes.registry import runtime_class, runtime_title
from imgrec.reports.bench.results import Bench, BenchRow
from imgrec.reports.figures import Drawing
from imgrec.reports.svg import INK, LINE, SERIES, SOFT, STYLE, SvgFigure
from imgrec.stats.pareto import pareto_frontier
from imgrec.utils.paths import written_aside

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PRINTED = ("#0b68b0", "#c8500a", "#0a8a66", "#b4508f", "#967000", "#2b9cc9", "#6a4fb0", "#5f6872")
_ON_PAPER = {INK: "#1c2530", SOFT: "#55606c", LINE: "#dfe4ea", **dict(zip(SERIES, _PRINTED, strict=True))}
_LOGARITHMIC = 4.0  # ratio of the costs above which the axis is logarithmic
_CHARACTER, _LINE = 4.5, 10.0  # size of a character of a label, in points
_SIZE = (5.4, 3.7)  # inches


@dataclass(frozen=True)
class Point:
    """Row of a benchmark in a figure.

    Attributes:
        row: Row of the benchmark.
        cost: Median latency in milliseconds, or size in MiB.
        worst: 95th percentile of the latency, or the size.
        accuracy: Accuracy in percent.
        low: Lower end of its interval.
        high: Upper end of its interval.
    """

    row: BenchRow
    cost: float
    worst: float
    accuracy: float
    low: float
    high: float

    @property
    def label(self) -> str:
        """Label of the point: runtime and precision."""
        return f"{runtime_title(self.row.runtime, short=True)} {self.row.precision}"


def pareto_drawings(bench: Bench) -> list[Drawing]:
    """Plot accuracy over latency with the smallest batch, and over size. Figures without points are omitted."""
    found = []
    for title, axis, points in _figures(bench):
        with SvgFigure(*_SIZE) as drawn:
            axes = drawn.figure.add_axes((0.11, 0.14, 0.87, 0.83))
            _draw(axes, points, _names(bench), axis)
        best = ", ".join(f"{p.row.title} ({p.accuracy:.2f} %)" for p in _frontier(points))
        found.append(Drawing(title, f"Pareto front: {best}", drawn.svg))
    return found


def write_figure(bench: Bench, path: str | Path) -> None:
    """Write a figure of accuracy over latency for print, in the format of the suffix.

    Without a row that has both a latency and an accuracy, the figure is empty with a remark.

    Args:
        bench: Result of the benchmark.
        path: Path with the suffix ``.png``, ``.svg`` or ``.pdf``.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    settings = {name: _ON_PAPER.get(value, value) if isinstance(value, str) else value for name, value in STYLE.items()}
    path = Path(path)
    figures = _figures(bench)
    with style.context(settings, after_reset=True):
        figure = Figure(figsize=(6.4, 4.2), facecolor="white", layout="constrained")
        axes = figure.subplots()
        if figures:
            _, axis, points = figures[0]
            _draw(axes, points, _names(bench), axis, _ON_PAPER)
            _legend(axes, points, _names(bench))
        else:
            axes.text(0.5, 0.5, "no row has a latency and an accuracy", ha="center", transform=axes.transAxes)
        with written_aside(path) as aside:
            figure.savefig(aside, dpi=200, format=path.suffix[1:])


def model_colours(bench: Bench) -> list[tuple[str, int]]:
    """Return the name of every model and the index of its colour in the series of the page."""
    return [(name, number % len(SERIES)) for name, number in _names(bench).items()]


def _names(bench: Bench) -> dict[str, int]:
    return {name: number for number, name in enumerate(dict.fromkeys(row.name for row in bench.rows))}


def _figures(bench: Bench) -> list[tuple[str, str, list[Point]]]:
    found = []
    for batch in bench.batches[:1]:
        points = []
        for row in bench.rows:
            time = row.latency(batch)
            if time is not None:
                points += _point(row, 1e3 * time.median, 1e3 * time.p95)
        images = "one image" if batch == 1 else f"{batch} images"
        found.append(("Accuracy over latency", f"ms for {images}: median, and the 95th percentile", points))
    sizes = [point for row in bench.rows if row.bytes for point in _point(row, row.bytes / 2**20, row.bytes / 2**20)]
    found.append(("Accuracy over size", "MiB on disk", sizes))
    return [each for each in found if each[2]]


def _point(row: BenchRow, cost: float, worst: float) -> list[Point]:
    if row.accuracy is None or row.low is None or row.high is None:
        return []
    return [Point(row, cost, worst, 100 * row.accuracy, 100 * row.low, 100 * row.high)]


def _frontier(points: Sequence[Point]) -> list[Point]:
    return [points[i] for i in pareto_frontier([p.cost for p in points], [p.accuracy for p in points])]


def _draw(
    axes: Axes, points: Sequence[Point], names: dict[str, int], axis: str, palette: dict[str, str] | None = None
) -> None:
    colours = palette or {}
    _limits(axes, points)
    frontier = _frontier(points)
    xs, ys = [p.cost for p in frontier], [p.accuracy for p in frontier]
    right = axes.get_xlim()[1]
    soft = colours.get(SOFT, SOFT)
    axes.step([*xs, right], [*ys, ys[-1]], where="post", color=soft, linewidth=1.0, linestyle=(0, (4, 3)), zorder=1.5)
    for point in points:
        series = SERIES[names[point.row.name] % len(SERIES)]
        colour = colours.get(series, series)
        x, y = point.cost, point.accuracy
        axes.plot([x, x], [point.low, point.high], color=colour, linewidth=1.1, alpha=0.55, zorder=2)
        axes.plot([x, point.worst], [y, y], color=colour, linewidth=1.1, alpha=0.55, zorder=2)
        marker = runtime_class(point.row.runtime).marker if point.row.runtime in RUNTIMES else "o"
        face = colour if point.row.precision == "fp32" else colours.get("paper", "none")
        axes.plot(
            [x], [y], marker=marker, color=colour, markerfacecolor=face, markersize=6, markeredgewidth=1.5, zorder=3
        )
    axes.set_xlabel(axis)
    axes.set_ylabel("accuracy, %")
    ink = colours.get(INK, INK)
    for point, (across, up, anchor) in zip(points, _label_offsets(axes, points), strict=True):
        text = axes.annotate(point.label, (point.cost, point.accuracy), (across, up), textcoords="offset points")
        text.set(ha=anchor, va="center", fontsize=7.5, color=ink)


def _limits(axes: Axes, points: Sequence[Point]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    costs = np.array([p.cost for p in points])
    low, high = float(costs.min()), float(costs.max())
    if high / max(low, 1e-12) > _LOGARITHMIC:
        axes.set_xscale("log")
        room = (high / low) ** 0.14
        axes.set_xlim(low / room, high * room)
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        room = 0.14 * ((high - low) or high)
        axes.set_xlim(max(0.0, low - room), high + room)
    bottom, top = min(p.low for p in points), max(p.high for p in points)
    room = 0.08 * ((top - bottom) or 1.0)
    axes.set_ylim(max(0.0, bottom - room), min(100.5, top + room))


def _label_offsets(axes: Axes, points: Sequence[Point]) -> list[tuple[float, float, Any]]:
    """Return the offset of every label from its point, with the least overlap, selected greedily."""
    scale = 72 / axes.figure.dpi
    positions = [scale * axes.transData.transform((p.cost, p.accuracy)) for p in points]
    corners = scale * axes.transAxes.transform([(0, 0), (1, 1)])
    occupied = [(x - 4.0, y - 4.0, x + 4.0, y + 4.0) for x, y in positions]
    lines = [box for one, other in _lines(axes, points) for box in [_box(scale, axes, one, other)]]
    found: list[tuple[float, float, Any]] = []
    for point, (x, y) in zip(points, positions, strict=True):
        width = _CHARACTER * len(point.label)
        best: tuple[float, Any, Any] | None = None
        for step in range(1, 9):
            for across, up in ((7, 0), (-7, 0), (6, 7 * step), (6, -7 * step), (-6, 7 * step), (-6, -7 * step)):
                left = x + across if across > 0 else x + across - width
                box = (left, y + up - _LINE / 2, left + width, y + up + _LINE / 2)
                hidden = sum(_overlap(box, other) for other in occupied) + sum(_overlap(box, line) for line in lines)
                outside = max(0.0, corners[0][0] - box[0]) + max(0.0, box[2] - corners[1][0])
                outside += max(0.0, corners[0][1] - box[1]) + max(0.0, box[3] - corners[1][1])
                cost = hidden + 20 * outside + 0.6 * abs(up) + (0.5 if across < 0 else 0.0)
                if best is None or cost < best[0]:
                    best = (cost, (float(across), float(up), "left" if across > 0 else "right"), box)
        assert best is not None
        found.append(best[1])
        occupied.append(best[2])
    return found


def _lines(axes: Axes, points: Sequence[Point]) -> list[tuple[tuple[float, float], tuple[float, float]]]:
    """Return the ends of all bars and of the segments of the front."""
    found = [((p.cost, p.low), (p.cost, p.high)) for p in points]
    found += [((p.cost, p.accuracy), (p.worst, p.accuracy)) for p in points]
    frontier = _frontier(points)
    ends = [*(p.cost for p in frontier[1:]), axes.get_xlim()[1]]
    return found + [((p.cost, p.accuracy), (end, p.accuracy)) for p, end in zip(frontier, ends, strict=True)]


def _box(
    scale: float, axes: Axes, one: tuple[float, float], other: tuple[float, float]
) -> tuple[float, float, float, float]:
    (left, low), (right, high) = scale * axes.transData.transform([one, other])
    return (left - 0.8, low - 0.8, right + 0.8, high + 0.8)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    up = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, across) * max(0.0, up)


def _legend(axes: Axes, points: Sequence[Point], names: dict[str, int]) -> None:
    from matplotlib.lines import Line2D

    drawn = dict.fromkeys(p.row.name for p in points)
    if len(drawn) < 2:
        return
    handles = [
        Line2D([], [], color=_ON_PAPER[SERIES[names[name] % len(SERIES)]], linewidth=3, label=name) for name in drawn
    ]
    axes.legend(handles=handles, fontsize=7.5, frameon=False, loc="best")
