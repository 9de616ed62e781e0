"""Gradients over several batches: the mean over the samples, at the end of an epoch and in smaller batches too."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from torch.utils.data import DataLoader

from imgrec import ClassificationTask
from imgrec.callbacks import PositionalSeeding, ResumeState
from imgrec.tasks import BaseTask
from imgrec.types import Batch
from tests.tasks.conftest import TINY, make_digits, run_fit


class Steps(pl.Callback):
    """Callback that stores the network, the batches and the gradient of each optimizer step."""

    def __init__(self) -> None:
        self.batches: list[list[Batch]] = [[]]
        self.networks: list[Any] = []
        self.gradients: list[torch.Tensor] = []

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches[-1].append(batch)

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        network: Any = pl_module.model
        self.networks.append(copy.deepcopy(network))
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        self.gradients.append(torch.cat([g.reshape(-1) for g in gradients]).clone())
        self.batches.append([])

    def expected(self) -> list[torch.Tensor]:
        """Compute the gradient of the mean loss over the samples of each step."""
        found = []
        for network, batches in zip(self.networks, self.batches, strict=False):
            samples = sum(len(batch) for batch in batches)
            loss: Any = sum(F.cross_entropy(network(b.images), b.targets, reduction="sum") for b in batches)
            parameters = [p for p in network.parameters() if p.requires_grad]
            gradients = torch.autograd.grad(loss / samples, parameters)
            found.append(torch.cat([g.reshape(-1) for g in gradients]))
        return found


def task(**given: Any) -> BaseTask:
    """Return a task without batch normalization, so that the gradient of a sample does not depend on its batch."""
    pl.seed_everything(0, verbose=False)
    backbone = {**TINY, "norm_layer": "groupnorm1"}
    return ClassificationTask(
        **{"backbone": backbone, "normalize": "half", "optimizer": {"name": "sgd", "lr": 0.1}, **given}
    )


DATA = {"batch_size": 256}
SIZES = (16, 16, 16, 16, 16, 6)


def batches_of_unequal_sizes() -> list[Batch]:
    """Return random images with random labels. The last batch is smaller, as in a loader without ``drop_last``."""
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            images=torch.randint(256, (size, 1, 16, 16), generator=generator, dtype=torch.uint8),
            targets=torch.randint(10, (size,), generator=generator),
            ids=tuple(map(str, range(size))),
            keys=torch.arange(size),
        )
        for size in SIZES
    ]


@pytest.mark.parametrize("accumulate", [1, 2, 4, 5, 100])
def test_each_step_has_the_mean_gradient_of_its_samples(accumulate: int, monkeypatch: pytest.MonkeyPatch) -> None:
    steps, data = Steps(), make_digits(**DATA)
    loader = DataLoader(batches_of_unequal_sizes(), batch_size=None)  # type: ignore[arg-type, var-annotated]
    monkeypatch.setattr(data, "train_dataloader", lambda: loader)
    options = {"limit_train_batches": 1.0, "limit_val_batches": 0, "callbacks": [steps]}
    run_fit(task(), data, accumulate_grad_batches=accumulate, **options)
    assert [len(batch) for batches in steps.batches for batch in batches] == list(SIZES)
    assert len(steps.gradients) == -(-len(SIZES) // accumulate)
    for found, expected in zip(steps.gradients, steps.expected(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_schedule_of_accumulation_and_a_wrapped_optimizer(precision: str) -> None:
    steps = Steps()
    run_fit(
        task(optimizer={"name": "sam", "rho": 1e-9, "base": {"name": "sgd", "lr": 0.1}}),
        make_digits(batch_size=8),
        limit_train_batches=5,
        limit_val_batches=0,
        max_epochs=2,
        precision=precision,
        callbacks=[steps, GradientAccumulationScheduler({0: 3, 1: 4})],
    )
    assert [len(batches) for batches in steps.batches] == [3, 2, 4, 1, 0]
    tolerance = 1e-3 if precision == "32-true" else 0.1
    for found, expected in zip(steps.gradients, steps.expected(), strict=True):
        assert (found - expected).norm() < tolerance * expected.norm()


def test_a_checkpoint_within_an_accumulation_resumes_exactly(tmp_path: Path) -> None:
    class Save(pl.Callback):
        def on_train_batch_end(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if batch_idx == 4:
                trainer.save_checkpoint(tmp_path / "within.ckpt")

    def run(*callbacks: pl.Callback, **more: Any) -> dict[str, torch.Tensor]:
        made = task()
        options = {"limit_train_batches": 1.0, "accumulate_grad_batches": 4, "callbacks": [ResumeState(), *callbacks]}
        run_fit(made, make_digits(**DATA), **options, **more)
        return made.state_dict()

    whole = run(Save(), PositionalSeeding())
    made = task()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=1,
        accumulate_grad_batches=4,
        callbacks=[ResumeState(), PositionalSeeding()],
    )
    trainer.fit(made, make_digits(**DATA), ckpt_path=tmp_path / "within.ckpt", weights_only=True)
    torch.testing.assert_close(made.state_dict(), whole, rtol=0, atol=0)
