from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.optim.lamb import Lamb
from timm.optim.lion import Lion
from timm.optim.muon import Muon
from torch import nn
from torch.optim import Optimizer

from imgrec.errors import SpecError
from imgrec.optim import OPTIMIZERS, build_optimizer, check_optimizer
from imgrec.optim.optimizers.sgd import SGD

ITS_OWN_RATE = {"adafactor", "cadafactor", "sgdp", "csgdp"}  # no default learning rate
COMPILES = {"kron", "kronc", "kronw"}  # compiles for seconds before its first step
AROUND = {"sam", "asam", "lookahead"}
FUSED = {"sgd", "momentum", "nesterov", "adam", "adamw", "adagrad"}
PLAIN = FUSED | {"rmsprop", "adamax", "nadam", "lamb", "lion", "muon"}
LATER = {"adopt", "adoptc", "adoptw", "cadopt", "cadoptc", "cadoptw"}  # the first step only measures


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def train(model: nn.Module, optimizer: Optimizer, steps: int = 2) -> nn.Module:
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    targets = torch.arange(8) % 3
    for _ in range(steps):

        def closure() -> Any:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), targets)
            torch.autograd.backward(loss)
            return loss

        optimizer.step(closure)
    return model


assert OPTIMIZERS.catalogue is not None
ALL = sorted({*OPTIMIZERS.names(), *OPTIMIZERS.catalogue.names()})


@pytest.mark.parametrize("name", ALL)
def test_every_optimizer_builds_from_its_defaults_and_moves_the_weights(name: str) -> None:
    spec: Any = {"name": name, "lr": 1e-3} if name in ITS_OWN_RATE else name
    spec = {"name": name, "base": "sgd"} if name in AROUND else spec
    check_optimizer(spec)
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = build_optimizer(spec, model)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 6
    if name in COMPILES:
        return
    train(model, optimizer, steps=3 if name in LATER else 1)
    for key in ("0.weight", "4.weight"):
        assert torch.isfinite(model.state_dict()[key]).all()
        assert not torch.equal(before[key], model.state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "cls", "values"),
    [
        ("sgd", SGD, {"lr": 1e-3, "momentum": 0, "nesterov": False, "weight_decay": 0}),
        ("momentum", SGD, {"momentum": 0.9, "nesterov": False}),
        ("nesterov", SGD, {"momentum": 0.9, "nesterov": True}),
        ("adam", torch.optim.Adam, {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0}),
        ("adamw", torch.optim.AdamW, {"lr": 1e-3, "betas": (0.9, 0.999), "weight_decay": 0.01}),
        ("adagrad", torch.optim.Adagrad, {"lr": 1e-2}),
        ("rmsprop", torch.optim.RMSprop, {"alpha": 0.99, "momentum": 0}),
        ("adamax", torch.optim.Adamax, {"lr": 2e-3}),
        ("nadam", torch.optim.NAdam, {"lr": 2e-3, "decoupled_weight_decay": False}),
        ("lamb", Lamb, {"max_grad_norm": 1.0, "weight_decay": 0.01}),
        ("lion", Lion, {"lr": 1e-4, "betas": (0.9, 0.99)}),
        ("muon", Muon, {"lr": 1e-3, "momentum": 0.95, "nesterov": True, "adjust_lr_fn": "match_rms_adamw"}),
    ],
)
def test_common_optimizer_names(name: str, cls: type[Optimizer], values: dict[str, Any]) -> None:
    optimizer = build_optimizer(name, network())
    assert type(optimizer) is cls
    assert {k: optimizer.defaults[k] for k in values} == values
    entry = OPTIMIZERS.entry(name)
    assert entry.summary.endswith(".")
    assert entry.reference
    assert all(argument.type for argument in entry.arguments())


@pytest.mark.parametrize("name", sorted(PLAIN))
def test_steps_equal_torch(name: str) -> None:
    values: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.1}
    ours = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Tanh(), nn.Linear(8, 3))
    theirs = copy.deepcopy(ours)
    parameters = list(theirs.parameters())
    built: Optimizer = {
        "sgd": torch.optim.SGD(parameters, **values),
        "momentum": torch.optim.SGD(parameters, momentum=0.9, **values),
        "nesterov": torch.optim.SGD(parameters, momentum=0.9, nesterov=True, **values),
        "adam": torch.optim.Adam(parameters, **values),
        "adamw": torch.optim.AdamW(parameters, **values),
        "adagrad": torch.optim.Adagrad(parameters, **values),
        "rmsprop": torch.optim.RMSprop(parameters, **values),
        "adamax": torch.optim.Adamax(parameters, **values),
        "nadam": torch.optim.NAdam(parameters, **values),
        "lamb": Lamb(parameters, **values),
        "lion": Lion(parameters, **values),
        "muon": Muon(parameters, nesterov=True, ns_coefficients="original", **values),
    }[name]
    train(theirs, built, steps=4)
    train(ours, build_optimizer({"name": name, "decay_norm_and_bias": True, **values}, ours), steps=4)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-4, atol=1e-6)


def test_momentum_of_timm_optimizers() -> None:
    assert build_optimizer("sgdw", network()).defaults["momentum"] == 0.9
    assert build_optimizer({"name": "sgdw", "momentum": 0.5}, network()).defaults["momentum"] == 0.5


def test_by_dotted_path() -> None:
    optimizer = build_optimizer({"name": "torch.optim.RMSprop", "lr": 0.01, "weight_decay": 0.2}, network())
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert [(g["name"], g["weight_decay"]) for g in optimizer.param_groups] == [("decay", 0.2), ("no_decay", 0.0)]
    assert isinstance(build_optimizer("torch.optim.LBFGS", network()), torch.optim.LBFGS)


def test_fused_is_the_default_where_there_is_a_kernel() -> None:
    for name in FUSED:
        assert build_optimizer(name, network()).param_groups[0]["fused"] is True
        assert not build_optimizer({"name": name, "fused": False}, network()).param_groups[0]["fused"]
        assert not build_optimizer({"name": name, "foreach": True}, network()).param_groups[0]["fused"]
        assert not build_optimizer(name, network().to("meta")).param_groups[0]["fused"]
    for name in PLAIN - FUSED:
        assert not build_optimizer(name, network()).param_groups[0].get("fused")


def test_gradients_can_be_clipped_for_a_fused_optimizer_under_mixed_precision() -> None:
    from pytorch_lightning.plugins.precision import MixedPrecision

    model = network()
    optimizer = build_optimizer({"name": "adamw"}, model)
    train(model, optimizer, steps=1)
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        MixedPrecision("bf16-mixed", "cpu").clip_gradients(torch.optim.AdamW(model.parameters(), fused=True), 1.0)
    plugin = MixedPrecision("bf16-mixed", "cpu")
    plugin.main_params = lambda optimizer: model.parameters()  # type: ignore[method-assign]
    plugin.clip_gradients(optimizer, 1e-3)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.nn.utils.get_total_norm(gradients) <= 1.001e-3


def test_resumed_optimizer_equals_uninterrupted() -> None:
    spec = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}
    through = network()
    optimizer = build_optimizer(spec, through)
    train(through, optimizer, steps=3)
    weights, state = copy.deepcopy(through.state_dict()), copy.deepcopy(optimizer.state_dict())
    train(through, optimizer, steps=3)
    resumed = network()
    again = build_optimizer(spec, resumed)
    resumed.load_state_dict(weights)
    again.load_state_dict(state)
    train(resumed, again, steps=3)
    torch.testing.assert_close(resumed.state_dict(), through.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("adamm", r'^model\.optimizer: no optimizer is called "adamm"\. Did you mean "adam"'),
        ({"name": "adamw", "lr": -1}, r"^model\.optimizer.*lr: expected .*, got -1"),
        ({"name": "adamw", "lr": "fast"}, r"^model\.optimizer\.lr: expected float, got 'fast'"),
        ({"name": "adamw", "weight_decay": -0.1}, r"^model\.optimizer.*weight_decay: expected "),
        ({"name": "adamw", "betas": [0.9, 1.5]}, r"^model\.optimizer: Invalid beta parameter at index 1: 1\.5"),
        ({"name": "adamw", "betas": [0.9]}, r"^model\.optimizer\.betas: expected tuple\[float, float\]"),
        ({"name": "adamw", "momentum": 0.9}, r'^model\.optimizer: the optimizer "adamw" has no argument "momentum"'),
        ({"name": "adamw", "learning_rate": 1}, r'has no argument "learning_rate"'),
        ({"name": "adamw", "wieght_decay": 1}, r'no argument "wieght_decay"\. Did you mean "weight_decay"'),
        ({"name": "nesterov", "momentum": 0.0}, r"^model\.optimizer: Nesterov momentum requires a momentum"),
        ({"name": "adam", "fused": True, "foreach": True}, r"^model\.optimizer: Adam: invalid arguments: .*fused"),
        ({"name": "adamw", "layer_decay": 0}, r"^model\.optimizer.*layer_decay: expected "),
        ({"name": "adam", "params": 3}, r'no argument "params"'),
        ({"name": "adam", "model": 3}, r"^model\.optimizer: model: expected no such argument in a spec, got 3"),
        ("adafactor", r'^model\.optimizer: the optimizer "adafactor" needs the argument "lr"'),
        (
            "adahessian",
            r'^model\.optimizer: the optimizer "adahessian" cannot be used here: it requires second-order gradients',
        ),
        ("fusedsgd", r'^model\.optimizer: the optimizer "fusedsgd" cannot be used here: it requires the package apex'),
        ({"name": "torch.optim.LBFGS", "weight_decay": 1}, r'no argument "weight_decay"'),
        ({"name": "torch.optim.Nothing"}, r'^model\.optimizer: the optimizer "torch\.optim\.Nothing" cannot be imp'),
    ],
    ids=str,
)
def test_invalid_values_are_rejected_with_key(spec: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_optimizer(spec, "model.optimizer")
    with pytest.raises(SpecError, match=message):
        build_optimizer(spec, network(), "model.optimizer")


def test_errors_that_depend_on_the_model() -> None:
    with pytest.raises(SpecError, match=r"^model\.optimizer: the model has no trainable parameter"):
        build_optimizer("adamw", network().requires_grad_(False))
    with pytest.raises(SpecError, match=r"^model\.optimizer: layer_decay: requires a backbone"):
        build_optimizer({"name": "adamw", "layer_decay": 0.7}, network())


def test_a_gradient_scaler_unscales_for_a_fused_optimizer() -> None:
    scaled, plain = nn.Linear(4, 2), nn.Linear(4, 2)
    scaled.load_state_dict(plain.state_dict())
    one, two = (build_optimizer({"name": "nesterov", "lr": 0.1}, m) for m in (scaled, plain))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    images = torch.randn(3, 4)
    for _ in range(3):
        one.zero_grad()
        two.zero_grad()
        torch.autograd.backward(scaler.scale(scaled(images).square().mean()))
        torch.autograd.backward(plain(images).square().mean())
        scaler.step(one)
        scaler.update()
        two.step()
    torch.testing.assert_close(scaled.state_dict(), plain.state_dict())


def test_a_learning_rate_is_scaled_on_request_only_and_with_every_group() -> None:
    spec = {"name": "adamw", "lr": 0.1}
    assert {g["lr"] for g in build_optimizer(spec, network(), effective_batch=512).param_groups} == {0.1}
    optimizer = build_optimizer({**spec, "lr_reference_batch": 256}, network(), effective_batch=640)
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.25]
    assert optimizer.lr_scaling.to_dict() == {  # type: ignore[attr-defined]
        "given": 0.1,
        "used": 0.25,
        "effective_batch": 640,
        "reference_batch": 256,
    }
    layered = build_optimizer(
        {"name": "sgd", "lr": 0.1, "layer_decay": 0.5, "lr_reference_batch": 64},
        timm.create_model("test_resnet", num_classes=3),
        effective_batch=32,
    )
    rates = sorted({g["lr"] for g in layered.param_groups}, reverse=True)
    assert rates[:2] == pytest.approx([0.05, 0.025])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"lr_reference_batch": 0}, "expected int > 0, got 0"),
        ({"lr_reference_batch": 25.5}, "lr_reference_batch"),
        ({"lr_reference_batch": 256, "effective_batch": -1}, "effective_batch: expected int > 0"),
    ],
)
def test_invalid_reference_batch_is_rejected_early(given: Any, message: str) -> None:
    with pytest.raises(SpecError, match=f"^model\\.optimizer.*{message}"):
        check_optimizer({"name": "adamw", **given})


def test_reference_batch_requires_batch_size() -> None:
    with pytest.raises(SpecError, match="requires a loader with `batch_size`"):
        build_optimizer({"name": "adamw", "lr_reference_batch": 256}, network())


@pytest.mark.parametrize("shape", [(64, 32), (32, 128), (64, 64)])
def test_muon_equals_torch_on_matrices(shape: tuple[int, int]) -> None:
    """Coefficients, momentum and weight decay are those of the authors. The arithmetic is bfloat16."""
    generator = torch.Generator().manual_seed(0)
    one, two = (nn.Linear(shape[1], shape[0], bias=False) for _ in range(2))
    two.load_state_dict(one.state_dict())
    begun = one.weight.detach().clone()
    ours = build_optimizer({"name": "muon", "lr": 0.01, "weight_decay": 0.1}, one)
    theirs = torch.optim.Muon(two.parameters(), lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(10):
        gradient = torch.randn(shape, generator=generator)
        for layer, optimizer in ((one, ours), (two, theirs)):
            layer.weight.grad = gradient.clone()
            optimizer.step()
    assert (one.weight - two.weight).norm() < 0.01 * (two.weight - begun).norm()
