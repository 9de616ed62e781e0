"""Max-norm constraint: no filter exceeds the limit in training, averages, evaluation and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from imgrec import EMA, UserError
from imgrec.callbacks import MaxNorm
from imgrec.optim.max_norm import project_max_norm_
from tests.callbacks.small_training import digits, in_two_parts, same, task, trainer

LIMIT = 0.9


class Watch(pl.Callback):
    """Recorder of the largest filter norm after each step, with and without the constraint."""

    def __init__(self) -> None:
        self.longest: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.longest.append(longest(pl_module.state_dict()))


def longest(state: dict[str, Tensor]) -> float:
    weights = [value for name, value in state.items() if name.startswith("model.") and value.ndim > 1]
    return max(float(weight.flatten(1).norm(dim=1).max()) for weight in weights)


def test_only_filters_above_the_limit_are_scaled() -> None:
    weight = torch.randn(8, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    before = weight.clone()
    project_max_norm_([weight], 5.0)
    norms = before.flatten(1).norm(dim=1)
    assert 0 < int((norms > 5).sum()) < 8
    torch.testing.assert_close(weight.flatten(1).norm(dim=1), norms.clamp_max(5.0))
    torch.testing.assert_close(
        weight / weight.flatten(1).norm(dim=1)[:, None, None, None], before / norms[:, None, None, None]
    )
    zeros = torch.zeros(2, 3)
    project_max_norm_([zeros], 1.0)
    assert torch.equal(zeros, torch.zeros(2, 3))


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "sgd", "lr": 1.0},
        {"name": "adamw", "lr": 0.05},
        {"name": "sam", "base": {"name": "sgd", "lr": 0.5}},
        {"name": "lookahead", "every": 2, "base": {"name": "sgd", "lr": 1.0}},
    ],
    ids=lambda spec: str(spec["name"]),
)
def test_no_filter_exceeds_the_limit_after_any_step(optimizer: dict[str, Any], tmp_path: Path) -> None:
    def trained(callbacks: Sequence[pl.Callback]) -> tuple[list[float], float]:
        watch = Watch()
        made = trainer(tmp_path, [*callbacks, EMA(decay=0.5), watch], enable_checkpointing=False, max_epochs=1)
        made.fit(module := task(optimizer=optimizer), datamodule=digits())
        return watch.longest, longest(module.state_dict())

    free, at_the_end = trained([])
    assert max(free) > LIMIT
    held, at_the_end = trained([MaxNorm(LIMIT)])
    assert max(held) <= LIMIT * (1 + 1e-5)
    assert at_the_end <= LIMIT * (1 + 1e-5)


def test_scope_limits_only_its_parameters(tmp_path: Path) -> None:
    made = trainer(tmp_path, [MaxNorm(0.1, scope="head")], enable_checkpointing=False, max_epochs=1)
    made.fit(module := task(), datamodule=digits())
    state = module.state_dict()
    assert state["model.head.linear.weight"].norm(dim=1).max() <= 0.1 * (1 + 1e-5)
    assert longest({name: value for name, value in state.items() if "head" not in name}) > 0.5


def test_resumed_training_is_bit_equal(tmp_path: Path) -> None:
    first, second = in_two_parts(tmp_path, lambda: [MaxNorm(LIMIT)], at_step=7)
    assert same(first["state_dict"], second["state_dict"])
    assert same(first["optimizer_states"], second["optimizer_states"])


@pytest.mark.parametrize(
    ("callback", "model", "message"),
    [
        ({"scope": "nothing"}, {}, 'MaxNorm.scope: the pattern "nothing" matches no parameter'),
        ({"scope": "bn1"}, {}, "expected a weight of a convolution or a linear layer, got 'bn1'"),
        ({}, {"optimizer": {"name": "schedule_free_sgd", "lr": 0.1}}, "expected an optimizer without averaging"),
        ({}, {"edits": "weight_norm"}, "is computed from other tensors .weight normalization, LoRA."),
    ],
)
def test_invalid_arguments_raise(callback: dict[str, Any], model: dict[str, Any], message: str, tmp_path: Path) -> None:
    made = trainer(tmp_path, [MaxNorm(**callback)], enable_checkpointing=False)
    with pytest.raises(UserError, match=message):
        made.fit(task(**model), datamodule=digits())


def test_hooks_are_removed_at_the_end(tmp_path: Path) -> None:
    callback = MaxNorm(LIMIT)
    made = trainer(tmp_path, [callback], enable_checkpointing=False, max_epochs=1, limit_train_batches=1)
    made.fit(module := task(), datamodule=digits())
    with torch.no_grad():
        nn.init.constant_(module.model.head.linear.weight, 5.0)  # type: ignore[union-attr, arg-type]
    made.optimizers[0].step()
    assert longest(module.state_dict()) > LIMIT
