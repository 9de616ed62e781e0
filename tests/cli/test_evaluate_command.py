"""Tests of ``imgrec evaluate``: labelled datasets in all layouts, compared with the results of the run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

import imgrec
from imgrec import ClassificationTask, ImageDataModule, RunFolder, RunRecorder
from imgrec.data.sources.digits import Digits
from imgrec.errors import UserError
from imgrec.runs.evaluations import evaluation_predictions
from imgrec.tasks.epoch_metrics import Metrics, classification_metrics
from imgrec.types import DataFacts

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run on the digits, to write into."""
    return shutil.copytree(trained, tmp_path / "runs" / "tiny" / "copy")


def contents(run: Path) -> dict[str, bytes]:
    files = (p for p in sorted(run.rglob("*")) if p.is_file() and "evaluations" not in p.parts)
    return {str(p.relative_to(run)): p.read_bytes() for p in files}


def save(root: Path, layout: str, classes: str = "035", per_class: int = 4) -> list[int]:
    """Write digits as files in a layout such as ``{split}/{label}``, and return their rows."""
    source, rows = Digits(), []
    for label in classes:
        for i, row in enumerate(np.flatnonzero(source.targets == int(label))[:per_class].tolist()):
            split = ("train", "val", "test", "test")[i % 4]
            path = root / layout.format(label=label, split=split) / f"{row}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(source.load(row)).save(path)
            rows.append(row)
    return rows


def test_everything_is_evaluated_and_the_run_itself_stays_as_it_is(run: Path, cli: Cli, tmp_path: Path) -> None:
    before = contents(run)
    done = cli("evaluate", run, "digits", "--device", "cpu", "--per-class")
    assert done.returncode == 0, done.stderr
    assert "1,797 images of 10 of 10 classes" in done.stdout
    assert "The model was trained on 1,439 of these 1,797 images" in done.stdout
    assert contents(run) == before
    folder = run / "evaluations" / "digits"
    assert {p.name for p in folder.iterdir()} == {
        "predictions.parquet", "metrics.json", "source.yaml", "report.html"
    }  # fmt: skip
    said, own = evaluation_predictions(RunFolder(run), "digits"), RunFolder(run).predictions("test")
    place = {name: i for i, name in enumerate(said.ids)}
    shared = [place[name] for name in own.ids]
    np.testing.assert_allclose(said.logits[shared], own.logits, atol=0.05)  # the run may have been tested in bf16
    written = json.loads((folder / "metrics.json").read_text())
    assert written["metrics"]["acc"] == said.accuracy
    assert set(written["metrics"]) - set(written["intervals"]) == {"ece"}
    assert written["environment"]["versions"]["torch"]
    low, high = written["intervals"]["f1_macro"]
    assert low < written["metrics"]["f1_macro"] < high
    assert f"{100 * said.accuracy:.2f} %" in done.stdout

    assert cli("evaluate", run, "digits", "--device", "cpu").returncode == 0  # the same again
    other = cli("evaluate", run, "digits", "--name", "digits", "--tta", "hflip", "--device", "cpu")
    assert other.returncode == 2
    assert "is an evaluation of other views" in other.stderr
    assert json.loads((folder / "metrics.json").read_text())["metrics"] == written["metrics"]
    arguments = ["--name", "digits", "--tta", "hflip", "--overwrite", "--device", "cpu"]
    assert cli("evaluate", run, "digits", *arguments).returncode == 0
    assert json.loads((folder / "metrics.json").read_text())["metrics"] != written["metrics"]
    assert cli("report", run).returncode == 0
    assert "Other data" in (run / "report.html").read_text()
    assert "1,797" in (run / "report.html").read_text()
    shutil.copytree(run, run.parent / "twin")
    compared = cli("compare", run, run.parent / "twin", "--split", "evaluations/digits")
    assert compared.returncode == 0, compared.stderr
    assert "2 runs on 1,797 digits images" in compared.stdout
    assert "It has: evaluations/digits" in cli("compare", run, run.parent / "twin", "--split", "evaluations/d").stderr
    table = tmp_path / "runs.csv"
    assert cli("runs", run.parent, "--columns", "run,evaluations/*", "--csv", table).returncode == 0
    assert "evaluations/digits/acc" in table.read_text().splitlines()[0].split(",")


@pytest.mark.parametrize("layout", ["{split}/{label}", "test/{label}", "{label}", "csv", "one class"])
def test_any_layout_is_evaluated_as_a_whole(layout: str, run: Path, cli: Cli, tmp_path: Path) -> None:
    given: Any = tmp_path / "set"
    if layout == "csv":
        rows = save(given, "x/{label}")
        lines = [f"{p.relative_to(given).as_posix()},{p.parent.name},test" for p in sorted(given.rglob("*.png"))]
        (given / "all.csv").write_text("\n".join(["path,label,split", *lines]))
        given = given / "all.csv"
    elif layout == "one class":
        rows = save(given, "{label}", "7")
    else:
        rows = save(given, layout)
    found = imgrec.evaluate_run(run, given, device="cpu")
    assert len(found.predictions) == len(rows)
    assert found.class_counts() == {str(c): int((Digits().targets[rows] == c).sum()) for c in range(10)}
    model = imgrec.load(run, device="cpu")
    data = ImageDataModule("digits", image_size=16, channels=1)
    data.setup()
    expected = {row: model.logits(model._transforms(data.source.load(row))[None])[0] for row in rows}
    for name, logits in zip(found.predictions.ids, found.predictions.logits, strict=True):
        np.testing.assert_allclose(logits, expected[int(Path(name).stem)].numpy(), atol=1e-3)
    assert found.folder == run / "evaluations" / ("all" if layout == "csv" else "set")
    if layout == "{split}/{label}":
        part = imgrec.evaluate_run(run, given, split="test", device="cpu")
        assert (part.name, len(part.predictions)) == ("set-test", 6)
    assert (found.folder / "report.html").is_file()


def test_an_unreadable_image_gives_status_4_after_everything_is_written(run: Path, cli: Cli, tmp_path: Path) -> None:
    rows = save(tmp_path / "set", "{label}")
    (tmp_path / "set" / "3" / "broken.png").write_bytes(b"no image")
    done = cli("evaluate", run, "set")
    assert done.returncode == 4
    assert "1 of 13 images cannot be read" in done.stderr
    written = json.loads((run / "evaluations" / "set" / "metrics.json").read_text())
    assert written["images"] == len(rows)
    assert list(written["skipped"]) == ["3/broken.png"]


def test_unknown_classes_and_models_without_a_run(run: Path, cli: Cli, tmp_path: Path) -> None:
    save(tmp_path / "set", "{label}")
    (tmp_path / "set" / "5").rename(tmp_path / "set" / "five")
    refused = cli("evaluate", run, "set")
    assert refused.returncode == 2
    assert '"five" (4 images)' in refused.stderr
    assert not (run / "evaluations").exists()
    done = cli("evaluate", run, "set", "--skip-unknown", "--name", "some")
    assert done.returncode == 0, done.stderr
    assert "five (4)" in done.stdout
    assert "Classes without images: 1, 2, 4, 5" in done.stdout
    before = contents(run)
    for model in (run / "model", run / "checkpoints" / "last.ckpt"):
        done = cli("evaluate", model, "set", "--skip-unknown")
        assert done.returncode == 0, done.stderr
        assert "written" not in done.stdout
    assert contents(run) == before
    assert cli("evaluate", run / "model", "set", "--skip-unknown", "--out", "there").returncode == 0
    assert (tmp_path / "there" / "predictions.parquet").is_file()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("keep")
    refused = cli("evaluate", run / "model", "set", "--skip-unknown", "--out", "full")
    assert "is no evaluation" in refused.stderr
    assert "letters, digits" in cli("evaluate", run, "set", "--name", "../up").stderr


class Counting(ClassificationTask):
    """Task with a custom metric and a custom step."""

    def build_metrics(self, facts: DataFacts) -> Metrics:
        def metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
            zeros = (targets == 0).float().mean()
            return {**classification_metrics(logits, targets), "zeros": float(zeros)}

        return metrics

    def model_step(self, batch: Any) -> Any:
        from dataclasses import replace

        output = super().model_step(batch)
        return replace(output, logits=output.logits + 1000 * torch.eye(10)[3])


def test_custom_task_evaluates_with_step_and_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = Counting(
        {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}, normalize="half"
    )
    data = ImageDataModule("digits", image_size=16, channels=1, num_workers=0)
    recorder = RunRecorder("mine", tmp_path)
    trainer = pl.Trainer(
        max_epochs=1,
        limit_train_batches=2,
        accelerator="cpu",
        logger=False,
        callbacks=[recorder],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(task, data)
    trainer.test(task, datamodule=data, verbose=False)
    assert recorder.folder is not None
    run = RunFolder(recorder.folder)
    share = float((Digits().targets == 0).mean())
    found = imgrec.evaluate_run(run, "digits", device="cpu", name="all")
    assert found.metrics["zeros"] == pytest.approx(share)
    assert (found.predictions.predicted == 3).all()
    from imgrec.cli.output import print_results
    from imgrec.reports.report import write_report

    capsys.readouterr()
    print_results({"test": run.summary["test"]}, None, None)
    assert "zeros" in capsys.readouterr().out
    page = write_report(run).read_text()
    assert page.count("zeros") >= 3  # a tile, a column of the scores, a column of the evaluations
    assert f'data-value="{run.summary["test"]["zeros"]!r}"' in page
    table = imgrec.run_table(tmp_path)
    assert "test/zeros" in table.overview()
    with pytest.raises(UserError, match="class"):
        imgrec.evaluate_run(run, {"name": "subset", "source": "digits", "per_class": 1, "nothing": 1})


def test_code_is_loaded_from_user_specs_only(run: Path, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "evil_source.py").write_text("from pathlib import Path\nPath('imported').touch()\n")
    (tmp_path / "set.yaml").write_text("{name: evil_source.Images}")
    refused = cli("evaluate", run, "set.yaml")
    assert refused.returncode == 2
    assert '"evil_source.Images", which is code outside the registries' in refused.stderr
    assert not (tmp_path / "imported").exists()
    done = cli("evaluate", run, "{name: imgrec.data.sources.digits.Digits}", "--name", "own")
    assert done.returncode == 0, done.stderr
