"""Distribution and scope of initial weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from imgrec.errors import SpecError, UserError
from imgrec.models import INITIALIZERS, ClassifierSpecs, build_classifier
from imgrec.models.backbones.cifar_resnet import CifarResNet
from imgrec.models.init.base import check_init, fans, initialize
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b"), (1, 1), 16, 3)
TINY = {"name": "cifar_resnet", "depth": 8}


def drawn(spec: Any, layer: nn.Module) -> Tensor:
    torch.manual_seed(0)
    initialize(layer, spec, {})
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


DENSE = nn.Linear(300, 200)
CONVOLUTION = nn.Conv2d(32, 128, 3)
GROUPED = nn.Conv2d(64, 128, 5, groups=8)  # 8 input channels and 16 filters of 25 positions
THEORY: dict[str, tuple[Any, nn.Module, float, float | None]] = {
    "uniform": ({"name": "uniform", "low": -0.3, "high": 0.3}, DENSE, 0.6 / math.sqrt(12), 0.3),
    "normal": ({"name": "normal", "std": 0.03}, DENSE, 0.03, None),
    # variance of a normal distribution truncated at b: 1 - 2 b phi(b) / (2 Phi(b) - 1)
    "truncated": ({"name": "truncated_normal", "std": 0.1, "bound": 1.0}, DENSE, 0.1 * 0.53956, 0.1),
    "xavier normal": ("xavier_normal", DENSE, math.sqrt(2 / 500), None),
    "xavier uniform": ({"name": "xavier_uniform", "gain": 2}, DENSE, 2 * math.sqrt(2 / 500), 2 * math.sqrt(6 / 500)),
    "he in": ("he_normal", CONVOLUTION, math.sqrt(2 / (32 * 9)), None),
    "he out": ({"name": "he_normal", "mode": "fan_out"}, CONVOLUTION, math.sqrt(2 / (128 * 9)), None),
    "he uniform": ("he_uniform", CONVOLUTION, math.sqrt(2 / 288), math.sqrt(6 / 288)),
    "he linear": ({"name": "he_normal", "nonlinearity": "linear"}, CONVOLUTION, math.sqrt(1 / 288), None),
    "he leaky": (
        {"name": "he_normal", "nonlinearity": "leaky_relu", "slope": 0.5},
        CONVOLUTION,
        math.sqrt(2 / 1.25 / 288),
        None,
    ),
    "grouped in": ("he_normal", GROUPED, math.sqrt(2 / (8 * 25)), None),
    "grouped out": ({"name": "he_normal", "mode": "fan_out"}, GROUPED, math.sqrt(2 / (16 * 25)), None),
}


@pytest.mark.parametrize("case", THEORY)
def test_standard_deviation_equals_theory(case: str) -> None:
    spec, layer, std, bound = THEORY[case]
    weight = drawn(spec, layer)
    assert float(weight.std()) == pytest.approx(std, rel=0.03)
    assert abs(float(weight.mean())) < 4 * std / math.sqrt(weight.numel())
    if bound is not None:
        assert 0.98 * bound < float(weight.abs().max()) <= bound * (1 + 1e-6)
    assert not layer.bias.any()  # type: ignore[operator]


def test_orthogonal_rows_or_columns() -> None:
    wide = drawn({"name": "orthogonal", "gain": 2.0}, nn.Conv2d(16, 32, 3)).flatten(1)
    torch.testing.assert_close(wide @ wide.t(), 4 * torch.eye(32), atol=1e-4, rtol=0)
    tall = drawn("orthogonal", nn.Linear(16, 64))
    torch.testing.assert_close(tall.t() @ tall, torch.eye(16), atol=1e-5, rtol=0)
    for group in drawn("orthogonal", nn.Conv2d(8, 8, 3, groups=4)).flatten(1).chunk(4):
        torch.testing.assert_close(group @ group.t(), torch.eye(2), atol=1e-5, rtol=0)


def test_fans_equal_manual_count() -> None:
    layer = nn.Conv2d(6, 9, (2, 3), groups=3)
    connections = np.zeros((9, 6))
    for out in range(9):  # each output depends on the inputs of its group
        connections[out, (out // 3) * 2 : (out // 3) * 2 + 2] = 6
    assert fans(layer.weight, 3) == (connections.sum(1)[0], connections.sum(0)[0])
    assert fans(nn.ConvTranspose2d(4, 8, 2).weight, transposed=True) == (16, 32)


def test_he_preserves_activation_scale_with_depth() -> None:
    def last(spec: Any) -> float:
        layers = [part for _ in range(12) for part in (nn.Linear(256, 256), nn.ReLU())]
        network = nn.Sequential(*layers)
        torch.manual_seed(0)
        initialize(network, spec, {})
        return float(network(torch.randn(64, 256)).square().mean().detach())

    assert 0.3 < last("he_normal") < 3
    assert last("xavier_normal") < 0.01


def test_scope_and_order_of_initializers() -> None:
    torch.manual_seed(0)
    plain = build_classifier(TINY, "linear", "half", FACTS)
    torch.manual_seed(0)
    init = [{"name": "normal", "std": 5.0, "scope": ["stages.1", "head"]}, {"name": "uniform", "scope": "head"}]
    started = build_classifier(TINY, "linear", "half", FACTS, init=init)
    before = dict(plain.named_parameters())
    changed = {n for n, p in started.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {
        *("head.linear.weight", "head.linear.bias"),
        *(n for n in before if n.startswith("backbone.network.stages.1") and before[n].dim() > 1),
    }
    assert float(started.head.linear.weight.abs().max()) <= 0.05  # type: ignore[operator, union-attr]


def test_bias_argument() -> None:
    layer = nn.Linear(4, 4)
    kept = layer.bias.detach().clone()
    initialize(layer, {"name": "normal", "bias": None}, {})
    assert torch.equal(layer.bias, kept)
    initialize(layer, {"name": "normal", "bias": 0.5}, {})
    assert bool((layer.bias == 0.5).all())


def test_load_weights_false_skips_init() -> None:
    specs = ClassifierSpecs(TINY, "linear", "half", init={"name": "normal", "std": 100.0})
    assert float(specs.build(FACTS, load_weights=False).head.linear.weight.abs().max()) < 1  # type: ignore
    assert specs.is_plain
    assert specs.without_initial_values().init is None


def test_init_over_loaded_weights_requires_scope() -> None:
    with pytest.raises(SpecError, match=r"init\[1\]: the weights of the backbone are loaded.*`scope`.*`head`"):
        check_init([{"name": "normal", "scope": "head"}, "zero_residual"], "init", ("in_channels", "image_size"), True)
    check_init("he_normal", "init", (), False)


def test_unmatched_scope_raises() -> None:
    for scope, message in (
        ("haed", r'init: scope: the pattern "haed" matches no parameter.*Did you mean "head"'),
        (["head", "bn1"], r'init: scope: the pattern "bn1" matches no weight of a linear layer'),
    ):
        with pytest.raises(SpecError, match=message):
            build_classifier(TINY, "linear", "half", FACTS, init={"name": "normal", "scope": scope}, where="")


def test_initializer_argument_out_of_range_raises() -> None:
    for spec in (
        {"name": "normal", "std": 0.0},
        {"name": "truncated_normal", "bound": -1},
        {"name": "orthogonal", "gain": 0},
    ):
        with pytest.raises(SpecError, match="expected float > 0"):
            INITIALIZERS.check(spec, "init")
    with pytest.raises(SpecError, match="low: expected a number below high"):
        INITIALIZERS.check({"name": "uniform", "low": 1.0}, "init")


# ---------------------------------------------------------------- residual branches


def test_zero_residual_leaves_shortcuts() -> None:
    torch.manual_seed(0)
    network: Any = CifarResNet(3, (16, 16, 16), 2)
    done = INITIALIZERS.build("zero_residual", image_size=16)(network)
    assert done == [f"stages.{i}.{j}.bn2.{key}" for i in range(3) for j in range(2) for key in ("weight", "bias")]
    maps = torch.rand(2, 16, 8, 8)
    assert torch.equal(network.stages[0](maps), maps)  # the inputs are above 0, so the ReLU does not change them
    network(torch.rand(2, 3, 16, 16)).square().sum().backward()
    assert all(bool(block.bn2.weight.grad.any()) for stage in network.stages for block in stage)


def test_zero_residual_without_norm() -> None:
    specs = ClassifierSpecs(
        {"name": "vit_tiny_patch16_224", "depth": 3},
        normalize="half",
        init={"name": "zero_residual", "scope": "blocks.[01]"},
    )
    torch.manual_seed(0)
    started = specs.build(DataFacts(("a", "b"), (1, 1), 32, 3))
    names = [n for n, p in started.named_parameters() if p.dim() == 2 and not p.any()]
    assert names == [
        f"backbone.network.blocks.{i}.{layer}.weight" for i in (0, 1) for layer in ("attn.proj", "mlp.fc2")
    ]


def test_zero_residual_without_gradient_raises() -> None:
    with pytest.raises(SpecError, match=r"stages.0.1.branch.1.3 cannot start at zero. A function such as ReLU"):
        build_classifier("resnet9", "linear", "half", FACTS, init="zero_residual")
    with pytest.raises(SpecError, match=r'pattern "stages.9" matches no end of a residual branch'):
        build_classifier(TINY, "linear", "half", FACTS, init={"name": "zero_residual", "scope": "stages.9"})
    with pytest.raises(UserError, match="no residual branch"):
        INITIALIZERS.build("zero_residual", image_size=8)(nn.Sequential(nn.Conv2d(3, 3, 3)))
