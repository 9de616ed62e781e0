"""Figures of the report as inline SVG with the colours of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgrec.metrics.calibration import ReliabilityBins
from imgrec.metrics.roc import RocCurves
from imgrec.reports.html import png_uri
from imgrec.reports.svg import BLUE, ORANGE, SOFT, SvgFigure
from imgrec.runs.metrics_csv import MetricSeries

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_POINTS = 500  # of a curve that is logged at every step


@dataclass(frozen=True)
class LegendEntry:
    """Entry of a legend.

    Attributes:
        label: Text of the entry.
        style: CSS classes of its line, such as ``blue`` or ``orange dashed``.
    """

    label: str
    style: str


@dataclass(frozen=True)
class Drawing:
    """Figure of a page.

    Attributes:
        title: Title of the figure.
        description: Text alternative of the figure.
        svg: SVG source.
        keys: Entries of the legend, which the page shows as text.
    """

    title: str
    description: str
    svg: str
    keys: tuple[LegendEntry, ...] = ()


def training_curves(metrics: Mapping[str, MetricSeries], best_epoch: int | None = None) -> list[Drawing]:
    """Plot loss, accuracy and learning rate over training. Panels without data are omitted.

    The x-axis is the epoch, counted from 1, if every curve has one value per epoch. Otherwise it is the optimizer step.

    Args:
        metrics: Content of metrics.csv.
        best_epoch: Epoch to mark, counted from 0.
    """
    loss = {"training": "train/loss", "validation": "val/loss"}
    if "train/loss" not in metrics:
        loss["training"] = "train/loss_step"
    accuracy = {"training": "train/acc", "validation": "val/acc"}
    panels = [
        _panel("Loss", metrics, loss, best_epoch),
        _panel("Accuracy", metrics, accuracy, best_epoch),
        _learning_rate({k: v for k, v in metrics.items() if k.startswith("lr-")}),
    ]
    return [panel for panel in panels if panel is not None]


def roc_drawing(curves: RocCurves, class_names: tuple[str, ...], at_most: int = 20) -> Drawing | None:
    """Plot the macro ROC curve and those of the classes, or of the five worst if there are more than ``at_most``."""
    macro = curves.macro
    if macro is None:
        return None
    worst = sorted(curves.by_class, key=lambda i: curves.by_class[i].auc)
    shown = worst if len(worst) <= at_most else worst[:5]
    with SvgFigure(5.4, 3.9) as drawn:
        axes = drawn.figure.add_axes((0.1, 0.13, 0.88, 0.84))
        all_axes = [axes]
        if macro.auc > 0.97:  # the curves are close to the corner: enlarge it in an inset
            inset = axes.inset_axes((0.42, 0.13, 0.54, 0.54), xlim=(0, 0.1), ylim=(0.9, 1.002))
            inset.set_xticks([0, 0.05, 0.1], ["0", "0.05", "0.1"], fontsize=7.5)
            inset.set_yticks([0.9, 0.95, 1], ["0.9", "", "1"], fontsize=7.5)
            all_axes.append(inset)
        for each in all_axes:
            for index in reversed(shown):
                curve, is_worst = curves.by_class[index], index == worst[0]
                each.plot(curve.fpr, curve.tpr, color=ORANGE if is_worst else SOFT, linewidth=1.2 if is_worst else 0.6)
            each.plot(macro.fpr, macro.tpr, color=BLUE, linewidth=2.2)
        axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (4, 4)))
        axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), xlabel="false positive rate", ylabel="true positive rate")
    keys = [LegendEntry(f"macro average, AUC {macro.auc:.4f}", "blue bold")]
    lowest = worst[0]
    keys.append(LegendEntry(f"lowest: {class_names[lowest]}, AUC {curves.by_class[lowest].auc:.4f}", "orange"))
    if len(shown) > 1:
        keys.append(LegendEntry("all other classes" if shown is worst else "the four next lowest", "soft"))
    return Drawing("ROC, one-vs-rest", f"Macro AUC {macro.auc:.4f}", drawn.svg, tuple(keys))


def reliability_drawing(bins: ReliabilityBins) -> Drawing:
    """Plot accuracy over confidence, and the share of predictions in each bin below it."""
    ece = bins.expected_calibration_error
    width = np.diff(bins.edges)
    filled = bins.count > 0
    left, accuracy, confidence = bins.edges[:-1][filled], bins.accuracy[filled], bins.confidence[filled]
    with SvgFigure(5.4, 3.9) as drawn:
        above = drawn.figure.add_axes((0.1, 0.35, 0.88, 0.62))
        below = drawn.figure.add_axes((0.1, 0.13, 0.88, 0.17), sharex=above)
        above.bar(left, accuracy, width[filled], align="edge", color=BLUE, alpha=0.35, edgecolor=BLUE, linewidth=0.8)
        above.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (4, 4)))
        above.plot(confidence, accuracy, "o", color=ORANGE, markersize=4)
        above.set(xlim=(0, 1), ylim=(0, 1.01), ylabel="accuracy")
        above.tick_params(labelbottom=False)
        share = bins.count / max(int(bins.count.sum()), 1)
        below.bar(bins.edges[:-1], share, width, align="edge", color=SOFT, alpha=0.6)
        below.set(xlabel="confidence", ylabel="share", ylim=(0, max(float(share.max()), 0.01) * 1.05))
        below.yaxis.set_major_locator(_locator(2))
    keys = (
        LegendEntry("accuracy of a bin, at its mean confidence", "orange dot"),
        LegendEntry("perfectly calibrated", "soft dashed"),
    )
    return Drawing("Reliability", f"Expected calibration error {ece:.4f}", drawn.svg, keys)


def matrix_image(matrix: NDArray[np.int64]) -> str:
    """Return :func:`matrix_pixels` as a PNG data URI."""
    return png_uri(matrix_pixels(matrix))


def matrix_pixels(matrix: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the pixels of a confusion matrix with many classes.

    Correct predictions are blue and errors are orange. The opacity is the share of the row, for errors its square root,
    so that rare errors are visible.

    Args:
        matrix: Counts of shape ``(num_classes, num_classes)``. A row is a true class.

    Returns:
        Red, green, blue and opacity as uint8, of shape ``(num_classes, num_classes, 4)``.
    """
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((*matrix.shape, 4), np.uint8)
    pixels[..., :3] = (205, 102, 40)
    pixels[..., 3] = (np.sqrt(share) * 255).astype(np.uint8)
    diagonal = np.arange(len(matrix))
    pixels[diagonal, diagonal, :3] = (47, 111, 179)
    pixels[diagonal, diagonal, 3] = (share.diagonal() * 255).astype(np.uint8)
    return pixels


def _panel(
    title: str, metrics: Mapping[str, MetricSeries], names: Mapping[str, str], best_epoch: int | None
) -> Drawing | None:
    series = {label: metrics[name] for label, name in names.items() if name in metrics}
    if not series:
        return None
    is_by_epoch = all(len(np.unique(s.epochs)) == len(s) for s in series.values())
    styles = {"training": (SOFT, "soft"), "validation": (BLUE, "blue")}
    keys = [LegendEntry(label, styles[label][1]) for label in series]
    with SvgFigure(3.9, 2.6) as drawn:
        axes = drawn.figure.add_axes((0.15, 0.18, 0.82, 0.78))
        for label, line in series.items():
            points = _thinned(len(line))
            x = (line.epochs + 1 if is_by_epoch else line.steps)[points]
            marker = "o" if len(points) <= 30 else ""
            axes.plot(x, line.values[points], color=styles[label][0], marker=marker, markersize=2.8)
        shown = series.get("validation")
        if shown is not None and best_epoch in shown.epochs.tolist():
            index = int(np.flatnonzero(shown.epochs == best_epoch)[-1])
            x_best = int((shown.epochs + 1 if is_by_epoch else shown.steps)[index])
            axes.axvline(x_best, color=ORANGE, linewidth=1.0, linestyle=(0, (4, 3)))
            axes.plot([x_best], [shown.values[index]], "o", color=ORANGE, markersize=5)
            keys.append(LegendEntry(f"best: epoch {int(shown.epochs[index]) + 1}", "orange dashed"))
        _limits(axes, series.values(), accuracy=title == "Accuracy")
        axes.set_xlabel("epoch" if is_by_epoch else "optimizer step")
        axes.xaxis.set_major_locator(_locator(8, integer=True))
    last = ", ".join(f"{label} {line.values[-1]:.4g}" for label, line in series.items())
    return Drawing(title, f"Final values: {last}", drawn.svg, tuple(keys))


def _learning_rate(series: Mapping[str, MetricSeries]) -> Drawing | None:
    if not series:
        return None
    distinct = {tuple(line.values): line for line in series.values()}
    with SvgFigure(3.9, 2.6) as drawn:
        axes = drawn.figure.add_axes((0.15, 0.18, 0.82, 0.78))
        for line in distinct.values():
            points = _thinned(len(line))
            style: dict[str, Any] = {"marker": "o", "markersize": 2.8} if len(points) <= 30 else {}
            axes.plot(
                line.steps[points],
                line.values[points],
                color=BLUE,
                linewidth=1.6 if len(distinct) == 1 else 0.9,
                **style,
            )
        axes.set_ylim(bottom=0)
        axes.set_xlabel("optimizer step")
        axes.xaxis.set_major_locator(_locator(6, integer=True))
        axes.yaxis.set_major_formatter("{x:g}")
    names = sorted(series)
    label = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more parameter groups"
    highest = max(float(line.values.max()) for line in series.values())
    return Drawing("Learning rate", f"Highest: {highest:.3g}", drawn.svg, (LegendEntry(label, "blue"),))


def _limits(axes: Axes, series: Iterable[MetricSeries], accuracy: bool) -> None:
    values = np.concatenate([line.values for line in series])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    if accuracy:
        low = float(values.min())
        axes.set_ylim(max(0.0, low - 0.05 * (1 - low) - 0.005), 1.0 if low < 1 else 1.01)
    else:
        axes.set_ylim(min(0.0, float(values.min())), float(np.quantile(values, 0.995)) * 1.05 or 1.0)


def _thinned(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, _MAX_POINTS)).round().astype(np.int64))


def _locator(bins: int, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(bins, integer=integer, min_n_ticks=1)
