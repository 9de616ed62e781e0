from __future__ import annotations

import pytest
import torch
from torch import nn

from imgrec.models.utils.layer_statistics import ActivationProbe, layer_name, layer_norms


@pytest.mark.parametrize(
    ("name", "depth", "layer"),
    [
        ("model.backbone.network.layer1.0.conv1", 1, "layer1"),
        ("model.backbone.network.layer1.0.conv1", 2, "layer1.0"),
        ("model.backbone.network.conv1", 3, "conv1"),
        ("model.head.linear", 1, "head"),
        ("loss.centre", 1, "loss"),
        ("model", 1, "model"),
    ],
)
def test_layer_name(name: str, depth: int, layer: str) -> None:
    assert layer_name(name, depth) == layer


def test_layer_norms() -> None:
    tensors = {f"model.{layer}.{i}.weight": torch.randn(3, i + 1) for layer in ("a", "b") for i in range(3)}
    found = layer_norms(tensors)
    for layer in ("a", "b"):
        together = torch.cat([t.flatten() for name, t in tensors.items() if f".{layer}." in name])
        assert float(found[layer]) == pytest.approx(float(together.norm()), rel=1e-6)
    assert layer_norms({}) == {}


class Small(nn.Module):
    """Two layers, the second with a ReLU that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU())
        self.mlp = nn.Sequential(nn.Linear(4, 3), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.mlp[1](self.mlp(self.stem(x).mean((2, 3))) - 100)
        return out


def test_activation_statistics_and_dead_units() -> None:
    net = Small()
    conv: nn.Conv2d = net.stem[0]  # type: ignore[assignment]
    linear: nn.Linear = net.mlp[0]  # type: ignore[assignment]
    with torch.no_grad():
        conv.weight.fill_(1.0)
        conv.bias.copy_(torch.tensor([1.0, -100.0, 1.0, -100.0]))  # type: ignore[union-attr]
        linear.weight.fill_(1.0)
        linear.bias.copy_(torch.tensor([0.0, 0.0, -100.0]))
    x = torch.rand(5, 1, 2, 2)
    with ActivationProbe(net) as probe:
        net(x)
    figures = {name: float(value) for name, value in probe.figures.items()}
    assert figures["stem/dead"] == 0.5
    assert figures["mlp/dead"] == pytest.approx((1 / 3 + 1) / 2)  # the second call returns only zeros
    stem = net.stem(x)
    assert figures["stem/mean"] == pytest.approx(float(stem.mean()), rel=1e-6)
    assert figures["stem/std"] == pytest.approx(float(stem.std(correction=0)), rel=1e-5)
    assert not any(module._forward_hooks for module in net.modules())
