"""Tests of `trainer` settings for devices: rejected and corrected values."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from imgrec.engine.devices import prepare_devices
from imgrec.tasks.strategies import SyncBatchNorm

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

CPU = ["--trainer.accelerator", "cpu", "--trainer.devices", "2"]


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload"])
def test_strategy_without_weight_decay_is_rejected(cli: Cli, tiny: Path, strategy: str) -> None:
    done = cli("fit", "--config", tiny, *CPU, "--trainer.strategy", strategy)
    assert done.returncode == 2
    assert f'trainer.strategy: "{strategy}" flattens the parameters' in done.stderr
    assert 'Use "fsdp2"' in done.stderr


def test_batch_normalization_is_synchronised_on_gpus_only(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    words = ["fit", "--config", tiny, "--trainer.sync_batchnorm", "true"]
    done = cli(*words, *CPU, "--trainer.strategy", "ddp")
    assert done.returncode == 2
    assert "trainer.sync_batchnorm: expected false on a CPU, got true. torch synchronizes" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    assert cli(*words, "--trainer.accelerator", "cpu", "--print_config").returncode == 0  # one process: no effect


def test_the_conversion_that_keeps_activations_is_taken_beside_other_plugins() -> None:
    arguments: dict[str, Any] = {"sync_batchnorm": True, "plugins": ["other"]}
    prepare_devices(arguments)
    other, layers = arguments["plugins"]
    assert other == "other"
    assert isinstance(layers, SyncBatchNorm)
    arguments = {"sync_batchnorm": False}
    prepare_devices(arguments)
    assert arguments == {"sync_batchnorm": False}
