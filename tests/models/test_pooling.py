"""Poolings, compared with independent computations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from imgrec.errors import SpecError
from imgrec.models import POOLINGS, AttentionPooling, GeMPooling
from imgrec.models.pooling import generalized_mean


def maps() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 8, 5, 5, generator=generator), torch.randn(3, 16, 2, 3, generator=generator)


@pytest.mark.parametrize("name", POOLINGS.names())
def test_pooled_maps_are_concatenated(name: str) -> None:
    torch.manual_seed(0)
    pooling = POOLINGS.build(name, map_channels=(8, 16))
    given = tuple(each.requires_grad_() for each in maps())
    found = pooling(given)
    assert found.shape == (3, pooling.feature_dim)
    width = pooling.feature_dim // 3
    assert torch.equal(found[:, :width], pooling.pool(given[0], 0))
    assert torch.equal(found[:, width:], pooling.pool(given[1], 1))
    for gradient in torch.autograd.grad(found.square().sum(), [*pooling.parameters(), *given]):
        assert gradient.isfinite().all()
        assert gradient.any()


@pytest.mark.parametrize("name", POOLINGS.names())
def test_half_precision_and_large_values(name: str) -> None:
    torch.manual_seed(0)
    pooling = POOLINGS.build(name, map_channels=(8, 16)).eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough = pooling(tuple(each.bfloat16() for each in maps()))
    exact = pooling(maps())
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
    assert pooling(tuple(3e4 * each for each in maps())).isfinite().all()


def test_average_and_max_equal_numpy() -> None:
    values = maps()[0].numpy()
    mean, largest = values.mean(axis=(2, 3)), values.max(axis=(2, 3))
    both = {"name": "average_max", "concatenate": True}
    expected: list[tuple[Any, Any]] = [
        ("average", mean),
        ("max", largest),
        ("average_max", (mean + largest) / 2),
        (both, np.concatenate([mean, largest], axis=1)),
    ]
    for spec, figures in expected:
        found = POOLINGS.build(spec, map_channels=(8,))((maps()[0],))
        np.testing.assert_allclose(found.numpy(), figures, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("p", [1.0, 2.5, 6.0])
def test_generalized_mean_formula(p: float) -> None:
    values = maps()[0].abs() + 0.1
    found = generalized_mean(values, p)
    np.testing.assert_allclose(found, (values.double().numpy() ** p).mean(axis=(2, 3)) ** (1 / p), rtol=1e-5)


def test_generalized_mean_limits_and_gradient() -> None:
    values = maps()[0].abs() + 0.1
    torch.testing.assert_close(generalized_mean(values, 1.0), values.mean(dim=(2, 3)))
    torch.testing.assert_close(generalized_mean(values, 4000.0), values.amax(dim=(2, 3)), rtol=2e-3, atol=0)
    p = torch.tensor(3.0, dtype=torch.double, requires_grad=True)
    small = (maps()[0][:1, :2].abs() + 0.1).double().requires_grad_()
    # it computes in float32, so the finite differences are wide
    assert torch.autograd.gradcheck(generalized_mean, (small, p), eps=1e-2, atol=2e-3, rtol=2e-2)


def test_gem_exponent_per_map_is_positive() -> None:
    pooling = GeMPooling((8, 16), p=4.0)
    torch.testing.assert_close(pooling.log_p.exp(), torch.tensor([4.0, 4.0]))
    assert isinstance(GeMPooling((8,), learnable=False).state_dict()["log_p"], Tensor)
    assert not list(GeMPooling((8,), learnable=False).parameters())
    pooling((torch.ones(1, 8, 2, 2), torch.zeros(1, 16, 2, 2))).sum().backward()
    assert pooling.log_p.grad is not None
    assert pooling.log_p.grad.isfinite().all()


def test_attention_pooling_formula() -> None:
    torch.manual_seed(0)
    pooling, map_ = AttentionPooling((8,), heads=2).eval(), maps()[0]
    module: Any = pooling.each[0]
    state = {key: value.detach() for key, value in module.state_dict().items()}
    places = map_.flatten(2).transpose(1, 2)
    query = F.linear(state["latent"], state["q.weight"], state["q.bias"]).expand(3, -1, -1)
    keys, values = F.linear(places, state["kv.weight"], state["kv.bias"]).chunk(2, dim=-1)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        weights = (query[..., head] @ keys[..., head].transpose(1, 2) / 2.0).softmax(dim=-1)
        heads.append(weights @ values[..., head])
    answer = F.linear(torch.cat(heads, dim=-1), state["proj.weight"], state["proj.bias"])[:, 0]
    normed = F.layer_norm(answer, (8,), state["norm.weight"], state["norm.bias"])
    inner = F.gelu(F.linear(normed, state["mlp.fc1.weight"], state["mlp.fc1.bias"]))
    expected = answer + F.linear(inner, state["mlp.fc2.weight"], state["mlp.fc2.bias"])
    with torch.no_grad():
        torch.testing.assert_close(pooling((map_,)), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"name": "gem", "p": 0.0}, "pooling.p: expected float > 0, got 0.0"),
        ({"name": "gem", "eps": -1.0}, "pooling.eps: expected float > 0"),
        ({"name": "attention", "heads": 3}, "pooling: heads: expected a divisor of the 8 channels of a map, got 3"),
        ({"name": "attention", "heads": 0}, "pooling.heads: expected int > 0, got 0"),
        ({"name": "attention", "mlp_ratio": 0.01}, "mlp_ratio: expected at least 1 / 8"),
    ],
)
def test_invalid_pooling_raises(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        POOLINGS.build(spec, "pooling", map_channels=(8, 16))
