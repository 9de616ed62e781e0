"""Pictures of images and of a confusion matrix, as files and as pixels."""

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

_LONGEST = 30
_COUNTED = 20  # classes up to which the cells of a matrix hold their counts
_NAMED = 50  # classes up to which they are named
_DPI = 110


@dataclass(frozen=True)
class GridRow:
    """A row of a grid: what stands at its left, its images, and what stands under each.

    ``images``: uint8 or float in [0, 1], ``(1 or 3, height, width)``; ``None`` leaves the place empty.
    """

    label: str
    images: Sequence[Tensor | None]
    captions: Sequence[str]


def image_grid(rows: Sequence[GridRow], title: str = "") -> Figure:
    """A figure of images in rows, each with a line of text underneath."""
    columns = max(len(row.images) for row in rows)
    figure = _figure(1.5 * columns, 1.75 * len(rows) + (0.35 if title else 0))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for across, row in zip(axes, rows, strict=True):
        for axis in across:
            _bare(axis)
        for axis, image, said in zip(across, row.images, row.captions, strict=False):
            axis.set_xlabel("\n".join(_short(line) for line in said.split("\n")), fontsize=7, labelpad=2)
            if image is not None:
                _show(axis, image)
        across[0].set_ylabel(row.label, fontsize=7)
    if title:
        figure.suptitle(title, fontsize=9)
    figure.tight_layout(pad=0.3)
    return figure


def matrix_picture(matrix: NDArray[np.int64], class_names: Sequence[str], title: str = "") -> Figure:
    """A confusion matrix as a figure: each cell as dark as its share of its row, a row a true class."""
    classes = len(matrix)
    side = float(np.clip(0.42 * classes + 1.6, 4.0, 11.0))
    figure = _figure(side, side)
    axis = figure.subplots()
    share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axis.imshow(np.sqrt(share), cmap="Blues", vmin=0, vmax=1)  # the root, so that rare errors are seen
    if classes <= _NAMED:
        names = [_short(name) for name in class_names]
        axis.set_xticks(range(classes), names, rotation=90, fontsize=7)
        axis.set_yticks(range(classes), names, fontsize=7)
    if classes <= _COUNTED:
        for i, j in np.argwhere(matrix > 0):
            colour = "white" if share[i, j] > 0.4 else "black"
            axis.text(j, i, str(matrix[i, j]), ha="center", va="center", fontsize=6.5, color=colour)
    axis.set_xlabel("predicted", fontsize=8)
    axis.set_ylabel("true", fontsize=8)
    if title:
        axis.set_title(title, fontsize=9)
    figure.tight_layout(pad=0.6)
    return figure


def save_picture(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of the suffix, complete or not at all.

    Raises:
        WriteError: If the file cannot be written.
    """
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=_DPI)


def picture_pixels(figure: Figure) -> NDArray[np.uint8]:
    """A figure's pixels: uint8 ``(height, width, 3)``."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(_DPI)
    canvas: Any = FigureCanvasAgg(figure)  # its methods are not annotated
    canvas.draw()
    return np.asarray(canvas.buffer_rgba(), dtype=np.uint8)[..., :3].copy()


def target_caption(target: Tensor, names: Sequence[str], at_most: int = 2) -> str:
    """A sample's class; of a mixed one the classes with their parts, the largest first.

    Args:
        target: an index, or probabilities ``(num_classes,)``.
        names: of the classes.
        at_most: how many classes of a mixed one are named.
    """
    if not target.is_floating_point():
        return names[int(target)]
    parts, classes = target.topk(min(at_most, len(names)))
    shown = [(float(p), names[int(c)]) for p, c in zip(parts, classes, strict=True) if float(p) > 0.005]
    return ", ".join(name if p > 0.995 else f"{name} {p:.2f}" for p, name in shown)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure as MatplotlibFigure  # the user's own figures stay what they are

    return MatplotlibFigure(figsize=(width, height))


def _bare(axis: Any) -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)


def _short(text: str) -> str:
    """Return the beginning of a long text, as plain text: a dollar sign in a class name begins no formula."""
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return printable(shown, newlines=False).replace("$", r"\$")


def _show(axis: Any, image: Tensor) -> None:
    pixels = image.detach().permute(1, 2, 0).cpu()
    values = pixels.numpy() if not pixels.is_floating_point() else pixels.float().clamp(0, 1).numpy()
    grey = values.shape[2] == 1
    top = 255 if values.dtype == np.uint8 else 1
    axis.imshow(values[:, :, 0] if grey else values, cmap="gray" if grey else None, vmin=0, vmax=top)
