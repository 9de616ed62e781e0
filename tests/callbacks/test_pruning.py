"""Pruning during training: zeros in validation and checkpoints, exact resume, scores of the gradients."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from types import SimpleNamespace
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint, StochasticWeightAveraging
from pytorch_lightning.strategies import FSDPStrategy
from safetensors.torch import load_file

from imgrec import EMA, BestCheckpoint, Pruning, RunFolder, UserError
from imgrec.callbacks.compression.model_surgery import reset_best
from imgrec.callbacks.compression.structured_pruning import StructuredPruning
from imgrec.callbacks.nan_guard.replay import RecordedStep, Replay, take_snapshot
from tests.callbacks.pruning_history import fit, prunable, size, zeros
from tests.callbacks.small_training import digits, in_two_parts, same, task, trainer

Cli = Callable[..., "CompletedProcess[str]"]
STEPS = 12
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]


@pytest.mark.parametrize("ema_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_zeros_in_training_validation_and_checkpoints(ema_first: bool, tmp_path: Path) -> None:
    both: list[pl.Callback] = [Pruning(0.8, every_n_steps=2, start=0.1, end=0.6), EMA(decay=0.9)]
    history, module, checkpoint, _ = fit(tmp_path, both[:: -1 if ema_first else 1], accumulate_grad_batches=1)
    count = size(history.after[0])
    # masks are computed at steps 1, 3, 5 and 7 of 12, on the cubic schedule
    for step, state in enumerate(history.after):
        decided = max((each for each in (1, 3, 5, 7) if each <= step), default=1)
        share = 0.8 * (1 - (1 - (decided - 1) / 6) ** 3)
        assert zeros(state) == count - round((1 - share) * count), step
    for before, after in zip(history.after, history.after[1:], strict=False):
        assert all(bool((after[name][value == 0] == 0).all()) for name, value in before.items())
    at_last = {name: value == 0 for name, value in history.after[-1].items()}
    kept = [checkpoint["state_dict"], checkpoint["current_model_state"], dict(module.state_dict())]
    for state in (*kept, history.validated[-1]):
        found = prunable(state)
        assert zeros(found) == round(0.8 * count)
        assert all(torch.equal(found[name] == 0, gone) for name, gone in at_last.items())
    masks = checkpoint["callbacks"]["Pruning"]["masking"]["masks"]
    assert all(torch.equal(~masks[name], gone) for name, gone in at_last.items())
    assert torch.equal(checkpoint["state_dict"]["model.head.linear.weight"] == 0, torch.zeros(10, 8).bool())


@pytest.mark.parametrize(
    "arguments",
    [
        {"criterion": "taylor", "score_steps": 2},
        {"criterion": "movement", "start": 0.0, "end": 0.9},
        pytest.param({"criterion": "magnitude", "every_n_steps": 2}, marks=pytest.mark.slow),
        pytest.param({"criterion": "snip", "schedule": "linear", "start": 0.2, "end": 0.9}, marks=pytest.mark.slow),
        pytest.param({"criterion": "random", "scope": "layer", "schedule": "linear"}, marks=pytest.mark.slow),
        pytest.param({"pattern": "2:4", "start": 0.6}, marks=pytest.mark.slow),
    ],
    ids=lambda each: each.get("criterion", "pattern"),
)
def test_resumed_run_is_bit_equal(arguments: dict[str, Any], tmp_path: Path) -> None:
    first, second = in_two_parts(tmp_path, lambda: [Pruning(**arguments), EMA(decay=0.9)], at_step=5)
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        assert same(first[part], second[part]), part
    assert same(first["callbacks"]["Pruning"], second["callbacks"]["Pruning"])
    counted = prunable(second["state_dict"])
    assert zeros(counted) / size(counted) == pytest.approx(0.5 if "pattern" in arguments else 0.9, abs=0.01)


def test_resumed_run_is_sparse_from_its_first_step(tmp_path: Path) -> None:
    """The pruning callback of Lightning changed from 0.49 to 0 here."""
    _, _, checkpoint, _ = fit(tmp_path, [Pruning(0.5, schedule="one_shot", start=0.0)], max_epochs=1)
    pruning = Pruning(0.5, schedule="one_shot", start=0.0)
    history, _, _, _ = fit(tmp_path / "again", [pruning], resume=tmp_path / "last.ckpt")
    assert len(history.after) == STEPS // 2
    gone = zeros(prunable(checkpoint["state_dict"]))
    assert [zeros(state) for state in (history.weights[0], *history.after)] == [gone] * (1 + STEPS // 2)


def test_snip_uses_the_gradients_of_the_first_step(tmp_path: Path) -> None:
    history, _, _, _ = fit(
        tmp_path, [Pruning(0.5, "snip")], accumulate_grad_batches=2, gradient_clip_val=1e-3, max_epochs=1
    )
    names = list(history.weights[0])
    scores = torch.cat([(history.weights[0][name] * history.gradients[0][name]).abs().flatten() for name in names])
    kept = torch.zeros_like(scores).index_fill_(0, scores.argsort(descending=True)[: round(0.5 * len(scores))], 1)
    after = torch.cat([history.after[1][name].flatten() for name in names])
    ties = (scores == scores.sort().values[round(0.5 * len(scores))]).sum()
    assert int(((after != 0) != kept.bool()).sum()) <= 2 * int(ties)
    assert int((after == 0).sum()) == len(after) - round(0.5 * len(after))
    assert len({name: None for state in history.after for name in state}) == 12


def test_masked_weights_have_no_gradient_and_no_effect_on_the_norm(tmp_path: Path) -> None:
    class Norm(pl.Callback):
        def __init__(self) -> None:
            self.norms: list[float] = []

        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.norms.append(float(torch.stack([each.norm() for each in gradients]).norm()))

    norm = Norm()
    _, _, checkpoint, _ = fit(
        tmp_path, [Pruning(0.9, schedule="one_shot", start=0.0), norm], gradient_clip_val=1e-2, max_epochs=1
    )
    assert norm.norms == pytest.approx([1e-2] * 6, rel=1e-3)  # all of it among the weights that stay
    masks = checkpoint["callbacks"]["Pruning"]["masking"]["masks"]
    state = checkpoint["optimizer_states"][0]["state"]
    moments = [each["exp_avg"] for each in state.values()]
    for mask in masks.values():
        its = [m for m in moments if m.shape == mask.shape and not bool(m[~mask].any())]
        assert any(bool(moment[mask].any()) for moment in its)


def test_only_movement_restores_weights(tmp_path: Path) -> None:
    def returns(criterion: Any) -> int:
        history, _, _, _ = fit(tmp_path, [Pruning(0.9, criterion, start=0.0, end=0.9)])
        pairs = zip(history.after, history.after[1:], strict=False)
        return sum(int(((b[n] != 0) & (a[n] == 0)).sum()) for a, b in pairs for n in a)

    assert returns("movement") > 0
    assert returns("taylor") == 0


def test_two_of_four_pattern_holds_to_the_end(tmp_path: Path) -> None:
    _, _, checkpoint, _ = fit(tmp_path, [Pruning(pattern="2:4", start=0.3)])
    for name, mask in checkpoint["callbacks"]["Pruning"]["masking"]["masks"].items():
        weight = checkpoint["state_dict"][name]
        groups = (weight != 0).movedim(1, -1).reshape(-1, weight.shape[1] // 4, 4)
        assert int(groups.sum(-1).max()) == 2
        assert mask.float().mean() == 0.5


# ---------------------------------------------------------------- what is best


class Falling(pl.Callback):
    """Callback that logs a metric that is best in the first epoch."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/falling", 1.0 - 0.1 * trainer.current_epoch)


def test_best_checkpoint_has_the_final_sparsity(tmp_path: Path) -> None:
    best = BestCheckpoint(monitor="val/falling", tie_breaker="val/loss", dirpath=str(tmp_path))
    patient = EarlyStopping("val/falling", mode="max", patience=2)
    run = trainer(tmp_path, [Falling(), Pruning(0.8, end=0.5, every_n_steps=1), best, patient], max_epochs=6)
    run.fit(task(), datamodule=digits())
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    # 36 steps, the last decision is at step 18, so that the epochs 0 to 2 are no candidates
    assert checkpoint["epoch"] == 3
    counted = prunable(checkpoint["state_dict"])
    assert zeros(counted) == round(0.8 * size(counted))
    assert run.current_epoch == 6  # it is best in epoch 3, and waits for two more


def test_best_score_and_patience_are_reset() -> None:
    best: Any = ModelCheckpoint(monitor="val/loss", mode="min")
    best.best_model_path, best.best_model_score = "a.ckpt", torch.tensor(0.1)
    best.best_k_models, best.kth_value = {"a.ckpt": torch.tensor(0.1)}, torch.tensor(0.1)
    every = ModelCheckpoint(every_n_train_steps=3)
    every.best_model_path = "b.ckpt"
    patient = EarlyStopping("val/acc", mode="max")
    patient.best_score, patient.wait_count = torch.tensor(0.9), 2
    reset_best(cast(pl.Trainer, SimpleNamespace(callbacks=[best, every, patient])))
    assert best.best_model_path == ""
    assert best.best_model_score is None
    assert best.best_k_models == {}
    assert float(best.kth_value) == float("inf")
    assert every.best_model_path == "b.ckpt"
    assert (float(patient.best_score), patient.wait_count) == (-float("inf"), 0)


# ---------------------------------------------------------------- together with others


def test_repeated_steps_have_the_same_masks(tmp_path: Path) -> None:
    """Repeat the steps as NaNGuard, from the snapshot of step 3 to step 7, with new masks at steps 5 and 7."""

    class Repeating(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            if trainer.global_step == 3:
                self.snapshot = take_snapshot(trainer)
                self.modes = {name: part.training for name, part in pl_module.named_modules()}
            if trainer.global_step == 8:
                self.then = {name: value.clone() for name, value in pl_module.state_dict().items()}
                with Replay(trainer, pl_module, self.snapshot, self.modes) as replay:
                    for step in range(3, 8):
                        at = RecordedStep(step // 6, step % 6, step, ())
                        replay.run(at, replay.batch_of(at))
                self.again = {name: value.clone() for name, value in pl_module.state_dict().items()}
                trainer.should_stop = True

    repeating = Repeating()
    run = trainer(
        tmp_path,
        [repeating, Pruning(0.8, "movement", start=0.2, end=0.7, every_n_steps=2)],
        enable_checkpointing=False,
        min_epochs=1,
    )
    run.fit(task(), datamodule=digits())
    assert zeros(prunable(repeating.then)) > 0
    assert same(repeating.then, repeating.again)


def test_callbacks_that_change_zeros_raise() -> None:
    for averaging in (EMAWeightAveraging(), StochasticWeightAveraging(swa_lrs=0.1)):
        there = SimpleNamespace(strategy=None, callbacks=[averaging])
        with pytest.raises(UserError, match="expected EMA to average the weights, as Pruning"):
            Pruning().setup(cast(pl.Trainer, there), pl.LightningModule(), "fit")
    sharding = SimpleNamespace(strategy=FSDPStrategy(), callbacks=[])
    with pytest.raises(UserError, match="which Pruning requires, got FSDPStrategy"):
        Pruning().setup(cast(pl.Trainer, sharding), pl.LightningModule(), "fit")


@pytest.mark.parametrize(
    ("pruning", "message"),
    [
        (Pruning(0.5, end=0.3), "Set end: 0.5 or more"),
        (Pruning(pattern="2:4"), "Set start: 0.5 or more"),
        (Pruning(0.5, ticket="a"), "Remove one of them"),
    ],
)
def test_masks_must_end_after_the_last_round(pruning: Pruning, message: str) -> None:
    there = SimpleNamespace(strategy=None, callbacks=[StructuredPruning(end=0.5), pruning])
    with pytest.raises(UserError, match=message):
        pruning.setup(cast(pl.Trainer, there), pl.LightningModule(), "fit")
    Pruning(0.5, end=0.5).setup(cast(pl.Trainer, there), pl.LightningModule(), "fit")


@pytest.mark.slow
def test_channels_are_removed_with_their_masks(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    callbacks = (
        "[{class_path: StructuredPruning, target: {macs: 0.6}, start: 0.3, end: 0.5, rounds: 2},"
        "{class_path: Pruning, sparsity: 0.75, start: 0.1, end: 0.7, every_n_steps: 1},"
        "{class_path: EMA, decay: 0.9}]"
    )
    done = cli("fit", "--config", tiny, "--trainer.callbacks", callbacks)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs/tiny").iterdir()
    summary = RunFolder(path).summary["pruning"]
    assert summary["parameters"] < 12890
    assert summary["sparsity"] == pytest.approx(0.75, abs=1e-3)
    checkpoint = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
    for part in ("state_dict", "current_model_state"):
        found = [checkpoint[part][name] for name in checkpoint["callbacks"]["Pruning"]["masking"]["masks"]]
        assert sum(int((weight == 0).sum()) for weight in found) == summary["zeros"]


def test_run_reports_its_sparsity(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    words = ["fit", "--config", tiny, "--trainer.callbacks"]
    wrong = cli(*words, "[{class_path: Pruning, include: [layer9*]}]")
    assert wrong.returncode == 2
    assert 'Pruning: "layer9*" matches no layer. The layers are backbone.network.conv1' in wrong.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]

    done = cli(*words, "[{class_path: Pruning, sparsity: 0.75, exclude: []}]")
    assert done.returncode == 0, done.stderr
    assert "Pruning: 0.75 by magnitude, of 12,560 weights in 14 layers, including the output layer" in done.stderr
    assert "pruned: 75.00 % of 12,560 weights in 14 layers are zero" in done.stderr
    (path,) = (tmp_path / "runs/tiny").iterdir()
    run = RunFolder(path)
    summary = {"sparsity": 0.75, "weights": 12560, "layers": 14, "zeros": 9420, "parameters": 12890}
    assert run.summary["pruning"] == {**summary, "criterion": "magnitude"}
    assert run.metrics()["train/sparsity"].values[-1] == pytest.approx(0.75)
    stored = load_file(path / "model/model.safetensors")
    assert sum(int((v == 0).sum()) for n, v in stored.items() if v.dim() > 1) == 9420


def test_pattern_that_does_not_match_a_layer_raises(cli: Cli, tiny: Path) -> None:
    words = ["fit", "--config", tiny, "--trainer.fast_dev_run", "true", "--trainer.callbacks"]
    done = cli(*words, '[{class_path: Pruning, pattern: "2:4", exclude: [head*]}]')
    assert done.returncode == 0, done.stderr
    assert "Pruning: 2:4 does not divide the inputs of these dense layers: backbone.network.conv1\n" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["taylor", "random"])
def test_two_processes_have_the_same_masks(criterion: str, installed: Cli, tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "watching.py").write_text(
        "import pytorch_lightning as pl\n"
        "import torch\n\n\n"
        "class Watching(pl.Callback):\n"
        "    def on_train_end(self, trainer, module):\n"
        "        (pruning,) = [c for c in trainer.callbacks if type(c).__name__ == 'Pruning']\n"
        "        state = {'own': module.state_dict(), 'pruning': pruning.state_dict()}\n"
        "        torch.save(state, f'{trainer.global_rank}.pt')\n"
    )
    callbacks = f"[watching.Watching, {{class_path: Pruning, criterion: {criterion}, every_n_steps: 1}}]"
    done = installed("fit", "--config", tiny, *DDP, "--trainer.callbacks", callbacks, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert same(first["pruning"], second["pruning"])
    weights = prunable(first["own"])
    assert same(weights, prunable(second["own"]))
    assert zeros(weights) == round(0.9 * size(weights))
    (path,) = (tmp_path / "runs/tiny").iterdir()
    assert json.loads((path / "summary.json").read_text())["pruning"]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert done.stderr.count("Pruning: 0.9 by") == 1
