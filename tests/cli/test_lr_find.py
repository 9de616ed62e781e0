"""`imgrec lr-find`: what it tries, what it leaves, and that a training after it is as if it had not been."""

from __future__ import annotations

import csv
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image

import imgrec
from imgrec.callbacks import Callback, PositionalSeeding
from imgrec.engine.config import merge, normal_form
from imgrec.engine.experiment import Experiment
from imgrec.engine.training import train
from imgrec.engine.tuning.lr_find import configured_rate, range_test
from imgrec.engine.tuning.short_run import prepare_experiment, train_briefly
from imgrec.errors import UserError
from imgrec.utils import yaml
from tests.conftest import TINY

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

EVERYTHING = """
model:
  head: {name: linear, dropout: 0.3}
  optimizer: {name: momentum, lr: 0.05, weight_decay: 0.01}
  schedule: {name: cosine, warmup: 0.3}
  regularizers: [{name: l2, weight: 0.001, ramp: [0.0, 0.5]}]
data:
  train_transforms: [resize, {name: random_crop, padding: 2}, mixup]
trainer:
  accumulate_grad_batches: 2
  gradient_clip_val: 1.0
  callbacks:
    - {class_path: EMA, decay: 0.9}
    - {class_path: ImageSizeSchedule, start: 0.5, until: 0.5}
    - {class_path: Pruning, sparsity: 0.5}
"""


def config(*more: str) -> dict[str, Any]:
    found = normal_form(yaml.parse(TINY))
    for text in more:
        found = merge(found, normal_form(yaml.parse(text)))
    return found


def table(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


class Watch(Callback):
    """Recorder of loss, learning rates and image sizes of each batch, which stops training after some batches."""

    runs_in_short_runs = True

    def __init__(self, batches: int = 10**9) -> None:
        self.batches = batches
        self.losses: list[float] = []
        self.rates: list[list[float]] = []
        self.sizes: list[int] = []

    def __deepcopy__(self, memo: Any) -> Watch:
        return self

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.sizes.append(batch.images.shape[-1])

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        trainer.should_stop |= len(self.losses) >= self.batches


def test_it_suggests_a_rate_and_leaves_a_picture_a_table_and_nothing_else(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("lr-find", tiny, "--steps", 60, "--out", "found.png", "--low", "1e-5")
    assert done.returncode == 0, done.stderr
    assert "suggested  --model.optimizer.lr 0." in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["found.csv", "found.png", tiny.name]
    rows = table(tmp_path / "found.csv")
    rates = [row["learning_rate"] for row in rows]
    assert np.allclose(np.diff(np.log(rates)), np.log(1e6) / 59, atol=1e-5)
    assert rates[0] == 1e-5
    assert min(row["smoothed"] for row in rows) < 0.8 * rows[0]["smoothed"]
    suggested = float(done.stdout.partition("--model.optimizer.lr ")[2].split()[0])
    assert 3e-4 < suggested < 0.3
    with Image.open(tmp_path / "found.png") as picture:
        assert len(picture.convert("RGB").getcolors(10**6) or []) > 50


@pytest.mark.parametrize("more", ["{}", pytest.param(EVERYTHING, marks=pytest.mark.slow)], ids=["plain", "everything"])
def test_a_training_after_it_is_bit_for_bit_one_without_it(
    more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unclocked: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = []
    for name in ("alone", "after"):
        experiment = Experiment({**config(more), "runs": name})
        if name == "after":
            before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
            drawn = generators()
            found = range_test(experiment, 15, 1e-4, 1.0, 100.0)
            assert len(found.losses) == 15
            assert drawn == generators()
            assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        train(experiment, None)
        (run,) = (tmp_path / name / "experiment").iterdir()
        ended.append((torch.load(run / "checkpoints" / "last.ckpt", weights_only=True), unclocked(run / "metrics.csv")))
    (alone, rows), (after, other_rows) = ended
    assert rows == other_rows
    for key in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(alone[key], after[key]), key


def generators() -> list[Any]:
    numpy: Any = np.random.get_state()  # noqa: NPY002
    return [random.getstate(), numpy[1].tolist(), torch.get_rng_state().tolist()]


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def test_starts_with_images_seeds_and_accumulation_of_training() -> None:
    own = config(EVERYTHING)
    own["trainer"]["callbacks"] = [each for each in own["trainer"]["callbacks"] if each["class_path"] != "Pruning"]
    experiment = prepare_experiment(own)
    watch = Watch(batches=2)
    trainer = pl.Trainer(
        **{**own["trainer"], "callbacks": None},
        logger=False, enable_checkpointing=False, enable_progress_bar=False, limit_val_batches=0,
        use_distributed_sampler=False, accelerator="cpu",
    )  # fmt: skip
    size = next(each for each in experiment.trainer.callbacks if type(each).__name__ == "ImageSizeSchedule")
    trainer.callbacks = [PositionalSeeding(), size, watch]  # type: ignore[attr-defined]
    trainer.fit(experiment.task, datamodule=experiment.data)
    assert watch.sizes == [8, 8]

    found = range_test(prepare_experiment(own), 10, 1e-3, 1e-2, 1e9)
    assert found.losses[0] == sum(watch.losses) / 2


def test_parameter_groups_keep_the_ratios_of_their_rates_and_the_schedule_is_left_out() -> None:
    own = config(
        "model: {optimizer: {name: adamw, lr: 0.002, layer_decay: 0.5}, schedule: {name: linear, warmup: 0.5}}"
    )
    experiment, watch = prepare_experiment(own), Watch()
    experiment.trainer.callbacks.append(watch)
    rates = range_test(experiment, 12, 1e-5, 1e-2, 1e9).rates
    highest = [max(groups) for groups in watch.rates]
    assert np.allclose(highest, rates, rtol=1e-9)
    shares = [sorted({round(rate / max(groups), 9) for rate in groups}) for groups in watch.rates]
    assert shares[0] == shares[-1]
    assert {0.5, 1.0} <= set(shares[0])
    assert all(np.log2(share).is_integer() for share in shares[0])


def test_stops_at_divergence_not_at_end_of_training() -> None:
    experiment = prepare_experiment(config("model: {optimizer: {name: sgd, lr: 0.1}}"))
    found = range_test(experiment, 60, 1e-2, 1e6, 3.0)  # a training of 12 steps
    assert found.diverged
    assert 12 < len(found.losses) < 60
    assert np.isfinite(found.losses).all()


def test_a_loss_that_never_falls_gives_no_suggestion_but_its_curve(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("lr-find", tiny, "--steps", 12, "--low", "1e-12", "--high", "1e-11")
    assert done.returncode == 3
    assert "suggested  nothing: the loss did not decrease between the learning rates 1e-12 and 1e-11" in done.stdout
    assert (tmp_path / "lr-find.png").is_file()
    assert len(table(tmp_path / "lr-find.csv")) == 12


def test_the_callbacks_that_do_not_run_are_named(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text(EVERYTHING)
    done = cli("lr-find", tiny, "more.yaml", "--steps", 12)
    assert "not run    EMA, Pruning\n" in done.stdout


def test_half_precision_is_used() -> None:
    experiment = prepare_experiment(config("trainer: {precision: bf16-mixed}"))
    types: list[torch.dtype] = []

    class Types(Watch):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
            hook = pl_module.model.head.register_forward_hook(lambda *given: types.append(given[2].dtype))
            self.hooks = [*getattr(self, "hooks", []), hook]

    train_briefly(experiment, Types(batches=1))
    assert types == [torch.bfloat16]


@pytest.mark.slow
def test_as_a_function(tiny: Path) -> None:
    found = imgrec.find_learning_rate(tiny, {"data": {"batch_size": 32}}, steps=40, low=1e-5)
    assert set(found.suggestions()) == {"steepest", "valley", "minimum"}
    with pytest.raises(UserError, match="--steps: expected a number, 10 or more, got 3"):
        imgrec.find_learning_rate(tiny, steps=3)


@pytest.mark.parametrize(
    ("optimizer", "place", "rate"),
    [
        ("adamw", "model.optimizer.lr", 0.001),
        ({"name": "sgd", "lr": 0.3}, "model.optimizer.lr", 0.3),
    ],
)
def test_the_rate_is_that_of_the_config(optimizer: Any, place: str, rate: float) -> None:
    experiment = Experiment(config(yaml.dump({"model": {"optimizer": optimizer}})))
    assert configured_rate(experiment) == (place, rate)


def test_a_rate_for_a_reference_batch_is_that_of_the_config() -> None:
    """The rate is scaled from 256 images to a batch of 64, so training uses a quarter of the tested rate."""
    experiment = prepare_experiment(config("model: {optimizer: {name: sgd, lr: 0.4, lr_reference_batch: 256}}"))
    spy = Watch()
    experiment.trainer.callbacks.append(spy)
    found = range_test(experiment, 10, 1e-3, 1e-2, 1e9)
    assert np.allclose([groups[0] for groups in spy.rates], np.asarray(found.rates) / 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "5"], "--steps: expected int >= 10, got 5"),
        (["--low", "1", "--high", "0.1"], "--low and --high: expected two learning rates above 0, the lower one first"),
        (["--low", "x"], "--low: expected float > 0, got x"),
        (["--stop-at", "1"], "--stop-at: expected float > 1, got 1"),
        (["--rule", "steep"], '--rule: there is no "steep". Did you mean "steepest"'),
        (["--out", "a.txt"], "--out: expected a file name that ends in .png"),
        (["--model.loss", "fokal"], 'Did you mean "focal"'),
        (["--stepps", "5"], 'there is no option "--stepps". Did you mean "--steps"'),
        (["--trainer.fast_dev_run"], "expected false for a short run"),
        (["none.yaml"], "config none.yaml: cannot be read"),
    ],
)
def test_invalid_argument_is_one_error(
    cli: Cli, tiny: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = cli("lr-find", tiny, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == [tiny.name]


def test_missing_config_is_one_error(cli: Cli) -> None:
    assert "lr-find needs a config" in cli("lr-find").stderr
