"""Contract of every optimizer with every callback that freezes, masks, prunes or quantizes during training."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import timm.optim
import torch
from torch import Tensor, nn

from imgrec import QAT, ClassificationTask, Freeze, GradualUnfreezing, ImageDataModule, Pruning, StructuredPruning
from imgrec.models import Backbone
from imgrec.optim import OPTIMIZERS
from imgrec.optim.optimizers.registry import unavailable
from tests.callbacks.small_training import trainer

_TIMM: Any = timm.optim
WRAPPERS = ("sam", "asam", "lookahead")
COMPILED = "kron"
"""Variants of kron compile themselves, which takes a minute."""
TIMM = [name for name in _TIMM.list_optimizers() if unavailable(name) is None and COMPILED not in name]


def spec_of(name: str) -> dict[str, Any]:
    return {"name": name, "base": {"name": "momentum", "lr": 0.01}} if name in WRAPPERS else {"name": name, "lr": 0.01}


# ------------------------------------------------------------------ the optimizer alone, timm's included


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3))


def step(optimizer: Any, model: nn.Module, frozen: set[str], seed: int) -> None:
    """Run one step with random gradients, which the closure computes as in training."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)

    def closure() -> float:
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.grad = None if name in frozen else drawn
        return 0.0

    optimizer.step(closure)
    optimizer.zero_grad()


@pytest.mark.parametrize("name", sorted({*OPTIMIZERS.names(), *TIMM}))
def test_optimizer_supports_parameters_that_freeze_and_lose_their_state(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = network()
        optimizer: Any = OPTIMIZERS.build(spec_of(name), model=model)
        body = {"0.weight", "0.bias", "1.weight", "1.bias"}
        for i, frozen in enumerate([body] * 3 + [{"0.weight"}] * 3 + [set()] * 3 + [{"3.weight"}] * 2 + [set()] * 2):
            before = {n: p.detach().clone() for n, p in model.named_parameters()}
            step(optimizer, model, frozen, seed=i)
            assert all(torch.equal(before[n], p) for n, p in model.named_parameters() if n in frozen)
        begun = network().state_dict()
        assert all(not torch.equal(begun[n], p) for n, p in model.named_parameters())
        optimizer.state.pop(model[0].weight, None)  # as surgery does with a weight that is another one
        step(optimizer, model, set(), seed=99)
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"dampening": 0.5}, {"nesterov": True}, {"weight_decay": 0.1}])
def test_late_parameter_of_fused_sgd_equals_the_plain_kernel(options: dict[str, Any]) -> None:
    ends: list[list[Tensor]] = []
    for fused in (True, False):
        model = network()
        optimizer = OPTIMIZERS.build({"name": "momentum", "lr": 0.1, "fused": fused, **options}, model=model)
        for i, frozen in enumerate([{"0.weight", "0.bias"}] * 2 + [set()] * 3):
            step(optimizer, model, frozen, seed=i)
        ends.append([p.detach() for p in model.parameters()])
    torch.testing.assert_close(*ends)


def test_second_moment_of_a_late_parameter_starts_at_its_first_gradient() -> None:
    """The bias correction of the whole training made the first step of a late parameter 30 times too long."""
    ends = []
    for waits in (0, 2000):
        late, other = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
        holder = nn.ParameterList([late, other])
        optimizer: Any = OPTIMIZERS.build({"name": "schedule_free_adamw", "lr": 0.1}, model=holder)
        for _ in range(waits):
            holder[1].grad = torch.ones(1)
            optimizer.step()
        holder[0].grad = torch.full((1,), 3.0)
        optimizer.step()
        ends.append(float(optimizer.state[holder[0]]["z"]))
    assert ends[0] == pytest.approx(-0.1)
    assert ends[1] == pytest.approx(-0.1)


# ------------------------------------------------------------------ in a training of two epochs


class Tiny(Backbone):
    """Two convolutions, which train a few steps in 0.1 s."""

    def __init__(self, in_channels: int) -> None:
        layers: dict[str, nn.Module] = {
            "conv1": nn.Conv2d(in_channels, 8, 3, 2, 1, bias=False),
            "bn1": nn.BatchNorm2d(8),
            "act": nn.ReLU(),
            "conv2": nn.Conv2d(8, 8, 3, 2, 1),
            "act2": nn.ReLU(),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flat": nn.Flatten(),
        }
        body = nn.Sequential()
        for name, layer in layers.items():
            body.add_module(name, layer)
        super().__init__(body, 8, (0.5,) * in_channels, (0.5,) * in_channels)


class Following(pl.Callback):
    """Recorder of the loss of each step. It checks that parameters without a gradient are bit-equal."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.moved: set[str] = set()
        self.held: set[str] = set()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.before = {name: p.detach().clone() for name, p in pl_module.named_parameters()}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.losses.append(float(outputs["loss"]))
        for name, parameter in pl_module.named_parameters():
            before = self.before.get(name)
            if before is None or before.shape != parameter.shape:
                continue
            same = torch.equal(before, parameter)
            assert same or parameter.requires_grad, name
            self.held |= set() if parameter.requires_grad else {name}
            self.moved |= set() if same else {name}


FREEZING: dict[str, Callable[[], list[pl.Callback]]] = {
    "Freeze": lambda: [Freeze("backbone", until=0.5)],
    "GradualUnfreezing": lambda: [GradualUnfreezing(start=0.2, end=0.6, stages=["conv2", ["conv1", "bn1"]])],
    "Pruning": lambda: [Pruning(sparsity=0.5, start=0.2, end=0.7, every_n_steps=2)],
}
SURGERY: dict[str, Callable[[], list[pl.Callback]]] = {
    "StructuredPruning": lambda: [StructuredPruning(target={"macs": 0.7}, start=0.2, end=0.7, rounds=2)],
    "QAT": lambda: [QAT(start=0.4, freeze_observers=0.7, freeze_batchnorm=0.8)],
    "Freeze, then QAT": lambda: [Freeze("backbone", until=0.3), QAT(start=0.5)],
}


@pytest.fixture(scope="module")
def data() -> ImageDataModule:
    return ImageDataModule("digits", image_size=8, channels=1, batch_size=16, num_workers=0)


def train(name: str, callbacks: list[pl.Callback], data: ImageDataModule, place: Path) -> Following:
    follow = Following()
    task = ClassificationTask(
        backbone={"name": f"{__name__}.Tiny"}, optimizer=spec_of(name), schedule="constant", channels_last=False
    )
    options: dict[str, Any] = {"limit_train_batches": 4, "limit_val_batches": 0, "enable_checkpointing": False}
    trainer(place, [*callbacks, follow], **options).fit(task, datamodule=data)
    assert len(follow.losses) == 8
    assert all(math.isfinite(loss) for loss in follow.losses)
    return follow


@pytest.mark.parametrize("how", FREEZING)
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_training_finishes(name: str, how: str, data: ImageDataModule, tmp_path: Path) -> None:
    follow = train(name, FREEZING[how](), data, tmp_path)
    assert any("conv1" in name for name in follow.held) == (how != "Pruning")
    assert {f"model.backbone.network.{part}.weight" for part in ("conv1", "bn1", "conv2")} <= follow.moved


@pytest.mark.parametrize("how", SURGERY)
@pytest.mark.parametrize("name", ["momentum", "adamw", "asam", "lookahead", "schedule_free_adamw", "muon"])
def test_training_finishes_with_surgery(name: str, how: str, data: ImageDataModule, tmp_path: Path) -> None:
    train(name, SURGERY[how](), data, tmp_path)


def test_custom_fused_optimizer_is_supported(data: ImageDataModule, tmp_path: Path) -> None:
    class Own(ClassificationTask):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9, fused=True)

    task = Own(backbone={"name": f"{__name__}.Tiny"}, channels_last=False)
    made = trainer(tmp_path, [Freeze("backbone", until=0.5)], limit_train_batches=2, limit_val_batches=0)
    made.fit(task, datamodule=data)
    assert made.global_step == 4
