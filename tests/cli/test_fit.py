from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from imgrec import RunFolder

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def only_run(root: Path, experiment: str = "tiny") -> RunFolder:
    (path,) = (root / experiment).iterdir()
    return RunFolder(path)


# ------------------------------------------------------------------ what config comes out


def test_config_may_stand_on_either_side(cli: Cli, tiny: Path) -> None:
    after = cli("fit", "--config", tiny, "--model.loss", "focal", "--print_config")
    before = cli("--config", tiny, "--model.loss", "focal", "--print_config", "fit")
    assert after.returncode == before.returncode == 0
    assert after.stdout == before.stdout
    assert yaml.safe_load(after.stdout)["model"]["init_args"]["loss"]["name"] == "focal"


def test_several_configs_and_overrides_are_merged(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(
        "model: {loss: {name: focal, gamma: 1.0}, optimizer: {lr: 0.5}}\n"
        "trainer: {max_epochs: 3, callbacks: [{class_path: Timer}]}\n"
    )
    early = "{class_path: EarlyStopping, init_args: {monitor: val/acc}}"
    (tmp_path / "most.yaml").write_text(f"trainer: {{callbacks+: [{early}]}}\n")
    done = cli(
        *("fit", "--config", tiny, "--config", "more.yaml", "-c", "most.yaml", "--model.loss.gamma", "3"),
        *("--trainer.callbacks+", "DeviceStatsMonitor", "--data.source.name", "digits", "--print_config"),
    )
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    loss, optimizer = (config["model"]["init_args"][key] for key in ("loss", "optimizer"))
    assert (loss["name"], loss["gamma"], optimizer["name"], optimizer["lr"]) == ("focal", 3, "adamw", 0.5)
    assert config["trainer"]["max_epochs"] == 3
    assert config["trainer"]["limit_train_batches"] == 6
    assert [c if isinstance(c, str) else c["class_path"] for c in config["trainer"]["callbacks"]] == [
        "Timer",
        "EarlyStopping",
        "DeviceStatsMonitor",
    ]
    assert config["experiment"] == "tiny"


def test_an_argument_of_a_default_spec(cli: Cli, tiny: Path) -> None:
    done = cli("fit", "--config", tiny, "--model.loss.label_smoothing", "0.1", "--model.head.dropout=0.2")
    assert done.returncode == 0, done.stderr
    config = only_run(Path("runs")).config
    loss, head = (config["model"]["init_args"][key] for key in ("loss", "head"))
    assert (loss["name"], loss["label_smoothing"]) == ("cross_entropy", 0.1)
    assert (head["name"], head["dropout"]) == ("linear", 0.2)


def test_the_printed_config_is_a_config_that_prints_the_same(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    arguments = ["--model.loss", "[focal, {name: cross_entropy, weight: 0.5}]", "--trainer.callbacks", "[Timer]"]
    arguments += [
        "--seed_everything",
        "true",
        "--experiment",
        "a/b",
        "--model.regularizers",
        "{name: l2, weight: 1e-05}",
    ]
    first = cli("fit", "--config", tiny, *arguments, "--print_config")
    (tmp_path / "printed.yaml").write_text(first.stdout)
    second = cli("fit", "--config", "printed.yaml", "--print_config")
    assert first.returncode == second.returncode == 0, first.stderr
    assert second.stdout == first.stdout
    assert not (tmp_path / "runs").exists()


def test_a_random_seed_is_written_down(cli: Cli, tiny: Path) -> None:
    seeds = [
        yaml.safe_load(cli("fit", "--config", tiny, "--seed_everything", "true", "--print_config").stdout)[
            "seed_everything"
        ]
        for _ in range(3)
    ]
    assert len(set(seeds)) == 3
    assert all(type(seed) is int for seed in seeds)


# ------------------------------------------------------------------ what a run leaves


def test_the_config_of_a_run_repeats_it_to_the_last_digit(
    cli: Cli, trained: Path, tmp_path: Path, unclocked: Callable[[Path], list[dict[str, str]]]
) -> None:
    done = cli("fit", "--config", trained / "config.yaml")
    assert done.returncode == 0, done.stderr
    again, first = only_run(tmp_path / "runs"), RunFolder(trained)
    for name in ("config.yaml", "model/model.safetensors", "model/config.json"):
        assert (again.path / name).read_bytes() == (trained / name).read_bytes(), name
    assert unclocked(again.metrics_file) == unclocked(trained / "metrics.csv")
    for split in ("val", "test"):
        ours, theirs = again.predictions(split), first.predictions(split)
        assert ours.ids == theirs.ids
        assert np.array_equal(ours.logits, theirs.logits)
        assert again.summary[split] == first.summary[split]


def test_another_seed_is_another_run(
    cli: Cli, trained: Path, tmp_path: Path, unclocked: Callable[[Path], list[dict[str, str]]]
) -> None:
    done = cli("fit", "--config", trained / "config.yaml", "--seed_everything", "1")
    assert done.returncode == 0
    assert unclocked(only_run(tmp_path / "runs").metrics_file) != unclocked(trained / "metrics.csv")


def test_the_output_ends_with_results_and_places(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("fit", "--config", tiny, "--experiment", "digits/mine", "--runs", "kept")
    run = only_run(tmp_path / "kept", "digits/mine")
    summary = run.summary
    lines = done.stdout.splitlines()
    row = next(line for line in lines if line.startswith("accuracy"))
    assert row.split()[1:] == [f"{summary[split]['acc']:.4f}" for split in ("val", "test")]
    assert lines[-2:] == [
        f"run        {run.path.relative_to(tmp_path)}",
        f"report     {run.report.relative_to(tmp_path)}",
    ]
    assert run.report.is_file()
    assert done.stderr == ""
    assert run.environment["command"].startswith("imgrec fit --config")
    assert run.experiment == "digits/mine"


def test_without_evaluation_and_without_a_test_split(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    assert cli("fit", "--config", tiny, *short, "--evaluate_after_fit", "false").returncode == 0
    run = only_run(tmp_path / "runs")
    assert not run.has_predictions("val")
    assert not run.report.exists()
    assert run.checkpoint("best").is_file()

    done = cli("fit", "--config", tiny, *short, "--data.test_fraction", "0", "--experiment", "no-test")
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path / "runs", "no-test")
    assert run.has_predictions("val")
    assert not run.has_predictions("test")
    refused = cli("test", run.path)
    assert refused.returncode == 2
    assert "expected a test split" in refused.stderr


def test_fast_dev_run_writes_nothing(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("fit", "--config", tiny, "--trainer.fast_dev_run", "--runs", "nowhere")
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.yaml"]


@pytest.mark.parametrize("step", [4, 6, 9])
def test_run_resumes_from_checkpoint_exactly(step: int, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    keep = "{class_path: ModelCheckpoint, every_n_train_steps: 1, save_top_k: -1, filename: '{step}', save_last: true}"
    config = ["--config", tiny, "--trainer.callbacks", keep, "--evaluate_after_fit", "false"]
    assert cli("fit", *config, "--experiment", "whole").returncode == 0
    whole = only_run(tmp_path / "runs", "whole")
    done = cli("fit", *config, "--experiment", "rest", "--ckpt_path", whole.path / "checkpoints" / f"step={step}.ckpt")
    assert done.returncode == 0, done.stderr
    rest = only_run(tmp_path / "runs", "rest")
    ends = [torch.load(run.checkpoint("last"), weights_only=True) for run in (whole, rest)]
    assert ends[0]["global_step"] == ends[1]["global_step"] == 12
    for name, value in ends[0]["state_dict"].items():
        assert torch.equal(value, ends[1]["state_dict"][name]), name
    assert rest.metrics()["val/loss"].values[-1] == whole.metrics()["val/loss"].values[-1]


@pytest.mark.parametrize("callbacks", ["EpochProgress", "ModelCheckpoint"])
def test_callback_of_config_replaces_default(callbacks: str, cli: Cli, tiny: Path) -> None:
    chosen = {
        "EpochProgress": "imgrec.callbacks.EpochProgress",
        "ModelCheckpoint": "{class_path: ModelCheckpoint, monitor: val/loss, filename: best, save_top_k: 1}",
    }[callbacks]
    done = cli("fit", "--config", tiny, "--trainer.callbacks", chosen)
    assert done.returncode == 0, done.stderr
    run = only_run(Path("runs"))
    assert done.stdout.count("epoch 1/2") == 1
    kept = {path.name for path in (run.path / "checkpoints").iterdir()}
    assert kept == {"best.ckpt", "last.ckpt"}
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["monitor"] == ("val/loss" if callbacks == "ModelCheckpoint" else "val/acc")
