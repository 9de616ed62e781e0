from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet
from torch import nn

from imgrec.errors import SpecError, UserError
from imgrec.regularizers import (
    L1,
    L2,
    REGULARIZERS,
    elastic_net_penalty,
    l1_penalty,
    l2_penalty,
    norm_and_bias_names,
    weight_parameters,
)
from imgrec.types import StepOutput

OUTPUT = StepOutput(torch.zeros(1), torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2), epoch=0)


def test_the_sums_are_numpys() -> None:
    tensors = [torch.randn(3, 4), torch.randn(5)]
    flat = np.concatenate([t.numpy().ravel() for t in tensors]).astype(np.float64)
    assert l1_penalty(tensors).item() == pytest.approx(np.abs(flat).sum(), rel=1e-6)
    assert l2_penalty(iter(tensors)).item() == pytest.approx((flat**2).sum() / 2, rel=1e-6)
    expected = 0.3 * np.abs(flat).sum() + 0.7 * (flat**2).sum() / 2
    assert elastic_net_penalty(iter(tensors), 0.3).item() == pytest.approx(expected, rel=1e-6)


def test_norms_and_biases_are_excluded_by_default() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LayerNorm([4, 6, 6]), nn.Flatten(), nn.Linear(144, 2)
    )
    assert norm_and_bias_names(model) == {"0.bias", "1.weight", "1.bias", "2.weight", "2.bias", "4.bias"}
    found = weight_parameters(model)
    assert [id(p) for p in found] == [id(model[0].weight), id(model[4].weight)]
    conv = model[0]
    assert isinstance(conv, nn.Conv2d)
    conv.weight.requires_grad_(False)
    assert [id(p) for p in weight_parameters(model)] == [id(model[4].weight)]
    assert len(weight_parameters(model, norm_and_bias=True)) == 7
    expected = sum(p.abs().sum() for p in weight_parameters(model, norm_and_bias=True))
    torch.testing.assert_close(L1(norm_and_bias=True)(OUTPUT, model), expected)


def test_l2_does_to_sgd_what_weight_decay_does() -> None:
    one = nn.Linear(5, 3)
    two = copy.deepcopy(one)
    images, targets = torch.randn(8, 5), torch.randint(3, (8,))
    groups: list[dict[str, Any]] = [{"params": [one.weight], "weight_decay": 0.1}, {"params": [one.bias]}]
    decay = torch.optim.SGD(groups, lr=0.5)
    plain = torch.optim.SGD(two.parameters(), lr=0.5)
    for _ in range(5):
        decay.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(one(images), targets))
        decay.step()
        plain.zero_grad()
        (nn.functional.cross_entropy(two(images), targets) + 0.1 * L2()(OUTPUT, two)).backward()
        plain.step()
    torch.testing.assert_close(one.state_dict(), two.state_dict())


def test_the_elastic_net_finds_scikit_learns_solution() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6))
    y = x @ np.array([2.0, -1.0, 0.0, 0.0, 0.5, 0.0]) + 0.1 * rng.normal(size=60)
    theirs = ElasticNet(alpha=0.2, l1_ratio=0.6, fit_intercept=False, tol=1e-10).fit(x, y).coef_
    model = nn.Linear(6, 1, bias=False).double()
    penalty = REGULARIZERS.build({"name": "elastic_net", "l1_ratio": 0.6})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    inputs, outputs = torch.from_numpy(x), torch.from_numpy(y)[:, None]
    for step in range(1500):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 1500)
        optimizer.zero_grad()
        ((model(inputs) - outputs).square().mean() / 2 + 0.2 * penalty(OUTPUT, model)).backward()
        optimizer.step()
    np.testing.assert_allclose(model.weight.detach().numpy()[0], theirs, atol=2e-3)


def test_a_frozen_model_has_nothing_to_penalize() -> None:
    with pytest.raises(UserError, match="no trainable weight"):
        L2()(OUTPUT, nn.Linear(2, 2).requires_grad_(False))


def test_the_ratio_has_a_range() -> None:
    with pytest.raises(SpecError, match=r"^r\.l1_ratio: expected .*, got 1\.5"):
        REGULARIZERS.check({"name": "elastic_net", "l1_ratio": 1.5}, "r")


def test_scope_selects_penalized_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    weights = [p.abs().sum() for p in (model.get_parameter("0.weight"), model.get_parameter("2.weight"))]
    torch.testing.assert_close(L1(scope="2")(OUTPUT, model), weights[1])
    torch.testing.assert_close(L1(scope=["0", "*.weight"])(OUTPUT, model), weights[0] + weights[1])
    everything = L1(norm_and_bias=True, scope="1")(OUTPUT, model)
    torch.testing.assert_close(everything, torch.tensor(4.0))
    model[2].requires_grad_(False)
    assert L1(scope="2")(OUTPUT, model).item() == 0
    torch.testing.assert_close(L1()(OUTPUT, model), weights[0])


def test_scope_without_match_is_rejected_before_training() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(UserError, match='the pattern "2" matches no parameter'):
        L2(scope="2").check_model(model)
    with pytest.raises(UserError, match="scope: '1' matches only biases and normalization layers"):
        L2(scope="1").check_model(model)
    with pytest.raises(UserError, match="no trainable weight"):
        L2().check_model(model.requires_grad_(False))
