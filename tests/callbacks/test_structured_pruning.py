"""Structured pruning during training: optimizer, averages, masks and checkpoints follow the pruned model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import Tensor

from imgrec import ClassificationTask, TrainingFailedError, UserError
from imgrec.callbacks import EMA, BestCheckpoint, EarlyStopping, LayerStatistics, NaNGuard, Pruning, StructuredPruning
from imgrec.compress.profiling import count_macs, count_parameters
from imgrec.compress.surgery import surgery_of
from tests.callbacks import small_training
from tests.callbacks.small_training import digits, same, trainer
from tests.conftest import TINY

BACKBONE = {"name": "resnet9", "channels": [6, 8, 8], "blocks": [1, 0], "block_depth": 2}

HALF: dict[str, Any] = {"target": {"macs": 0.5}, "start": 0.25, "end": 0.75, "rounds": 2}
"""Twelve steps: before the fourth and before the tenth."""


def task(**arguments: Any) -> ClassificationTask:
    return small_training.task(**{"backbone": BACKBONE} | arguments)


class Watch(Callback):
    """Recorder of the state before and after each step."""

    def __init__(self) -> None:
        self.macs: dict[int, int] = {}
        self.optimizer: list[dict[str, Any]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        model: Any = pl_module.model
        modes = {module: module.training for module in model.modules()}
        self.macs[trainer.global_step] = count_macs(model, torch.zeros(1, 1, 16, 16))
        for module, mode in modes.items():
            module.training = mode
        for parameter in model.parameters():
            state = trainer.optimizers[0].state[parameter]
            assert all(v.shape == parameter.shape for v in state.values() if isinstance(v, Tensor) and v.dim())


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "nesterov", "lr": 0.1, "weight_decay": 1e-3},
        {"name": "adamw", "lr": 0.01, "weight_decay": 0.05, "fused": True},
    ],
    ids=["nesterov", "adamw"],
)
def test_each_round_removes_the_same_amount_and_training_continues(optimizer: dict[str, Any], tmp_path: Path) -> None:
    made, watch = task(optimizer=optimizer, channels_last=True), Watch()
    parameters: list[int] = []
    fitted = trainer(tmp_path, [StructuredPruning(**HALF), watch])
    fitted.fit(made, datamodule=digits())
    model: Any = made.model
    dense = watch.macs[1]
    shares = [watch.macs[step] / dense for step in (3, 4, 9, 10, 12)]
    assert shares[0] == 1
    assert 0.6 < shares[1] <= 0.75
    assert shares[2] == shares[1]
    assert 0.4 < shares[3] <= 0.5
    assert shares[4] == shares[3]
    held = [parameter for group in fitted.optimizers[0].param_groups for parameter in group["params"]]
    parameters = [id(parameter) for parameter in model.parameters()]
    assert sorted(map(id, held)) == sorted(parameters)
    assert [group["name"] for group in fitted.optimizers[0].param_groups] == ["decay", "no_decay"]
    assert all(
        weight.is_contiguous(memory_format=torch.channels_last) for weight in model.parameters() if weight.dim() == 4
    )


def test_learning_rate_equals_that_of_dense_training(tmp_path: Path) -> None:
    rates: list[list[float]] = []

    class Rates(Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            rates[-1].append(trainer.optimizers[0].param_groups[0]["lr"])

    for callbacks in ([], [StructuredPruning(**HALF)]):
        rates.append([])
        trainer(tmp_path, [*callbacks, Rates()], max_epochs=1).fit(
            task(schedule={"name": "cosine", "warmup": 0.2}), datamodule=digits()
        )
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 4


def with_all_that_has_state() -> list[Callback]:
    return [StructuredPruning(**HALF, importance="taylor", gradient_steps=3), EMA(decay=0.8)]


def checkpoints(place: Path) -> ModelCheckpoint:
    """Return a callback that writes a checkpoint after each step."""
    return ModelCheckpoint(
        dirpath=place, filename="{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of every step of an uninterrupted training with accumulated batches."""
    place = tmp_path_factory.mktemp("whole")
    fitted = trainer(place, [*with_all_that_has_state(), checkpoints(place)], accumulate_grad_batches=2, max_epochs=4)
    fitted.fit(task(), datamodule=digits())
    return place


@pytest.mark.parametrize("at_step", [2, 3, 6, 9])
def test_resume_between_rounds_is_bit_equal(at_step: int, whole: Path, tmp_path: Path) -> None:
    """The state includes averaged weights and the gradients of the importance criterion."""
    again = trainer(
        tmp_path, [*with_all_that_has_state(), checkpoints(tmp_path)], accumulate_grad_batches=2, max_epochs=4
    )
    again.fit(task(), datamodule=digits(), ckpt_path=whole / f"{at_step}.ckpt", weights_only=True)
    first, second = (torch.load(place / "12.ckpt", weights_only=True) for place in (whole, tmp_path))
    assert first["imgrec"]["surgery"]
    for part in ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers", "callbacks", "imgrec"):
        one, other = first[part], second[part]
        if part == "callbacks":
            one, other = ({k: v for k, v in each.items() if not k.startswith("ModelCheck")} for each in (one, other))
        assert same(one, other), part


def test_average_is_pruned_with_the_weights(tmp_path: Path) -> None:
    """After a round the average has the shapes of the model, and each value is one of the previous average."""
    average = EMA(decay=0.5)
    seen: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []

    class Compare(Callback):
        def __init__(self) -> None:
            self.before: dict[str, Tensor] = {}

        def on_train_batch_end(self, *_: Any) -> None:
            self.before = {name: value.clone() for name, value in average.averages.items()}

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            if trainer.global_step == 2:
                seen.append((self.before, {name: value.clone() for name, value in average.averages.items()}))
                assert {n: v.shape for n, v in average.averages.items()} == {
                    n: v.shape for n, v in pl_module.state_dict().items() if n in average.averages
                }

    trainer(tmp_path, [average, StructuredPruning(**HALF), Compare()], max_epochs=1).fit(task(), datamodule=digits())
    ((before, after),) = seen
    assert sum(v.numel() for v in after.values()) < 0.95 * sum(v.numel() for v in before.values())
    for name, value in after.items():
        assert set(value.flatten().tolist()) <= set(before[name].flatten().tolist()), name


def test_best_checkpoint_and_early_stopping_are_reset(tmp_path: Path) -> None:
    """The dense model was better after its epoch, but the best checkpoint has the final size."""
    best = BestCheckpoint(dirpath=str(tmp_path), monitor="val/loss", mode="min")
    stopping = EarlyStopping(monitor="val/loss", patience=1)
    fitted = trainer(
        tmp_path, [StructuredPruning(target={"parameters": 0.3}, start=0.5, rounds=1), stopping, best], max_epochs=2
    )
    made = task(optimizer={"name": "adamw", "lr": 0.01})
    fitted.fit(made, datamodule=digits())
    kept = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert kept["global_step"] == 12
    assert kept["imgrec"]["surgery"] == surgery_of(made.model) != []
    again = type(made).load_from_checkpoint(tmp_path / "best.ckpt", weights_only=True)
    assert count_parameters(again.model) == count_parameters(made.model)


def test_failure_after_a_round_is_found_with_the_pruned_model(tmp_path: Path) -> None:
    class Break(Callback):
        def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if trainer.global_step == 5:
                weight = dict(pl_module.named_parameters())["model.backbone.network.stages.0.1.branch.0.0.weight"]
                assert weight.grad is not None
                weight.grad.fill_(float("nan"))

    guard, pruning = NaNGuard(every_n_steps=100), StructuredPruning(**HALF)
    for order in ([guard, pruning], [pruning, guard]):
        with pytest.raises(TrainingFailedError, match=r"stages\.0\.1\.branch\.0\.0"):
            trainer(tmp_path, [*order, Break()]).fit(task(), datamodule=digits())


def test_hooks_of_layers_stay_active(tmp_path: Path) -> None:
    fitted = trainer(tmp_path, [LayerStatistics(every_n_steps=1), StructuredPruning(**HALF)], precision="bf16-mixed")
    made = task()
    fitted.fit(made, datamodule=digits())
    assert surgery_of(made.model)


def test_masks_and_their_average_are_pruned_with_the_weights(tmp_path: Path) -> None:
    masks = Pruning(sparsity=0.5, start=0.1, end=0.9, every_n_steps=1, exclude=[])
    made = task()
    trainer(tmp_path, [masks, EMA(decay=0.8), StructuredPruning(**HALF)]).fit(made, datamodule=digits())
    weights = {n: p for n, p in made.model.named_parameters() if n.endswith("weight") and p.dim() > 1}
    zeros = sum(int((weight == 0).sum()) for weight in weights.values())
    assert surgery_of(made.model)
    assert 0.25 < zeros / sum(weight.numel() for weight in weights.values()) < 0.75  # masked ones go with channels, too


@pytest.mark.slow
def test_compiled_model_is_compiled_again(tmp_path: Path) -> None:
    made = task(compile={"backend": "eager"})
    fitted = trainer(tmp_path, [StructuredPruning(**HALF)], max_epochs=1)
    fitted.fit(made, datamodule=digits())
    plain = task()
    trainer(tmp_path, [StructuredPruning(**HALF)], max_epochs=1).fit(plain, datamodule=digits())
    assert surgery_of(made.model) == surgery_of(plain.model) != []
    for name, value in plain.model.state_dict().items():
        torch.testing.assert_close(made.model.state_dict()[name], value, rtol=1e-3, atol=1e-5)


def test_one_round_at_the_start_is_fine_tuned(tmp_path: Path) -> None:
    made, watch = task(), Watch()
    trainer(tmp_path, [StructuredPruning(target={"macs": 0.6}, start=0.0, rounds=1), watch], max_epochs=1).fit(
        made, datamodule=digits()
    )
    model: Any = made.model
    with torch.random.fork_rng():
        dense = task(facts=made.facts.to_dict() if made.facts else None)
        dense.configure_model()
    assert len(set(watch.macs.values())) == 1
    assert watch.macs[1] <= 0.6 * count_macs(dense.model, torch.zeros(1, 1, 16, 16))
    assert count_parameters(model) < count_parameters(dense.model)


@pytest.mark.parametrize(
    ("pruning", "options", "arguments", "message"),
    [
        ({"target": {"macs": 0.001}}, {}, {}, "cannot be reached"),
        ({"rounds": 40}, {}, {}, r"40 round\(s\) between 0.1 and 0.5 of 12 steps leave none"),
        (
            {"importance": "taylor", "start": 0.0},
            {},
            {},
            "expected a step before the first round with importance taylor",
        ),
        ({"include": ["backbone.nowhere.*"]}, {}, {}, 'no layer matches "backbone.nowhere'),
        ({"exclude": [], "include": ["head.*"]}, {}, {}, "the output layer of the classifier"),
        (
            {},
            {},
            {"optimizer": {"name": "torch.optim.Adafactor", "lr": 0.01}},
            "which cannot be pruned to fewer channels",
        ),
    ],
    ids=str,
)
def test_invalid_arguments_raise(
    pruning: dict[str, Any], options: dict[str, Any], arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, [StructuredPruning(**{"rounds": 2} | pruning)], **options).fit(
            task(**arguments), datamodule=digits()
        )


def test_lightning_averaging_raises(tmp_path: Path) -> None:
    from pytorch_lightning.callbacks import EMAWeightAveraging

    with pytest.raises(UserError, match=r"expected EMA to average the weights, .* got EMAWeightAveraging"):
        trainer(tmp_path, [StructuredPruning(), EMAWeightAveraging()]).fit(task(), datamodule=digits())


TOGETHER = """
import pytorch_lightning as pl
import torch


class Together(pl.Callback):
    def __init__(self):
        self.steps = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps += 1
        for parameter in module.parameters():
            first = trainer.strategy.broadcast(parameter.detach().clone())
            assert torch.equal(first, parameter), f"step {self.steps}: the processes' weights differ"

    def on_train_end(self, trainer, module):
        print(f"process {trainer.global_rank}: the same weights at {self.steps} steps", flush=True)
"""


@pytest.mark.slow
def test_two_processes_continue_with_the_same_model(tmp_path: Path) -> None:
    """Gradients are averaged over both processes after a round. Otherwise their weights would differ."""
    (tmp_path / "together.py").write_text(TOGETHER)
    config = yaml.safe_load(TINY)
    config["trainer"] |= {"strategy": "ddp", "devices": 2, "accelerator": "cpu", "limit_train_batches": 4}
    config["trainer"]["callbacks"] = [
        {"class_path": "StructuredPruning", "init_args": {**HALF, "target": {"macs": 0.6}}},
        {"class_path": "EMA", "init_args": {"decay": 0.9}},
        "together.Together",
    ]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(config))
    others = ("PL_", "LOCAL_RANK", "MASTER_", "WORLD_SIZE")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(others)}
    done = subprocess.run(
        [Path(sys.executable).parent / "imgrec", "fit", "--config", "two.yaml", "--evaluate_after_fit", "false"],
        cwd=tmp_path,
        env=environment | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [f"process {rank}: the same weights at 8 steps" in done.stdout for rank in (0, 1)] == [True, True]
    assert "pruned after step 6, round 2 of 2" in done.stdout
