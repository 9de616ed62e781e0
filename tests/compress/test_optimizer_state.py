"""State of optimizers after channels were removed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imgrec.compress.pruning.optimizer_state import check_states, cut_states, remove_parameters
from imgrec.compress.pruning.widths import select
from imgrec.errors import UserError
from imgrec.optim import build_optimizer

OPTIMIZERS: list[dict[str, Any]] = [
    {"name": "nesterov", "lr": 0.1, "weight_decay": 0.01},
    {"name": "momentum", "lr": 0.1},
    {"name": "adam", "lr": 0.01, "fused": False},
    {"name": "adamw", "lr": 0.01, "weight_decay": 0.1},
    {"name": "adamw", "lr": 0.01, "amsgrad": True, "fused": False},
    {"name": "torch.optim.RMSprop", "lr": 0.01, "momentum": 0.9},
]
DEAD, ALIVE = [1, 4], [0, 2, 3, 5]


def with_dead_channels() -> nn.Sequential:
    """Return a network with two zero channels, which have no gradient and are not changed by any step."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 3, 2), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        model.get_parameter("0.weight")[DEAD] = 0
        model.get_parameter("0.bias")[DEAD] = 0
        model.get_parameter("2.weight")[:, DEAD] = 0
    return model


def kept_indices(model: nn.Sequential) -> dict[Tensor, Tensor]:
    found: dict[Tensor, Tensor] = {}
    for name, dim in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1)):
        parameter = model.get_parameter(name)
        places = torch.arange(parameter.numel()).view(parameter.shape)
        found[parameter] = places.index_select(dim, torch.tensor(ALIVE))
    return found


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, schedule: Any, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        images, targets = torch.randn(8, 2, 4, 4, generator=generator), torch.arange(8) % 2
        loss = nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["usual", "channels_last"])
@pytest.mark.parametrize("spec", OPTIMIZERS, ids=lambda spec: f"{spec['name']}{'-amsgrad' * ('amsgrad' in spec)}")
def test_training_continues_as_without_the_removed_channels(spec: dict[str, Any], layout: torch.memory_format) -> None:
    model = with_dead_channels().to(memory_format=layout)
    optimizer = build_optimizer(spec, model)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
    steps(model, optimizer, schedule, 0, 5)
    kept, before = kept_indices(model), copy.deepcopy(model)
    shapes: dict[Tensor, torch.Size] = {parameter: parameter.shape for parameter in model.parameters()}
    rates = [group["lr"] for group in optimizer.param_groups]
    for parameter, indices in kept.items():
        parameter.data = select(parameter, indices)
        parameter.grad = None
    cut_states(optimizer, shapes, kept)
    check_states(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert sum(state["exp_avg"].numel() for state in optimizer.state.values() if "exp_avg" in state) in (
        0,
        sum(parameter.numel() for parameter in model.parameters()),
    )
    steps(model, optimizer, schedule, 5, 10)

    whole = with_dead_channels().to(memory_format=layout)
    theirs = build_optimizer(spec, whole)
    steps(whole, theirs, torch.optim.lr_scheduler.StepLR(theirs, 4, 0.5), 0, 10)
    for name, parameter in model.named_parameters():
        full = whole.get_parameter(name).detach()
        expected = full[:, ALIVE] if name == "2.weight" else full[ALIVE] if name.startswith("0.") else full
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6)
    moved = (model.get_parameter("4.weight") - before.get_parameter("4.weight")).abs().max()
    assert float(moved.detach()) > 1e-3


def test_removed_parameters_are_deleted_from_the_optimizer() -> None:
    model = with_dead_channels()
    optimizer = build_optimizer({"name": "adamw", "lr": 0.01, "weight_decay": 0.1}, model)
    steps(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer), 0, 1)
    gone = [model.get_parameter("2.weight"), model.get_parameter("2.bias")]
    named = [(group["name"], len(group["params"])) for group in optimizer.param_groups]
    remove_parameters(optimizer, gone)
    assert named == [("decay", 3), ("no_decay", 3)]
    assert [(group["name"], len(group["params"])) for group in optimizer.param_groups] == [
        ("decay", 2),
        ("no_decay", 2),
    ]
    assert not any(parameter in optimizer.state for parameter in gone)
    assert len(optimizer.state) == 4
    optimizer.load_state_dict(optimizer.state_dict())


def test_a_factored_state_is_refused() -> None:
    model = with_dead_channels()
    optimizer = torch.optim.Adafactor(model.parameters(), lr=0.01)
    check_states(optimizer)  # before the first step there is nothing
    steps(model, optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer), 0, 1)
    with pytest.raises(UserError, match=r"Adafactor keeps `row_var` of shape .*Use sgd, nesterov or adamw"):
        check_states(optimizer)
