"""Tests of invalid user input: one message, exit status 2 and no change on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Snapshot = dict[str, tuple[int, int, str]]
Damage = Callable[[Path], object]


def snapshot(*folders: Path) -> Snapshot:
    """Return size, modification time and content of every file below the folders."""
    found: Snapshot = {}
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            if path.is_file():
                status = path.stat()
                content = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = (status.st_size, status.st_mtime_ns, content)
            else:
                found[str(path)] = (0, 0, "a folder")
    return found


def write_images(root: Path, counts: dict[str, int]) -> Path:
    """Write small JPEGs with one colour per class: ``write_images(root, {"cat": 40, "train/dog": 3})``."""
    for number, (name, count) in enumerate(counts.items()):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = np.random.default_rng([number, i]).integers(0, 64, (20, 20, 3), dtype=np.uint8)
            noise[..., number % 3] += 128
            Image.fromarray(noise).save(folder / f"{i:03d}.jpg")
    return root


def folder_source(root: str) -> list[str]:
    return ["--data.source", f"{{name: folder, root: {root}}}", "--data.channels", "3", "--data.batch_size", "8"]


@pytest.fixture
def data(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that IMGREC_DATA names, outside the working folder."""
    folder = tmp_path_factory.mktemp("data")
    monkeypatch.setenv("IMGREC_DATA", str(folder))
    return folder


@pytest.fixture
def refused(cli: Cli, tiny: Path, tmp_path: Path, data: Path) -> Callable[..., str]:
    """The message of a command that must be refused, after everything else about the refusal was checked.

    ``fit`` gets the tiny config. ``arguments`` contains options and targets.
    """

    def run(command: str, *arguments: str | Path) -> str:
        before = snapshot(tmp_path, data)
        config = ["--config", tiny] if command == "fit" else []
        done = cli(command, *config, *arguments)
        assert done.returncode == (6 if "cannot be written" in done.stderr else 2), done.stderr
        assert done.stdout == ""
        assert done.stderr.startswith("imgrec: error: ")
        assert "Traceback" not in done.stderr
        assert done.stderr.count("imgrec: error:") == 1
        assert snapshot(tmp_path, data) == before
        return done.stderr.removeprefix("imgrec: error: ").strip()

    return run


# ------------------------------------------------------------------ the config

WRONG_CONFIGS = {
    "a key at the top": (["--modle.loss", "focal"], ['no option "--modle.loss"', '"--model.loss"', "trainer"]),
    "a key of the model": (["--model.los", "focal"], ["model: ", 'no key "los"', '"loss"', "backbone"]),
    "a key of the data": (["--data.batchsize", "8"], ["data: ", "batchsize", '"batch_size"']),
    "a key of the trainer": (["--trainer.max_epoch", "3"], ["trainer: ", "max_epoch", '"max_epochs"']),
    "a key of a callback": (
        ["--trainer.callbacks", "{class_path: EarlyStopping, monitor: val/acc, patiance: 3}"],
        ["trainer.callbacks[0]", "patiance", '"patience"', "min_delta"],
    ),
    "a backbone": (["--model.backbone", "resnet81"], ["model.backbone", "resnet81", '"resnet18"', "imgrec list"]),
    "a torchvision backbone": (
        ["--model.backbone", "torchvision/vgg11bn"],
        ["model.backbone", '"torchvision/vgg11_bn"', "imgrec list backbones"],
    ),
    "a head": (["--model.head", "linaer"], ["model.head", '"linaer"', '"linear"', "cosine"]),
    "a loss": (["--model.loss", "focl"], ["model.loss", '"focl"', '"focal"', "cross_entropy"]),
    "a loss in a list": (["--model.loss", "[focal, focl]"], ["model.loss[1]", '"focl"', '"focal"']),
    "a regularizer": (
        ["--model.regularizers", "[{name: elastic, weight: 1e-4}]"],
        ["model.regularizers", '"elastic"', '"elastic_net"'],
    ),
    "an optimizer": (["--model.optimizer", "adamww"], ["model.optimizer", '"adamww"', '"adamw"']),
    "a schedule": (["--model.schedule", "cosin"], ["model.schedule", '"cosin"', '"cosine"', "exponential"]),
    "a normalization": (["--model.normalize", "imagnet"], ["model.normalize", '"imagnet"', '"imagenet"', "half"]),
    "a source": (["--data.source", "digit"], ["data.source", '"digit"', '"digits"', "folder"]),
    "an augmentation": (
        ["--data.train_transforms", "[resize, hflp]"],
        ["data.train_transforms[1]", '"hflp"', '"hflip"', "random_crop"],
    ),
    "a task": (
        ["--model.class_path", "imgrec.ClasificationTask"],
        ["model: ", "imgrec.ClasificationTask", '"ClassificationTask"'],
    ),
    "a callback": (["--trainer.callbacks", "EarlyStoping"], ["trainer.callbacks[0]", '"EarlyStopping"']),
    "a logger": (["--trainer.logger", "WandbLoger"], ["trainer.logger", '"WandbLogger"']),
    "an argument of a loss": (
        ["--model.loss", "{name: focal, gama: 2}"],
        ["model.loss", '"focal"', '"gama"', '"gamma"', "Accepted"],
    ),
    "an argument of a backbone": (
        ["--model.backbone.pretained", "true"],
        ["model.backbone", '"pretained"', '"pretrained"', "layers"],
    ),
    "an argument of an augmentation": (
        ["--data.train_transforms", "[{name: random_crop, paddin: 3}]"],
        ["data.train_transforms[0]", '"paddin"', '"padding"'],
    ),
    "an argument that is missing": (["--data.source", "folder"], ["data.source", '"folder"', '"root"']),
    "a word for a number": (
        ["--model.loss", "{name: focal, gamma: two}"],
        ["model.loss.gamma", "float", "'two'"],
    ),
    "a truth for a number": (["--model.optimizer.lr", "true"], ["model.optimizer.lr", "float", "True"]),
    "a fraction for a count": (["--data.batch_size", "2.5"], ["data.batch_size", "int", "2.5"]),
    "a word for epochs": (["--trainer.max_epochs", "three"], ["trainer.max_epochs", "int", "'three'"]),
    "a choice": (["--data.on_bad_image", "skp"], ["data.on_bad_image", "skip", "error", "'skp'"]),
    "a value out of range": (["--model.schedule.warmup", "2"], ["model.schedule", "warmup", "2"]),
    "a negative rate": (["--model.optimizer.lr", "-1"], ["model.optimizer", "lr", "-1"]),
    "no image in a batch": (["--data.batch_size", "0"], ["data.batch_size", "0"]),
    "a seed": (["--seed_everything", "-1"], ["seed_everything", "-1", "4294967295"]),
    "a part that is no mapping": (["--trainer", "3"], ["trainer", "mapping", "3"]),
    "a name that leads out of the runs": (["--experiment", "../x"], ["experiment", "../x", "digits/quickstart"]),
    "a precision": (["--trainer.precision", "17"], ["trainer.precision", "bf16-mixed", "17"]),
    "a strategy": (["--trainer.strategy", "dpp"], ["trainer", "dpp", "ddp"]),
}


@pytest.mark.parametrize("what", WRONG_CONFIGS)
def test_invalid_config_has_key_and_suggestion(what: str, refused: Callable[..., str]) -> None:
    arguments, output = WRONG_CONFIGS[what]
    message = refused("fit", *arguments)
    assert [part for part in output if part not in message] == []


@pytest.mark.parametrize(
    ("text", "output"),
    [
        ("model:\n  loss: [focal\n", ["wrong.yaml", "line 3", "not YAML"]),
        ("- model\n", ["wrong.yaml", "mapping", "list"]),
        ("model: {loss: focl}\n", ["model.loss", '"focal"']),
    ],
)
def test_a_broken_config_file(text: str, output: list[str], refused: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text(text)
    message = refused("fit", "--config", "wrong.yaml")
    assert [part for part in output if part not in message] == []


def test_missing_config_file(refused: Callable[..., str]) -> None:
    assert "config nope.yaml" in refused("fit", "--config", "nope.yaml")


def test_an_unknown_command_and_registry(refused: Callable[..., str]) -> None:
    assert '"validate"' in refused("validat")
    assert '"losses"' in refused("list", "loses")
    assert '"focal"' in refused("show", "losses", "focl")


# ------------------------------------------------------------------ the data


def test_missing_data_folder_has_both_paths(refused: Callable[..., str], tmp_path: Path, data: Path) -> None:
    message = refused("fit", *folder_source("pets"))
    assert message.startswith("data.source: data folder not found")
    assert str(tmp_path / "pets") in message
    assert str(data / "pets") in message
    assert "IMGREC_DATA" in message


WRONG_FOLDERS: dict[str, tuple[dict[str, int], list[str]]] = {
    "one class": ({"cat": 12}, ["two classes", "one only", "cat"]),
    "an empty class": ({"cat": 12, "dog": 0}, ["no image", '"dog"']),
    "no image": ({"cat": 0, "dog": 0}, ["no image at all"]),
    "a class too small to be split": ({"cat": 12, "dog": 2}, ["too few images", '"dog" (2)']),
    "a class that training lacks": ({"train/cat": 9, "train/dog": 9, "test/bird": 1}, ['"bird"', "cat, dog"]),
}


@pytest.mark.parametrize("what", WRONG_FOLDERS)
def test_invalid_data_folder(what: str, refused: Callable[..., str], data: Path) -> None:
    counts, output = WRONG_FOLDERS[what]
    write_images(data / "pets", counts)
    message = refused("fit", *folder_source("pets"))
    assert message.startswith("data.source: ")
    assert [part for part in output if part not in message] == []


def test_a_label_that_is_not_in_the_class_list(refused: Callable[..., str], data: Path) -> None:
    write_images(data, {"cat": 8, "dog": 8})
    rows = [f"{c}/{i:03d}.jpg,{c}" for c in ("cat", "dog") for i in range(8)]
    (data / "pets.csv").write_text("\n".join(["path,label", *rows, "cat/000.jpg,cta"]))
    message = refused(
        "fit", "--data.source", "{name: csv, file: pets.csv, classes: [cat, dog]}", "--data.channels", "3"
    )
    assert "line 18" in message
    assert '"cta"' in message
    assert '"cat"' in message


def test_a_class_without_validation_and_test_images_is_a_warning(cli: Cli, tiny: Path, data: Path) -> None:
    write_images(data / "pets", {"train/cat": 9, "train/dog": 9, "dev/cat": 2, "dev/dog": 0, "test/cat": 2})
    done = cli("fit", "--config", tiny, *folder_source("pets"))
    assert done.returncode == 0, done.stderr
    assert 'no validation image of the class "dog".' in done.stderr
    assert 'no test image of the class "dog".' in done.stderr


def test_batch_larger_than_readable_images(cli: Cli, tiny: Path, data: Path) -> None:
    write_images(data / "pets", {"cat": 6, "dog": 6})
    done = cli("fit", "--config", tiny, *folder_source("pets"), "--data.batch_size", "64")
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------ images that cannot be read


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:300])


DAMAGES: dict[str, Damage] = {
    "truncated": _truncate,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not a picture"),
}


@pytest.fixture
def damaged(data: Path) -> dict[str, str]:
    """Create a folder ``pets`` with broken images in training and validation. Return the reasons by id."""
    write_images(
        data / "pets", {"train/cat": 14, "train/dog": 14, "val/cat": 5, "val/dog": 5, "test/cat": 4, "test/dog": 4}
    )
    found = {}
    for split in ("train", "val"):
        for number, (kind, damage) in enumerate(DAMAGES.items()):
            name = f"{split}/{'cat' if number % 2 else 'dog'}/{number:03d}.jpg"
            damage(data / "pets" / name)
            found[name] = kind
    return found


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_fit_skips_unreadable_images(
    workers: int, cli: Cli, tiny: Path, tmp_path: Path, damaged: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    arguments = ["--data.num_workers", str(workers), "--trainer.limit_train_batches", "null"]
    with caplog.at_level(logging.WARNING, "imgrec"):
        done = cli("fit", "--config", tiny, *folder_source("pets"), *arguments)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs" / "tiny").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert set(summary["skipped_images"]) == set(damaged)
    warned = [record.args[0] for record in caplog.records if isinstance(record.args, tuple) and record.args]
    assert sorted(map(str, warned)) == sorted(damaged)  # each once, though there were two epochs
    for name, kind in damaged.items():
        word = {"truncated": "truncated", "empty": "empty", "text": "not an image"}[kind]
        assert word in summary["skipped_images"][name]
    assert f"{len(damaged)} unreadable image(s)" in done.stdout
    import imgrec

    predicted = imgrec.RunFolder(run).predictions("val").ids
    assert set(predicted).isdisjoint(damaged)
    assert len(predicted) == 10 - len(DAMAGES)


def test_fit_rejects_unreadable_images_on_request(refused: Callable[..., str], damaged: dict[str, str]) -> None:
    message = refused("fit", *folder_source("pets"), "--data.on_bad_image", "error")
    assert "6 of 46 images cannot be read" in message
    assert [name for name in damaged if name not in message] == []
    assert "on_bad_image: skip" in message


def test_folder_without_readable_images(refused: Callable[..., str], data: Path) -> None:
    write_images(data / "pets", {"cat": 5, "dog": 5})
    for path in (data / "pets").rglob("*.jpg"):
        path.write_bytes(b"")
    message = refused("fit", *folder_source("pets"))
    assert "none of the 6 training images can be read" in message
    assert "the file is empty" in message


# ------------------------------------------------------------------ checkpoints, run folders, output


def test_a_checkpoint_of_another_class_count(refused: Callable[..., str], trained: Path, data: Path) -> None:
    write_images(data / "pets", {"cat": 6, "dog": 6})
    source = ["--data.source", "{name: folder, root: pets}"]
    before = snapshot(trained)
    for message in (
        refused("fit", *source, "--ckpt_path", trained / "checkpoints" / "last.ckpt"),
        refused("test", trained, *source),
    ):
        assert "10 classes" in message
        assert "2 classes (cat, dog)" in message
    assert snapshot(trained) == before


def test_a_checkpoint_of_another_architecture(refused: Callable[..., str], trained: Path) -> None:
    other = ["--model.backbone.channels", "[8, 8, 8, 16]"]
    before = snapshot(trained)
    for message in (
        refused("fit", *other, "--ckpt_path", trained / "checkpoints" / "last.ckpt"),
        refused("test", trained, *other),
    ):
        assert "another architecture" in message
        assert "(8,), expected (16,)" in message
    assert snapshot(trained) == before


def test_invalid_checkpoint_file(refused: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    whole = (trained / "checkpoints" / "best.ckpt").read_bytes()
    files = {
        "text.ckpt": b"not a checkpoint",
        "empty.ckpt": b"",
        "half.ckpt": whole[: len(whole) // 2],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"weights": torch.zeros(2)}, tmp_path / "tensors.ckpt")
    for name in [*files, "tensors.ckpt"]:
        for arguments in (("fit", "--ckpt_path", name), ("test", name), ("predict", name, trained / "report.html")):
            message = refused(*arguments)
            assert name in message
            assert re.search("no (readable )?checkpoint", message)


def test_truncated_checkpoint(refused: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "runs" / "tiny" / "first")
    best = run / "checkpoints" / "best.ckpt"
    best.write_bytes(best.read_bytes()[:5000])
    for arguments in ((run,), (best,), (trained, "--ckpt_path", best)):
        assert "best.ckpt is no readable checkpoint" in refused("test", *arguments)


class Unpickled:
    """Malicious pickle, which writes a file when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("unpickled",)


def test_a_pickle_in_a_checkpoint_is_not_run(refused: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": Unpickled()}, tmp_path / "evil.ckpt")
    for arguments in (("fit", "--ckpt_path", "evil.ckpt"), ("test", "evil.ckpt")):
        assert "evil.ckpt is no readable checkpoint" in refused(*arguments)


def test_invalid_run_folder(refused: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "runs" / "tiny" / "first")
    (tmp_path / "picture.png").write_bytes(b"")
    for command in ("test", "validate", "report"):
        assert "no run folder" in refused(command, tmp_path)
        assert "runs/tiny/first" in refused(command, "runs/tiny")
        assert '"first"' in refused(command, "runs/tiny/frist")
        assert "inside the run" in refused(command, "runs/tiny/first/checkpoints")
    assert '"first"' in refused("predict", "runs/tiny/frist", "picture.png")


def test_a_run_without_a_checkpoint(refused: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    run = shutil.copytree(trained, tmp_path / "runs" / "tiny" / "first")
    shutil.rmtree(run / "checkpoints")
    assert 'no checkpoint "best". It has none' in refused("test", run)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "epoch-3.ckpt").write_bytes(b"")
    assert "It has: epoch-3" in refused("test", run)


@pytest.mark.parametrize("runs", ["tiny.yaml", "tiny.yaml/below", "/proc/runs"])
def test_an_output_folder_that_cannot_be_written(runs: str, refused: Callable[..., str]) -> None:
    if runs.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no file system here that refuses root, too")
    assert f"run folders in {runs}: cannot be written" in refused("fit", "--runs", runs)


def test_predictions_that_cannot_be_written(refused: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    Image.new("L", (16, 16)).save(tmp_path / "grey.png")
    for out in ("tiny.yaml/found.csv", "found.txt"):
        assert out in refused("predict", trained, "grey.png", "--out", out)


def test_missing_images(refused: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for place in ("nope.png", "nope/*.png", "bare"):
        assert place in refused("predict", trained, place)


def test_missing_device(refused: Callable[..., str], trained: Path, tmp_path: Path) -> None:
    Image.new("L", (16, 16)).save(tmp_path / "grey.png")
    assert "gpux" in refused("predict", trained, "grey.png", "--device", "gpux")
    if not torch.cuda.is_available():
        assert "cuda" in refused("predict", trained, "grey.png", "--device", "cuda")
        assert "gpu" in refused("fit", "--trainer.accelerator", "gpu")
