"""Every YAML of the project is run: the experiments as rehearsals, the parts laid over the quickstart."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from imgrec import RunFolder

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

ROOT = Path(__file__).parents[1] / "experiments"
PARTS = sorted(ROOT.glob("_parts/*.yaml"))
EXPERIMENTS = sorted(path for path in ROOT.glob("*/*.yaml") if not path.parent.name.startswith("_"))
QUICKSTART = ROOT / "digits" / "quickstart.yaml"
WITHOUT_DATA = {"digits"}
SMALL = (
    *("--model.backbone.channels", "[8, 8, 8, 8]", "--model.backbone.stem_width", "8", "--data.image_size", "16"),
    *("--trainer.max_epochs", "2", "--trainer.limit_train_batches", "4"),
)


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def only_run(root: Path) -> RunFolder:
    (path,) = (root / "runs" / "digits" / "quickstart").iterdir()
    return RunFolder(path)


def with_part(part: str) -> list[str | Path]:
    return ["--config", QUICKSTART, "--config", ROOT / "_parts" / f"{part}.yaml", *SMALL]


# ------------------------------------------------------------------ experiments


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """Return a folder with 16 images per class of the real data, and links to everything else in it."""
    if not os.environ.get("IMGREC_DATA"):
        return None
    real, root = Path(os.environ["IMGREC_DATA"]), tmp_path_factory.mktemp("data")
    for folder in real.iterdir():
        if folder.name not in ("cifar10", "sign-digits"):
            (root / folder.name).symlink_to(folder)
    for label in [*real.glob("cifar10/*/*"), *real.glob("sign-digits/*")]:
        copied = root / label.relative_to(real)
        copied.mkdir(parents=True)
        for image in sorted(label.iterdir())[:16]:
            shutil.copy(image, copied)
    return root


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_an_experiment_runs(
    path: Path, cli: Cli, tmp_path: Path, few_images: Path | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path.parent.name not in WITHOUT_DATA:
        if few_images is None:
            pytest.skip("IMGREC_DATA is not set")
        monkeypatch.setenv("IMGREC_DATA", str(few_images))
    arguments = [
        "--trainer.fast_dev_run",
        "--data.batch_size",
        "8",
        "--data.eval_batch_size",
        "8",
        "--data.num_workers",
        "0",
    ]
    if name_of(path) == "cifar10/small":
        arguments += ["--data.source.images", "100"]
    done = cli("fit", "--config", path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1  train loss" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [*EXPERIMENTS, *PARTS], ids=name_of)
def test_config_contains_no_defaults(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) <= 40
    assert re.search(r"[\s\"'{\[]/\w", text) is None  # no absolute path


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_an_experiment_resolves_without_its_data(path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specs are valid in the registries, checked without data and pretrained weights."""
    monkeypatch.delenv("IMGREC_DATA", raising=False)
    weights = ["--model.backbone.weights", "null"] if "weights: w" in path.read_text() else []
    done = cli("fit", "--config", path, *weights, "--print_config")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["experiment"] == name_of(path)


@pytest.mark.slow
def test_quickstart_reaches_documented_accuracy(cli: Cli, tmp_path: Path) -> None:
    done = cli("fit", "--config", QUICKSTART)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert run.summary["test"]["acc"] >= 0.97
    assert run.summary["epochs"] == 15
    losses = run.metrics()["train/loss"].values
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
def test_the_fast_recipe_is_fast(cli: Cli, tmp_path: Path) -> None:
    if not os.environ.get("IMGREC_DATA"):
        pytest.skip("IMGREC_DATA is not set")
    done = cli("fit", "--config", ROOT / "fashion_mnist" / "fast.yaml", "--trainer.max_epochs", "1")
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs" / "fashion_mnist" / "fast").iterdir()
    assert RunFolder(path).summary["test"]["acc"] >= 0.88


# ------------------------------------------------------------------ parts


def test_debug_leaves_no_run(cli: Cli, tmp_path: Path) -> None:
    done = cli("fit", *with_part("debug"))
    assert done.returncode == 0, done.stderr
    assert "epoch 1/1" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_prune_leaves_a_sparse_run(cli: Cli, tmp_path: Path) -> None:
    done = cli("fit", *with_part("prune"))
    assert done.returncode == 0, done.stderr
    assert only_run(tmp_path).summary["pruning"]["sparsity"] == pytest.approx(0.9, abs=0.001)


def test_parts_append_callbacks(cli: Cli) -> None:
    more = [word for part in ("early_stopping", "guard") for word in ("--config", ROOT / "_parts" / f"{part}.yaml")]
    done = cli("fit", *with_part("ema"), *more, "--print_config")
    assert done.returncode == 0, done.stderr
    callbacks = yaml.safe_load(done.stdout)["trainer"]["callbacks"]
    assert [each["class_path"] for each in callbacks] == ["EMA", "EarlyStopping", "NaNGuard"]


def test_bf16_trains_in_bfloat16(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", *with_part("bf16"), "--trainer.max_epochs", "6").returncode == 0
    run = only_run(tmp_path)
    assert run.config["trainer"]["precision"] == "bf16-mixed"
    losses = run.metrics()["train/loss"].values
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0]
    assert run.predictions("val").logits.dtype == "float32"
    kept = torch.load(run.checkpoint("best"), weights_only=True)["state_dict"]
    assert {value.dtype for value in kept.values() if value.is_floating_point()} == {torch.float32}


def test_tensorboard_equals_metrics_csv(cli: Cli, tmp_path: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert cli("fit", *with_part("tensorboard")).returncode == 0
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    run = only_run(tmp_path)
    found = reader.EventAccumulator(str(run.path / "tensorboard"))
    found.Reload()
    for name in ("train/loss", "val/acc", "val/loss", "test/acc"):
        theirs, ours = found.Scalars(name), run.metrics()[name]
        assert [event.step for event in theirs] == ours.steps.tolist()
        assert [event.value for event in theirs] == pytest.approx(ours.values, abs=1e-6)


def test_mlflow_equals_metrics_csv(cli: Cli, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    assert cli("fit", *with_part("mlflow")).returncode == 0
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    (kept,) = client.search_runs([client.get_experiment_by_name("imgrec").experiment_id])
    assert kept.info.status == "FINISHED"
    for name, ours in only_run(tmp_path).metrics().items():
        if name in ("train/loss", "test/acc"):
            theirs = {each.step: each.value for each in client.get_metric_history(kept.info.run_id, name)}
            assert theirs == pytest.approx(dict(zip(ours.steps.tolist(), ours.values.tolist(), strict=True)))


def test_wandb_offline_keeps_a_run(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    for name, value in {"MODE": "offline", "SILENT": "true", "CONSOLE": "off"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    done = cli("fit", *with_part("wandb"))
    assert done.returncode == 0, done.stderr
    assert wandb.run is None
    assert [p.name for p in tmp_path.iterdir()] == ["runs"]
    run = only_run(tmp_path)
    assert len(list((run.path / "wandb").glob("offline-run-*/run-*.wandb"))) == 1
    assert json.loads((run.path / "wandb" / "run.json").read_text())["project"] == "imgrec"


def test_gpu_trains_or_reports_missing_device(cli: Cli, tmp_path: Path) -> None:
    done = cli("fit", *with_part("gpu"))
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        assert done.returncode == 0, done.stderr
        assert only_run(tmp_path).summary["status"] == "finished"
        return
    assert done.returncode == 2
    assert done.stderr.startswith("imgrec: error: trainer: ")
    assert "gpu" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_ddp_trains_in_two_processes(installed: Cli, tmp_path: Path) -> None:
    arguments = [str(word) for word in with_part("ddp")]
    done = installed("fit", *arguments, "--trainer.accelerator", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert run.summary["status"] == "finished"
    for split, count in run.summary["split_sizes"].items():
        if split != "train":
            assert len(set(run.predictions(split).ids)) == len(run.predictions(split)) == count
    assert done.stdout.count("epoch 1/2") == 1


def test_fsdp_shares_the_parameters_out(cli: Cli) -> None:
    """Training is compared with DDP in tests/callbacks/test_two_processes.py."""
    done = cli("fit", *with_part("fsdp"), "--trainer.accelerator", "cpu", "--print_config")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["trainer"]["strategy"] == "fsdp2"


def test_slurm_resolves(cli: Cli) -> None:
    """The script is run in tests/test_cluster.py."""
    done = cli("fit", *with_part("slurm"), "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--print_config")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["trainer"]["callbacks"][0]["class_path"] == "LastCheckpoint"


def test_averages_a_guard_and_a_patient_end_go_together(cli: Cli, tmp_path: Path) -> None:
    parts = [
        word for name in ("ema", "guard", "early_stopping") for word in ("--config", ROOT / "_parts" / f"{name}.yaml")
    ]
    done = cli("fit", *with_part("ema"), *parts[2:])
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    assert run.summary["status"] == "finished"
    held = torch.load(run.path / "checkpoints" / "last.ckpt", weights_only=True)
    assert "current_model_state" in held
    assert {key.partition("{")[0] for key in held["callbacks"]} >= {"EMA", "EarlyStopping", "NaNGuard"}


def test_qat_ends_in_an_int8_export(cli: Cli, tmp_path: Path) -> None:
    done = cli("fit", *with_part("qat"))
    assert done.returncode == 0, done.stderr
    written = json.loads((only_run(tmp_path).path / "exports/onnx-int8-qat/export.json").read_text(encoding="utf-8"))
    assert written["precision"] == "int8"


def test_distill_learns_from_another_run(cli: Cli, tmp_path: Path) -> None:
    assert cli("fit", "--config", QUICKSTART, *SMALL, "--experiment", "teacher").returncode == 0
    (teacher,) = (tmp_path / "runs" / "teacher").iterdir()
    done = cli("fit", *with_part("distill"), "--model.teacher", teacher)
    assert done.returncode == 0, done.stderr
    assert "train/distill/logits" in only_run(tmp_path).metrics()


def test_every_part_has_a_test_here() -> None:
    assert {path.stem for path in PARTS} == {
        "bf16",
        "ddp",
        "debug",
        "distill",
        "early_stopping",
        "ema",
        "fsdp",
        "gpu",
        "guard",
        "mlflow",
        "prune",
        "qat",
        "slurm",
        "tensorboard",
        "wandb",
    }
