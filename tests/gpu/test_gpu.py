"""Tests that require a GPU, run by `pytest tests/gpu`."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from imgrec import RunFolder, load

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are not two CUDA devices")

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

ONE = ["--trainer.accelerator", "gpu", "--trainer.devices", "1"]
TWO = ["--trainer.accelerator", "gpu", "--trainer.devices", "2", "--trainer.strategy"]


def train(installed: Cli, tiny: Path, name: str, *arguments: str) -> RunFolder:
    """Train the tiny config with the arguments in a subprocess and return the run."""
    place = tiny.parent
    done = installed("fit", "--config", tiny, "--runs", name, *arguments, cwd=place)
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = (place / name / "tiny").iterdir()
    return RunFolder(folder)


def weights(run: RunFolder, which: str = "last") -> dict[str, torch.Tensor]:
    """Return the weights of a checkpoint on the CPU."""
    state: dict[str, Any] = torch.load(run.checkpoint(which), map_location="cpu", weights_only=True)
    return dict(state["state_dict"])


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("channels_last", ["true", "false"])
def test_training_in_every_precision_and_memory_format(
    installed: Cli, tiny: Path, precision: str, channels_last: str
) -> None:
    arguments = ["--trainer.precision", precision, "--model.channels_last", channels_last, "--trainer.max_epochs", "6"]
    run = train(installed, tiny, "run", *ONE, *arguments, "--trainer.limit_train_batches", "1.0")
    losses = run.metrics()["train/loss"].values
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]
    assert {value.dtype for value in weights(run).values() if value.is_floating_point()} == {torch.float32}
    assert run.predictions("test").logits.dtype == np.float32
    assert run.summary["test"]["acc"] > 0.3


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled_network_equals_eager(installed: Cli, tiny: Path, mode: str) -> None:
    arguments = [*ONE, "--trainer.precision", "32-true", "--model.channels_last", "false"]
    plain = train(installed, tiny, "plain", *arguments)
    compiled = train(installed, tiny, "compiled", *arguments, "--model.compile", f"{{mode: {mode}}}")
    assert list(weights(plain)) == list(weights(compiled))
    assert compiled.metrics()["train/loss"].values == pytest.approx(plain.metrics()["train/loss"].values, rel=1e-2)


def test_deterministic_run_is_reproducible(
    installed: Cli, tiny: Path, unclocked: Callable[[Path], list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    arguments = [
        *ONE,
        "--trainer.deterministic",
        "true",
        "--trainer.precision",
        "bf16-mixed",
        "--model.channels_last",
        "true",
    ]
    first, second = (train(installed, tiny, name, *arguments) for name in ("first", "second"))
    theirs = weights(second)
    assert all(torch.equal(value, theirs[name]) for name, value in weights(first).items())
    assert unclocked(first.metrics_file) == unclocked(second.metrics_file)


def test_gpu_run_evaluated_on_cpu(installed: Cli, cli: Cli, tiny: Path) -> None:
    run = train(installed, tiny, "run", *ONE, "--trainer.precision", "32-true")
    before = run.predictions("test")
    again = cli("test", run.path, "--trainer.accelerator", "cpu")
    assert again.returncode == 0, again.stderr
    images = torch.zeros(2, 1, 16, 16, dtype=torch.uint8)
    there, here = (load(run.path, device=device).logits(images).cpu() for device in ("cuda", "cpu"))
    torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)
    assert len(before) == run.summary["split_sizes"]["test"]


@two_gpus
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_gpus_count_each_image_once(installed: Cli, tiny: Path, strategy: str) -> None:
    arguments = ["--trainer.precision", "bf16-mixed", "--data.test_fraction", "0.084", "--data.batch_size", "32"]
    run = train(installed, tiny, strategy, *TWO, strategy, *arguments)
    sizes: dict[str, Any] = run.summary["split_sizes"]
    for split in ("val", "test"):
        ids = run.predictions(split).ids
        assert len(ids) == len(set(ids)) == sizes[split]


@two_gpus
def test_fsdp_weights_equal_ddp(installed: Cli, tiny: Path) -> None:
    arguments = ["--trainer.precision", "32-true", "--model.optimizer", "{name: adamw, lr: 0.01, weight_decay: 0.3}"]
    plain, sharded = (train(installed, tiny, strategy, *TWO, strategy, *arguments) for strategy in ("ddp", "fsdp2"))
    theirs = weights(sharded)
    for name, value in weights(plain).items():
        if "running" not in name:
            torch.testing.assert_close(theirs[name], value, rtol=1e-2, atol=1e-3)


@two_gpus
def test_batch_norm_is_synchronized(installed: Cli, tiny: Path) -> None:
    """Two processes with synchronized statistics equal one process with batches of twice the size."""
    arguments = ["--trainer.precision", "32-true", "--model.channels_last", "false"]
    both = train(
        installed, tiny, "both", *TWO, "ddp", *arguments, "--data.batch_size", "16", "--trainer.sync_batchnorm", "true"
    )
    alone = train(installed, tiny, "alone", *ONE, *arguments, "--data.batch_size", "32")
    assert both.metrics()["train/loss"].values == pytest.approx(alone.metrics()["train/loss"].values, rel=2e-2)
