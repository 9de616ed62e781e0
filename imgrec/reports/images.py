"""Figures of image grids and confusion matrices, as files and as pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from imgrec.utils.paths import written_aside
from imgrec.utils.terminal import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_CHARACTERS = 30  # of a class name
_MAX_COUNTED = 20  # classes of a matrix whose cells contain counts
_MAX_NAMED = 50  # classes of a matrix whose axes have names
_DPI = 110


@dataclass(frozen=True)
class GridRow:
    """Row of an image grid.

    Attributes:
        label: Text to the left of the row.
        images: Images of shape ``(1 or 3, height, width)``, uint8 or float in [0, 1]. ``None`` is an empty cell.
        captions: Text below every image.
    """

    label: str
    images: Sequence[Tensor | None]
    captions: Sequence[str]


def image_grid(rows: Sequence[GridRow], title: str = "") -> Figure:
    """Plot images in rows, each with a caption below it."""
    columns = max(len(row.images) for row in rows)
    figure = _figure(1.5 * columns, 1.75 * len(rows) + (0.35 if title else 0))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row_axes, row in zip(axes, rows, strict=True):
        for axis in row_axes:
            _hide_frame(axis)
        for axis, image, caption in zip(row_axes, row.images, row.captions, strict=False):
            axis.set_xlabel("\n".join(_shortened(line) for line in caption.split("\n")), fontsize=7, labelpad=2)
            if image is not None:
                _show(axis, image)
        row_axes[0].set_ylabel(row.label, fontsize=7)
    if title:
        figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    return figure


def confusion_matrix_figure(matrix: NDArray[np.int64], class_names: Sequence[str], title: str = "") -> Figure:
    """Plot a confusion matrix. A row is a true class. The darkness of a cell is the root of its share of the row."""
    classes = len(matrix)
    side = float(np.clip(0.42 * classes + 1.6, 4.0, 11.0))
    figure = _figure(side, side)
    axis = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axis.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)  # the root, so that rare errors are visible
    if classes <= _MAX_NAMED:
        names = [_shortened(name) for name in class_names]
        axis.set_xticks(range(classes), names, rotation=90, fontsize=7)
        axis.set_yticks(range(classes), names, fontsize=7)
    if classes <= _MAX_COUNTED:
        for i, j in np.argwhere(matrix > 0):
            colour = "white" if share[i, j] > 0.4 else "black"
            axis.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=6.5, color=colour)
    axis.set_xlabel("predicted", fontsize=8)
    axis.set_ylabel("true", fontsize=8)
    if title:
        axis.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.6)
    return figure


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of the suffix, atomically.

    Raises:
        WriteError: If the file cannot be written.
    """
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=_DPI)


def figure_to_pixels(figure: Figure) -> NDArray[np.uint8]:
    """Render a figure to pixels of shape ``(height, width, 3)`` as uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)  # its methods have no annotations
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def target_caption(target: Tensor, names: Sequence[str], at_most: int = 2) -> str:
    """Return the class of a target, or the classes of a mixed target with their probabilities, highest first.

    Args:
        target: Class index, or probabilities of shape ``(num_classes,)``.
        names: Names of the classes.
        at_most: Maximum number of classes of a mixed target. Defaults to 2.
    """
    if not target.is_floating_point():
        return names[int(target)]
    probabilities, classes = target.topk(min(at_most, len(names)))
    shown = [(float(p), names[int(c)]) for p, c in zip(probabilities, classes, strict=True) if float(p) > 0.005]
    return ", ".join(name if p > 0.995 else f"{name} {p:.2f}" for p, name in shown)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as MatplotlibFigure  # independent of pyplot and its open figures

    return MatplotlibFigure(figsize=(width, height))


def _hide_frame(axis: Any) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)


def _shortened(text: str) -> str:
    """Return a shortened text with escaped dollar signs, which otherwise start a formula."""
    shown = text if len(text) <= _MAX_CHARACTERS else f"{text[: _MAX_CHARACTERS - 1]}…"
    return printable(shown, newlines=False).replace("$", r"\$")


def _show(axis: Any, image: Tensor) -> None:
    pixels = image.detach().permute(1, 2, 0).cpu()
    values = pixels.numpy() if not pixels.is_floating_point() else pixels.float().clamp(0, 1).numpy()
    grey = values.shape[2] == 1
    top = 255 if values.dtype == np.uint8 else 1
    axis.imshow(values[:, :, 0] if grey else values, cmap="gray" if grey else None, vmin=0, vmax=top)
