from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from imgrec import ImageDataModule, RunFolder
from imgrec.compare.align import align_predictions
from imgrec.compare.groups import group_runs
from imgrec.runs.evaluation import predict_split, record_predictions
from imgrec.runs.summary import read_json, write_json
from tests.conftest import StoredRun


def test_predict_split_predicts_every_image_once_sorted_by_id(tmp_path: Path, stored_run: StoredRun) -> None:
    data = ImageDataModule("digits", image_size=8, channels=1, eval_batch_size=50, num_workers=0)
    data.setup("test")
    seen: list[NDArray[np.float32]] = []

    def network(images: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.append(images)
        return np.stack([images.mean(axis=(1, 2, 3))] * 10, axis=1).astype(np.float32)

    found = predict_split(data, "test", network)
    assert found is not None
    assert all(len(images) <= 50 and images.dtype == np.float32 and images.shape[1:] == (1, 8, 8) for images in seen)
    assert 0.5 < max(images.max() for images in seen) <= 1.0
    rows = {data.source.ids[row]: row for row in data.splits.test.tolist()}
    assert found.ids == sorted(rows)
    for name, target, logits in zip(found.ids[:20], found.targets, found.logits, strict=False):
        (image,) = data.load_images([name])
        assert image is not None
        assert logits[0] == pytest.approx(float(image.float().mean()) / 255, abs=1e-3)
        assert target == data.source.targets[rows[name]]

    run = RunFolder(stored_run(tmp_path, "a", 0, [True] * 6, summary={"test": {"acc": 1.0, "loss": 0.3}}))
    figures = record_predictions(run, "test", found)
    assert run.predictions("test").ids == found.ids
    assert run.summary["test"] == {**figures, "loss": None}
    assert figures["acc"] == pytest.approx(found.accuracy)


def compressed(run: Path, parent: Path, variant: str, start: str) -> RunFolder:
    path = f"../../../{parent.name}"
    environment = read_json(run / "environment.json")
    write_json(run / "environment.json", environment | {"parent": {"path": path}, "variant": variant})
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("init_args: {}", f"init_args: {{init_from: {start}}}"))
    return RunFolder(run)


def test_variant_has_a_parent_and_another_recipe(tmp_path: Path, stored_run: Callable[..., Path]) -> None:
    right = [True, False, True, True]
    parents = [stored_run(tmp_path, "a", seed, right) for seed in range(2)]
    runs = [
        compressed(stored_run(tmp_path, f"a/compressed/{name}", seed, right), parents[seed], name, f"runs/{seed}")
        for seed in range(2)
        for name in ("half", "int8")
    ]
    assert [run.parent for run in runs[:2]] == [parents[0].resolve()] * 2
    assert RunFolder(parents[0]).parent is None
    assert runs[0].config["model"]["init_args"] == {"init_from": "runs/0"}
    assert runs[0].recipe["model"]["init_args"] == {}
    assert RunFolder(parents[0]).recipe == RunFolder(parents[0]).config
    _, found = align_predictions([RunFolder(path) for path in parents] + runs, "test")
    assert [len(group.runs) for group in group_runs(found)] == [2, 2, 2]
