"""Selection of layers by patterns, and their replacement."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from imgrec.errors import UserError
from imgrec.models.edits.placement import replace_modules, select_layers


def is_relu(_: str, module: nn.Module) -> bool:
    return isinstance(module, nn.ReLU)


@pytest.fixture
def network() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.ReLU()), nn.Sequential(nn.ReLU(), nn.Linear(1, 1)))


def test_pattern_matches_parents_and_prefix(network: nn.Sequential) -> None:
    assert list(select_layers(network, None, is_relu, "ReLU")) == ["0.1", "1.0"]
    assert list(select_layers(network, "1", is_relu, "ReLU")) == ["1.0"]
    assert list(select_layers(network, ["backbone.network.0", "1.*"], is_relu, "ReLU")) == ["0.1", "1.0"]


def test_unmatched_pattern_raises(network: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r'pattern "2" matches no layer.*The network has 0, 0.0, 0.1, 1'):
        select_layers(network, ["0", "2"], is_relu, "ReLU")
    with pytest.raises(UserError, match=r'pattern "0.0" matches no ReLU. The network has 0.1, 1.0'):
        select_layers(network, "0.0", is_relu, "ReLU")
    with pytest.raises(UserError, match="the network has no blur"):
        select_layers(network, None, lambda _n, _m: False, "blur")


def test_shared_layer_is_replaced_everywhere() -> None:
    shared = nn.ReLU()
    network = nn.Sequential(shared, nn.Sequential(nn.Linear(1, 1), shared))
    changed: Any = replace_modules(network, {shared: nn.SiLU()})
    assert changed[1][1] is changed[0]
    assert isinstance(changed[0], nn.SiLU)
    assert network is changed


def test_network_can_be_wrapped() -> None:
    network = nn.Linear(1, 1).eval()
    changed: Any = replace_modules(network, {network: nn.Sequential(network)})
    assert isinstance(changed, nn.Sequential)
    assert changed[0] is network
    assert not changed.training
