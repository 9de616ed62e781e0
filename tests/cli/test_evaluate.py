from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from torchvision.transforms.functional import to_pil_image

from imgrec import ImageDataModule, RunFolder

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def column(done: subprocess.CompletedProcess[str], split: str) -> dict[str, str]:
    """Return the values of the printed table."""
    lines = done.stdout.splitlines()
    assert lines[1].split() == [split]
    rows = [line.rpartition(" ") for line in lines[2:] if line and not line.startswith(("run", "report"))]
    return {name.strip(): value for name, _, value in rows}


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to write into."""
    return shutil.copytree(trained, tmp_path / "runs" / "tiny" / "copy")


@pytest.mark.parametrize(("command", "split"), [("test", "test"), ("validate", "val")])
@pytest.mark.parametrize("target", ["the run", "its best checkpoint"])
def test_a_run_is_evaluated_from_its_folder_alone(command: str, split: str, target: str, cli: Cli, run: Path) -> None:
    before, figures = contents(run), RunFolder(run).summary[split]
    RunFolder(run).predictions_file(split).unlink()
    done = cli(command, run if target == "the run" else run / "checkpoints" / "best.ckpt")
    assert done.returncode == 0, done.stderr
    assert column(done, split)["accuracy"] == f"{figures['acc']:.4f}"
    assert column(done, split)["loss"] == f"{figures['loss']:.4f}"
    assert done.stdout.splitlines()[-1] == f"run        {run}"
    assert contents(run) == before  # the same predictions again, and no row more in metrics.csv


def test_an_older_checkpoint_of_a_run_is_evaluated_beside_it(cli: Cli, run: Path) -> None:
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "other.ckpt")
    before = contents(run)
    for checkpoint in ("last.ckpt", "other.ckpt"):
        done = cli("test", run / "checkpoints" / checkpoint)
        assert done.returncode == 0, done.stderr
        assert "run  " not in done.stdout
    assert contents(run) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data.eval_batch_size", "7"],
        ["--config", "more.yaml"],
        ["--ckpt_path", "alone.ckpt"],
        ["--trainer.limit_test_batches", "1"],
    ],
)
def test_with_overrides_the_run_is_left_alone(arguments: list[str], cli: Cli, run: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("data: {val_fraction: 0.2}\n")
    shutil.copy(run / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    before = contents(run)
    done = cli("test", run, *arguments)
    assert done.returncode == 0, done.stderr
    assert "accuracy" in column(done, "test")
    assert contents(run) == before


def test_the_figures_do_not_depend_on_the_batch_size(cli: Cli, run: Path) -> None:
    tables = [column(cli("test", run, "--data.eval_batch_size", str(size)), "test") for size in (7, 64)]
    assert tables[0] == tables[1]


def test_checkpoint_contains_data_and_task(cli: Cli, trained: Path, tmp_path: Path, tiny: Path) -> None:
    shutil.copy(trained / "checkpoints" / "best.ckpt", tmp_path / "alone.ckpt")
    acc = f"{RunFolder(trained).summary['test']['acc']:.4f}"
    for arguments in (
        ["alone.ckpt"],
        ["alone.ckpt", "--config", tiny],
        ["--config", tiny, "--ckpt_path", "alone.ckpt"],
    ):
        done = cli("test", *arguments)
        assert done.returncode == 0, done.stderr
        assert column(done, "test")["accuracy"] == acc
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alone.ckpt", "tiny.yaml"]


def test_other_images_are_evaluated_by_naming_them(cli: Cli, run: Path, tmp_path: Path) -> None:
    data = ImageDataModule(source="digits", channels=1, image_size=16)
    data.setup()
    chosen = [data.source.ids[row] for row in data.splits.test]
    rows = ["path,label,split"]
    for number, name in enumerate(chosen):
        (image,) = data.load_images([name])
        assert image is not None
        to_pil_image(image).save(tmp_path / f"{number}.png")
        label = data.source.targets[data.splits.test[number]]
        rows.append(f"{number}.png,{label},test")
    rows += [f"{label}-{split}.png,{label},{split}" for label in range(10) for split in ("train", "val")]
    for row in rows[1 + len(chosen) :]:
        shutil.copy(tmp_path / "0.png", tmp_path / row.partition(",")[0])
    (tmp_path / "mine.csv").write_text("\n".join(rows))
    done = cli("test", run, "--data.source", "{name: csv, file: mine.csv}")
    assert done.returncode == 0, done.stderr
    theirs = column(cli("test", run), "test")
    assert column(done, "test") == theirs


def test_the_config_of_a_target_can_be_printed(cli: Cli, run: Path, tmp_path: Path) -> None:
    before = contents(run)
    done = cli("test", run, "--data.batch_size", "5", "--print_config")
    assert done.returncode == 0
    assert "batch_size: 5" in done.stdout
    (tmp_path / "printed.yaml").write_text(done.stdout)
    assert cli("test", "--config", "printed.yaml", "--print_config").stdout == done.stdout
    assert contents(run) == before


def test_pretrained_weights_are_not_asked_for_again(cli: Cli, run: Path, tmp_path: Path) -> None:
    """A checkpoint brings its own weights: a folder of weights that is gone does not matter."""
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("weights: null", "weights: gone/weights", 1))
    done = cli("test", run)
    assert done.returncode == 0, done.stderr
    assert np.isfinite(float(column(done, "test")["loss"]))


def test_evaluation_from_another_folder(cli: Cli, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    done = cli("test", "../runs/tiny/copy")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []
