"""Sharpness-aware steps in training: statistics, accumulation, and interaction with other parts."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from imgrec import ClassificationTask, Pruning
from imgrec.compress.pruning.masks import sparsity_of
from imgrec.errors import UserError
from imgrec.optim import build_optimizer, sam_perturbation, sharpness_aware
from imgrec.tasks.precision_benchmark import PrecisionConfig, measure_precisions
from imgrec.tasks.sam_step import loss_scale, sam_loss
from imgrec.tasks.synthetic_step import temporary_copy
from imgrec.types import StepOutput
from tests.callbacks.small_training import BACKBONE, digits, trainer

SAM: dict[str, Any] = {"name": "sam", "rho": 0.5, "base": {"name": "sgd", "lr": 0.1}}


def task(optimizer: dict[str, Any], kind: type[ClassificationTask] = ClassificationTask, **more: Any) -> Any:
    given = {"backbone": BACKBONE, "normalize": "half", "schedule": "constant", **more}
    return kind(optimizer=optimizer, **given)


def fit(place: Path, module: Any, *callbacks: pl.Callback, **options: Any) -> Any:
    made = trainer(place, callbacks, **{"enable_checkpointing": False, "limit_val_batches": 0, **options})
    made.fit(module, datamodule=digits())
    return made


class Watch(pl.Callback):
    """The batches of a step, the network before it, and the gradients that the optimizer is given."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.before: nn.Module | None = None
        self.gradients: list[Tensor] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.before = self.before or copy.deepcopy(pl_module.model)
        self.batches.append(batch)

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradients = [p.grad.clone() for p in pl_module.model.parameters()]


def gradients_at_worst_points(network: nn.Module, batches: list[Any], rho: float) -> list[Tensor]:
    """Return the mean over batches of the gradient at the perturbed weights of each batch, by a separate loop."""
    begun = copy.deepcopy(network.state_dict())
    weights = list(network.parameters())
    total = [torch.zeros_like(w) for w in weights]
    for batch in batches:
        for way in (True, False):
            loss = nn.functional.cross_entropy(network(batch.images), batch.targets)
            found = torch.autograd.grad(loss, weights)
            if way:
                with torch.no_grad():
                    for w, step in zip(weights, sam_perturbation(weights, found, rho), strict=True):
                        w.add_(step)
        total = [t + g / len(batches) for t, g in zip(total, found, strict=True)]
        network.load_state_dict(begun)
    return total


@pytest.mark.parametrize("accumulated", [1, 2])
def test_gradients_at_the_perturbed_weights_of_each_batch_are_accumulated(accumulated: int, tmp_path: Path) -> None:
    watch = Watch()
    module = task(SAM, backbone={**BACKBONE, "drop_rate": 0.0})
    fit(tmp_path, module, watch, accumulate_grad_batches=accumulated, max_steps=1, max_epochs=-1)
    assert watch.before is not None
    assert len(watch.batches) == accumulated
    expected = gradients_at_worst_points(watch.before.train(), watch.batches, rho=0.5)
    for ours, theirs in zip(watch.gradients, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


def test_only_the_first_pass_counts(tmp_path: Path) -> None:
    """Training with a learning rate of 0 has the statistics and metrics of a plain optimizer."""
    left = []
    for optimizer in (SAM["base"], SAM):
        module = task({**optimizer, "lr": 0.0} if optimizer is not SAM else {**SAM, "base": {"name": "sgd", "lr": 0.0}})
        made = fit(tmp_path, module, accumulate_grad_batches=2, max_epochs=1)
        left.append((module.state_dict(), {k: float(v) for k, v in made.callback_metrics.items()}))
    (plain, figures), (sharp, sharp_figures) = left
    torch.testing.assert_close(sharp, plain, rtol=0, atol=0)
    assert sharp_figures == figures
    assert "train/acc" in figures


class Noted(ClassificationTask):
    """A task that stores the losses of all passes."""

    def compute_loss(self, output: StepOutput) -> Tensor:
        loss = super().compute_loss(output)
        self.noted = [*getattr(self, "noted", []), float(loss.detach())]
        return loss


def test_both_passes_drop_the_same_units_and_the_second_loss_is_higher(tmp_path: Path) -> None:
    near = task({**SAM, "rho": 1e-7}, Noted)
    fit(tmp_path, near, max_epochs=1)
    assert near.noted[::2] == pytest.approx(near.noted[1::2], rel=1e-5)
    far = task({**SAM, "rho": 0.1}, Noted)
    fit(tmp_path, far, max_epochs=1)
    assert all(second > first for first, second in zip(far.noted[::2], far.noted[1::2], strict=True))


def test_a_gradient_scaler_does_not_change_the_perturbation() -> None:
    images, places = torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=4096.0)):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = sharpness_aware(build_optimizer(SAM, model))
        assert optimizer is not None

        def objective(model: nn.Module = model) -> Tensor:
            value: Tensor = model(images).square().mean()
            return value

        scale = loss_scale(SimpleNamespace(precision_plugin=SimpleNamespace(scaler=scaler)))
        loss = sam_loss(optimizer, model, objective, objective, scale)
        places.append((loss.detach(), model.weight.detach().clone()))
        assert model.weight.grad is None
        optimizer.restore()
    torch.testing.assert_close(places[0], places[1])


def test_masked_weights_stay_zero_after_the_perturbation(tmp_path: Path) -> None:
    class Zeros(pl.Callback):
        """Callback that counts zeros after the second pass."""

        def __init__(self) -> None:
            self.seen: list[float] = []

        def on_before_backward(self, trainer: Any, pl_module: Any, loss: Tensor) -> None:
            layers = {n: p for n, p in pl_module.model.named_parameters() if p.ndim == 4}
            self.seen.append(sparsity_of(layers))

    zeros = Zeros()
    fit(tmp_path, task(SAM), Pruning(sparsity=0.8, start=0.0, end=0.5, every_n_steps=1), zeros, max_epochs=1)
    assert zeros.seen[0] < 0.1  # before any mask
    assert zeros.seen[-1] > 0.5


def test_the_duration_of_a_step_can_be_measured(tmp_path: Path) -> None:
    data = digits()
    data.setup("fit")
    with temporary_copy(task(SAM), data.facts, torch.device("cpu")) as built:
        ways = [PrecisionConfig("32-true", False), PrecisionConfig("bf16-mixed", False)]
        assert set(measure_precisions(built, 8, ways, budget=0.05).seconds) == set(ways)


def test_sharded_weights_raise(tmp_path: Path) -> None:
    module = task(SAM)
    fit(tmp_path, module, max_steps=1, max_epochs=-1)
    module._device_mesh = object()  # as ModelParallelStrategy leaves one
    with pytest.raises(UserError, match=r"^model\.optimizer: expected an optimizer without a copy .* got sam\."):
        module.configure_optimizers()


SCRIPT = """
import sys
import torch
from tests.callbacks.small_training import BACKBONE, digits, trainer
from tests.tasks.test_sam_step import SAM, Watch, task

watch = Watch()
made = trainer(
    sys.argv[1], [watch], strategy="ddp", devices=2, max_steps=1, max_epochs=-1, limit_val_batches=0,
    enable_checkpointing=False,
)
made.fit(task(SAM, backbone={**BACKBONE, "drop_rate": 0.0}), datamodule=digits())
kept = {"before": watch.before.state_dict(), "batch": watch.batches[0], "gradients": watch.gradients}
torch.save(kept, f"{sys.argv[1]}/rank{made.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_reduce_the_gradients_of_the_second_pass_only(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PL_", "LOCAL_RANK", "MASTER_", "WORLD"))}
    done = subprocess.run(
        [sys.executable, "script.py", str(tmp_path)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PL_GLOBAL_SEED": "0"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    kept = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert set(kept[0]["batch"].ids).isdisjoint(kept[1]["batch"].ids)
    data = digits()
    data.setup("fit")
    module = task(SAM, backbone={**BACKBONE, "drop_rate": 0.0}, facts=data.facts.to_dict())
    module.configure_model()
    module.model.load_state_dict(kept[0]["before"])
    expected = gradients_at_worst_points(module.model.train(), [each["batch"] for each in kept], rho=0.5)
    for each in kept:
        for ours, theirs in zip(each["gradients"], expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
