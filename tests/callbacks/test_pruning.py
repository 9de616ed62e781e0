"""Pruning in training: zeros in all that is validated and kept, exact resume, scores of the optimizer's gradients."""

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
from imgrec.callbacks.nan_guard.replay import Replay, Step, take_snapshot
from tests.callbacks.pruning_history import fit, prunable, size, zeros
from tests.callbacks.small_training import digits, in_two_parts, same, task, trainer

Cli = Callable[..., "CompletedProcess[str]"]
STEPS = 12
DDP = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]


@pytest.mark.parametrize("ema_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_zeros_are_in_all_that_is_trained_validated_and_kept(ema_first: bool, tmp_path: Path) -> None:
    both: list[pl.Callback] = [Pruning(0.8, every_n_steps=2, start=0.1, end=0.6), EMA(decay=0.9)]
    history, module, checkpoint, _ = fit(tmp_path, both[:: -1 if ema_first else 1], accumulate_grad_batches=1)
    count = size(history.after[0])
    # decisions at steps 1, 3, 5 and 7 of 12; the paper's curve between
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
def test_a_resumed_run_ends_in_the_same_zeros(arguments: dict[str, Any], tmp_path: Path) -> None:
    first, second = in_two_parts(tmp_path, lambda: [Pruning(**arguments), EMA(decay=0.9)], at_step=5)
    for part in ("state_dict", "current_model_state", "optimizer_states"):
        assert same(first[part], second[part]), part
    assert same(first["callbacks"]["Pruning"], second["callbacks"]["Pruning"])
    counted = prunable(second["state_dict"])
    assert zeros(counted) / size(counted) == pytest.approx(0.5 if "pattern" in arguments else 0.9, abs=0.01)


def test_a_resumed_run_is_as_sparse_at_once_as_it_was(tmp_path: Path) -> None:
    """Lightning's own pruning went from 0.49 to nothing here."""
    _, _, checkpoint, _ = fit(tmp_path, [Pruning(0.5, schedule="one_shot", start=0.0)], max_epochs=1)
    pruning = Pruning(0.5, schedule="one_shot", start=0.0)
    history, _, _, _ = fit(tmp_path / "again", [pruning], resume=tmp_path / "last.ckpt")
    assert len(history.after) == STEPS // 2
    gone = zeros(prunable(checkpoint["state_dict"]))
    assert [zeros(state) for state in (history.weights[0], *history.after)] == [gone] * (1 + STEPS // 2)


def test_snip_prunes_before_the_first_step_by_the_gradients_of_the_whole_step(tmp_path: Path) -> None:
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


def test_masked_weights_have_no_gradient_and_count_in_no_norm(tmp_path: Path) -> None:
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


def test_weights_come_back_under_movement_and_no_other_criterion(tmp_path: Path) -> None:
    def returns(criterion: Any) -> int:
        history, _, _, _ = fit(tmp_path, [Pruning(0.9, criterion, start=0.0, end=0.9)])
        pairs = zip(history.after, history.after[1:], strict=False)
        return sum(int(((b[n] != 0) & (a[n] == 0)).sum()) for a, b in pairs for n in a)

    assert returns("movement") > 0
    assert returns("taylor") == 0


def test_a_pattern_of_two_in_four_holds_to_the_end(tmp_path: Path) -> None:
    _, _, checkpoint, _ = fit(tmp_path, [Pruning(pattern="2:4", start=0.3)])
    for name, mask in checkpoint["callbacks"]["Pruning"]["masking"]["masks"].items():
        weight = checkpoint["state_dict"][name]
        groups = (weight != 0).movedim(1, -1).reshape(-1, weight.shape[1] // 4, 4)
        assert int(groups.sum(-1).max()) == 2
        assert mask.float().mean() == 0.5


# ---------------------------------------------------------------- what is best


class Falling(pl.Callback):
    """Logs a metric that is best in the first epoch."""

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/falling", 1.0 - 0.1 * trainer.current_epoch)


def test_what_is_kept_as_best_is_as_sparse_as_the_end(tmp_path: Path) -> None:
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


def test_best_and_patience_begin_anew() -> None:
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


def test_steps_that_are_repeated_are_pruned_as_they_were(tmp_path: Path) -> None:
    """What NaNGuard does: from the copy of step 3 to step 7, over the decisions of steps 5 and 7."""

    class Repeating(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            if trainer.global_step == 3:
                self.snapshot = take_snapshot(trainer)
                self.modes = {name: part.training for name, part in pl_module.named_modules()}
            if trainer.global_step == 8:
                self.then = {name: value.clone() for name, value in pl_module.state_dict().items()}
                with Replay(trainer, pl_module, self.snapshot, self.modes) as replay:
                    for step in range(3, 8):
                        at = Step(step // 6, step % 6, step, ())
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


def test_what_would_fill_the_zeros_again_is_refused() -> None:
    for averaging in (EMAWeightAveraging(), StochasticWeightAveraging(swa_lrs=0.1)):
        there = SimpleNamespace(strategy=None, callbacks=[averaging])
        with pytest.raises(UserError, match="expected EMA to average the weights, as Pruning"):
            Pruning().setup(cast(pl.Trainer, there), pl.LightningModule(), "fit")
    sharding = SimpleNamespace(strategy=FSDPStrategy(), callbacks=[])
    with pytest.raises(UserError, match="which Pruning requires, got FSDPStrategy"):
        Pruning().setup(cast(pl.Trainer, sharding), pl.LightningModule(), "fit")


@pytest.mark.parametrize(
    ("pruning", "said"),
    [
        (Pruning(0.5, end=0.3), "Set end: 0.5 or more"),
        (Pruning(pattern="2:4"), "Set start: 0.5 or more"),
        (Pruning(0.5, ticket="a"), "Remove one of them"),
    ],
)
def test_masks_end_after_the_last_channels_are_gone(pruning: Pruning, said: str) -> None:
    there = SimpleNamespace(strategy=None, callbacks=[StructuredPruning(end=0.5), pruning])
    with pytest.raises(UserError, match=said):
        pruning.setup(cast(pl.Trainer, there), pl.LightningModule(), "fit")
    Pruning(0.5, end=0.5).setup(cast(pl.Trainer, there), pl.LightningModule(), "fit")


@pytest.mark.slow
def test_channels_are_taken_out_beneath_the_masks(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    callbacks = (
        "[{class_path: StructuredPruning, target: {macs: 0.6}, start: 0.3, end: 0.5, rounds: 2},"
        "{class_path: Pruning, sparsity: 0.75, start: 0.1, end: 0.7, every_n_steps: 1},"
        "{class_path: EMA, decay: 0.9}]"
    )
    done = cli("fit", "--config", tiny, "--trainer.callbacks", callbacks)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs/tiny").iterdir()
    told = RunFolder(path).summary["pruning"]
    assert told["parameters"] < 12890
    assert told["sparsity"] == pytest.approx(0.75, abs=1e-3)
    checkpoint = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
    for part in ("state_dict", "current_model_state"):
        found = [checkpoint[part][name] for name in checkpoint["callbacks"]["Pruning"]["masking"]["masks"]]
        assert sum(int((weight == 0).sum()) for weight in found) == told["zeros"]


def test_a_run_says_how_sparse_it_is(cli: Cli, tiny: Path, tmp_path: Path) -> None:
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
    told = {"sparsity": 0.75, "weights": 12560, "layers": 14, "zeros": 9420, "parameters": 12890}
    assert run.summary["pruning"] == {**told, "criterion": "magnitude"}
    assert run.metrics()["train/sparsity"].values[-1] == pytest.approx(0.75)
    stored = load_file(path / "model/model.safetensors")
    assert sum(int((v == 0).sum()) for n, v in stored.items() if v.dim() > 1) == 9420


def test_a_pattern_that_does_not_fit_a_layer_names_it(cli: Cli, tiny: Path) -> None:
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
