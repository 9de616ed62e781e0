"""A run and its data folder that has changed since: no command writes or prints figures of other images."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgrec import ImageDataModule, RunFolder, RunRecorder
from imgrec.data.splits.table import SplitTable
from imgrec.errors import UserError
from imgrec.runs.data import load_run_data
from imgrec.runs.evaluation import record_predictions
from imgrec.runs.predictions import Predictions

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

CONFIG = """
experiment: shades
model:
  backbone: {name: resnet18, layers: [1, 1, 1, 1], channels: [8, 8, 8, 8], stem_width: 8}
  optimizer: {name: adamw, lr: 0.01}
  normalize: half
data:
  source: {name: folder, root: images}
  image_size: 8
  channels: 1
  batch_size: 8
  num_workers: 0
  cache: "off"
trainer: {max_epochs: 2, enable_progress_bar: false}
"""


def draw(path: Path, shade: int, seed: int, side: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(shade, shade + 60, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def add(root: Path, prefix: str, count: int) -> None:
    for number, name in enumerate(("dark", "light")):
        for i in range(count):
            draw(root / name / f"{prefix}{i:02d}.png", 60 + 90 * number, i)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, a config, and the run that was trained on them."""
    from tests.conftest import _contained, _status

    folder = tmp_path_factory.mktemp("shades")
    add(folder / "images", "a", 30)
    (folder / "shades.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _contained(patch)
        assert _status(["fit", "--config", "shades.yaml"]) == 0
    (run,) = (folder / "runs" / "shades").iterdir()
    run.rename(run.parent / "run")
    return folder


@pytest.fixture
def run(place: Path, tmp_path: Path) -> Path:
    """Copy the project to the folder that ``cli`` runs in, and return the run folder."""
    shutil.copytree(place, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "shades" / "run"


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def test_the_split_is_stored_once_with_the_ids_of_the_predictions(run: Path) -> None:
    stored = RunFolder(run).splits()
    assert stored is not None
    for split in ("val", "test"):
        ids = [name for name, word in stored.split_of.items() if word == split]
        assert sorted(ids) == RunFolder(run).predictions(split).ids
    assert RunFolder(run).summary["split_sizes"]["train"] == list(stored.splits).count("train")


@pytest.mark.parametrize("command", ["test", "validate"])
def test_new_images_are_not_evaluated(command: str, run: Path, cli: Cli, tmp_path: Path) -> None:
    before = contents(run)
    add(tmp_path / "images", "b", 40)
    draw(tmp_path / "images" / "grey" / "a.png", 120, 1)
    done = cli(command, run)
    assert done.returncode == 0, done.stderr
    assert "ignoring 81 images that the run does not have" in done.stderr
    assert contents(run) == before


def _remove(root: Path, run: Path) -> None:
    for name in RunFolder(run).predictions("test").ids[:2]:
        (root / name).unlink()


def _change(root: Path, run: Path) -> None:
    draw(root / RunFolder(run).predictions("val").ids[0], 90, 7, side=9)


def _old(root: Path, run: Path) -> None:
    (run / "splits.parquet").unlink()
    add(root, "b", 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove, "2 of 6 test images are missing"),
        (_change, "1 of 6 val images have other content now"),
        (_old, "The run folder has no splits.parquet"),
    ],
)
def test_other_images_are_refused_by_every_reader(
    change: Callable[[Path, Path], None], message: str, run: Path, cli: Cli, tmp_path: Path
) -> None:
    change(tmp_path / "images", run)
    before = contents(run)
    for arguments in (["test"], ["validate"], ["compress", "--prune", "0.5"], ["audit"]):
        done = cli(arguments[0], run, *arguments[1:])
        assert done.returncode == 2, (arguments, done.stdout, done.stderr)
        assert "has changed since it was trained" in done.stderr
        assert message in done.stderr
        assert contents(run) == before
    with pytest.raises(UserError, match="has changed since it was trained"):
        load_run_data(RunFolder(run))
    assert "no thumbnails: the data of the run" in cli("report", run).stdout


def test_an_older_run_folder_is_evaluated_as_before_while_nothing_has_changed(run: Path, cli: Cli) -> None:
    (run / "splits.parquet").unlink()
    before = contents(run)
    assert cli("test", run).returncode == 0
    assert contents(run) == before


def test_a_checkpoint_without_its_run_folder_refuses_changed_data(run: Path, cli: Cli, tmp_path: Path) -> None:
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    assert cli("test", "alone.ckpt").returncode == 0
    add(tmp_path / "images", "b", 10)
    done = cli("test", "alone.ckpt")
    assert done.returncode == 2
    assert "the data of alone.ckpt has changed since it was trained" in done.stderr
    (run / "checkpoints" / "other.ckpt").write_bytes((tmp_path / "alone.ckpt").read_bytes())
    assert cli("test", run / "checkpoints" / "other.ckpt").returncode == 0  # in its run folder the split is stored


def test_another_split_of_the_same_images_is_printed_with_a_warning(run: Path, cli: Cli) -> None:
    before = contents(run)
    done = cli("test", run, "--data.split_seed", "1")
    assert done.returncode == 0, done.stderr
    assert "warning: the run was trained on" in done.stderr
    assert contents(run) == before


def test_a_resumed_run_ends_as_without_the_new_images(run: Path, cli: Cli, tmp_path: Path) -> None:
    more = ["--trainer.max_epochs", "3", "--allow-changed", "trainer.max_epochs"]
    other = shutil.copytree(run, run.parent / "other")
    assert cli("resume", other, *more).returncode == 0
    add(tmp_path / "images", "b", 40)
    done = cli("resume", run, *more)
    assert done.returncode == 0, done.stderr
    weights = [torch.load(p / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for p in (run, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert (run / "splits.parquet").read_bytes() == (other / "splits.parquet").read_bytes()
    for split in ("val", "test"):
        assert RunFolder(run).predictions(split).ids == RunFolder(other).predictions(split).ids


def test_a_resumed_run_may_take_changed_data_and_then_stores_its_split(run: Path, cli: Cli, tmp_path: Path) -> None:
    before = RunFolder(run).splits()
    assert before is not None
    add(tmp_path / "images", "b", 40)
    (tmp_path / "images" / next(i for i, word in before.split_of.items() if word == "train")).unlink()
    more = ["--trainer.max_epochs", "3", "--allow-changed", "trainer.max_epochs"]
    refused = cli("resume", run, *more)
    assert refused.returncode == 2
    assert "1 of 48 train images are missing" in refused.stderr
    done = cli("resume", run, *more, "--allow-changed", "data_fingerprint")
    assert done.returncode == 0, done.stderr
    after = RunFolder(run).splits()
    assert after is not None
    assert len(after) == 139
    assert all(before.split_of.get(name, word) == word for name, word in after.split_of.items())
    assert cli("test", run).returncode == 0


def test_a_variant_has_the_split_of_its_run(run: Path, cli: Cli, tmp_path: Path) -> None:
    add(tmp_path / "images", "b", 40)
    done = cli("compress", run, "--prune", "0.5", "--finetune", "1")
    assert done.returncode == 0, done.stderr
    (variant,) = (run.parent / "compressed").glob("*/*")
    stored, theirs = (SplitTable.read(path / "splits.parquet") for path in (run, variant))
    assert stored.digest == theirs.digest
    assert RunFolder(variant).predictions("test").ids == RunFolder(run).predictions("test").ids


def test_results_are_not_overwritten_with_those_of_other_images(run: Path, tmp_path: Path) -> None:
    """Neither by a function of imgrec nor by a trainer of a user."""
    before, folder = contents(run), RunFolder(run)
    predictions = folder.predictions("test")
    other = Predictions(
        [f"z{name}" for name in predictions.ids], predictions.targets, predictions.logits, predictions.class_names
    )
    with pytest.raises(UserError, match=r"the results of the run .* are not replaced: 6 of 6 evaluated images"):
        record_predictions(folder, "test", other)
    import pytorch_lightning as pl

    from imgrec import ClassificationTask

    task = ClassificationTask.load_from_checkpoint(run / "checkpoints" / "best.ckpt", weights_only=True)
    source = {"name": "folder", "root": str(tmp_path / "images")}
    data = ImageDataModule(source, image_size=8, channels=1, split_seed=1, num_workers=0, cache="off")
    trainer = pl.Trainer(
        callbacks=[RunRecorder(folder=run)], logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    with pytest.raises(UserError, match="are not test images of the run"):
        trainer.test(task, datamodule=data, verbose=False)
    assert contents(run) == before
    assert json.loads((run / "summary.json").read_text())["status"] == "finished"
