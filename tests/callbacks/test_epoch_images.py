"""Figures during training: kinds, epochs and content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgrec import EpochPictures, RunRecorder, UserError
from imgrec.reports.images import confusion_matrix_figure, image_grid
from tests.callbacks.small_training import digits, task, trainer


def test_figures_are_written_at_their_interval(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[str, Any]] = []

    def keep_matrix(matrix: Any, *arguments: Any) -> Any:
        drawn.append(("confusion", matrix))
        return confusion_matrix_figure(matrix, *arguments)

    def keep_grid(rows: Any, title: str) -> Any:
        drawn.append((title, rows))
        return image_grid(rows, title)

    monkeypatch.setattr("imgrec.callbacks.monitoring.images.confusion_matrix_figure", keep_matrix)
    monkeypatch.setattr("imgrec.callbacks.monitoring.images.image_grid", keep_grid)
    recorder, module, data = RunRecorder("run", tmp_path / "runs"), task(), digits()
    run = trainer(tmp_path, [recorder, EpochPictures(2, columns=3, rows=2)], max_epochs=3, num_sanity_val_steps=2)
    run.fit(module, datamodule=data)
    assert recorder.folder is not None
    names = {p.name for p in (recorder.folder / "figures").iterdir()}
    assert names == {f"{kind}-epoch00{n}.png" for kind in ("confusion", "mistakes", "samples") for n in (2, 3)}
    with Image.open(recorder.folder / "figures/confusion-epoch003.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 10
    # what the last pictures show, against the predictions of the last epoch
    found = module.predictions
    assert found is not None
    predicted = found.logits.argmax(1)
    matrix = [content for name, content in drawn if name == "confusion"][-1]
    assert matrix.sum() == len(found.ids) == 179
    assert np.trace(matrix) == int((predicted == found.targets).sum())
    title, rows = [(name, content) for name, content in drawn if "mistakes" in name][-1]
    assert title == f"epoch 3: the worst of {179 - np.trace(matrix)} mistakes in validation"
    captions = [caption for row in rows for caption in row.captions]
    losses = -found.logits.double().log_softmax(1).gather(1, found.targets[:, None])[:, 0]
    worst = losses.masked_fill(predicted == found.targets, -1).argsort(descending=True)[:6].tolist()
    names_of = data.facts.class_names
    expected = [f"{names_of[int(found.targets[i])]}\nsaid {names_of[int(predicted[i])]} " for i in worst]
    assert [caption[: len(start)] for caption, start in zip(captions, expected, strict=True)] == expected
    # what training saw first in the last epoch
    rows = [content for name, content in drawn if name == "epoch 3: as training sees them"][-1]
    batch = data.augment(data.train_dataloader().batch_at(2, 0))
    shown = [image for row in rows for image in row.images]
    assert len(shown) == 6
    assert all(np.array_equal(image.numpy(), seen.numpy()) for image, seen in zip(shown, batch.images, strict=False))


def test_no_figure_without_a_run_folder(tmp_path: Path) -> None:
    trainer(tmp_path, [EpochPictures(1)], fast_dev_run=True).fit(task(), datamodule=digits())
    assert not list(tmp_path.rglob("*.png"))


def test_an_unknown_figure_raises_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match='Did you mean "confusion"'):
        EpochPictures(show=["confusions"])  # type: ignore[list-item]
