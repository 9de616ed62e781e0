from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from PIL import Image

from imgrec.reports.images import (
    GridRow,
    confusion_matrix_figure,
    figure_to_pixels,
    image_grid,
    save_figure,
    target_caption,
)


def test_caption_of_a_mixed_target_has_the_probabilities() -> None:
    names = ("cat", "dog", "frog")
    mixed = torch.tensor([[0.3, 0.7, 0.0], [0.0, 0.0, 1.0], [0.998, 0.002, 0.0]])
    assert [target_caption(target, names) for target in mixed] == ["dog 0.70, cat 0.30", "frog", "cat"]
    assert target_caption(torch.tensor(1), names) == "dog"


def test_grid_shows_every_image_in_its_cell() -> None:
    red, blue = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4)
    red[0], blue[2] = 255, 1.0
    figure = image_grid([GridRow("first", [red, None], ["a", "b"]), GridRow("second", [blue], ["c"])])
    pixels = figure_to_pixels(figure).astype(int)
    height, width = pixels.shape[:2]
    found = {}
    for name, colour in {"red": (255, 0, 0), "blue": (0, 0, 255)}.items():
        ys, xs = np.nonzero((pixels == colour).all(axis=2))
        found[name] = (ys.mean() / height, xs.mean() / width)
        assert len(ys) > 0.1 * height * width / 4
    assert found["red"][0] < 0.5 < found["blue"][0]
    assert found["red"][1] < 0.5
    assert found["blue"][1] < 0.5
    assert [axis.get_xlabel() for axis in figure.axes] == ["a", "b", "c", ""]
    assert figure.axes[2].get_ylabel() == "second"


@pytest.mark.parametrize(("classes", "texts", "ticks"), [(3, 4, 3), (30, 0, 30), (60, 0, None)])
def test_confusion_matrix_has_counts_and_names_up_to_a_number_of_classes(
    classes: int, texts: int, ticks: int | None
) -> None:
    matrix = np.zeros((classes, classes), np.int64)
    matrix[0, 0], matrix[1, 1], matrix[2, 2], matrix[0, 1] = 5, 7, 1, 2
    figure = confusion_matrix_figure(matrix, [f"class {i}" for i in range(classes)], "epoch 3")
    axis = figure.axes[0]
    assert len(axis.texts) == texts
    if texts:
        assert {(int(t.get_position()[1]), int(t.get_position()[0])): t.get_text() for t in axis.texts} == {
            (0, 0): "5",
            (0, 1): "2",
            (1, 1): "7",
            (2, 2): "1",
        }
    named = [tick.get_text() for tick in axis.get_xticklabels()]
    if ticks is not None:
        assert named == [f"class {i}" for i in range(classes)]
    else:
        assert "class 0" not in named
    assert axis.get_title() == "epoch 3"


def test_saved_figure_equals_its_pixels_and_pyplot_is_unchanged(tmp_path: Path) -> None:
    before = plt.get_fignums()
    figure = image_grid([GridRow("", [torch.full((1, 4, 4), 128, dtype=torch.uint8)], ["grey"])], "title")
    save_figure(figure, tmp_path / "figures/a.png")
    with Image.open(tmp_path / "figures/a.png") as picture:
        assert np.array_equal(np.asarray(picture.convert("RGB")), figure_to_pixels(figure))
    assert [p.name for p in (tmp_path / "figures").iterdir()] == ["a.png"]
    assert plt.get_fignums() == before


def test_class_names_are_plain_text() -> None:
    names = ["$\\frac{$", "\x1b[31m$x$"]
    plain = image_grid([GridRow("", [None, None], names)])
    assert figure_to_pixels(plain).shape[2] == 3  # a formula would be a parse error
    assert plain.axes[1].get_xlabel() == "\\x1b[31m\\$x\\$"
    assert figure_to_pixels(confusion_matrix_figure(np.eye(2, dtype=np.int64), names)).shape[2] == 3
