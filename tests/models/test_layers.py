"""Search of layers by patterns, and recording of their outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.models import build_classifier
from imgrec.models.utils.layers import LayerOutputs, find_layers
from imgrec.types import DataFacts

TINY = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}


@pytest.fixture
def network() -> nn.Module:
    return build_classifier(TINY, "linear", "half", DataFacts(("a", "b"), (1, 1), 16, 1))


def test_prefix_of_network_is_optional(network: nn.Module) -> None:
    assert find_layers(network, "layer[13]") == ["backbone.network.layer1", "backbone.network.layer3"]
    assert find_layers(network, "backbone.network.layer2") == ["backbone.network.layer2"]
    assert find_layers(network, "head.linear") == ["head.linear"]


def test_unknown_layer_raises_with_names(network: nn.Module) -> None:
    with pytest.raises(UserError) as refused:
        find_layers(network, "layr1", "model.x: the student")
    message = str(refused.value)
    assert message.startswith('model.x: the student: the network has no layer "layr1". Did you mean "layer1"')
    assert "layer4" in message
    assert len(message) < 500


def test_outputs_are_in_the_order_of_names(network: nn.Module) -> None:
    seen: list[Tensor] = []
    handle = network.get_submodule("backbone.network.layer2").register_forward_hook(
        lambda _m, _i, out: seen.append(out)
    )
    names = ["backbone.network.layer4", "backbone.network.layer2", "backbone.network.layer4"]
    with LayerOutputs(network, names) as layers:
        network(torch.zeros(2, 1, 16, 16))
    handle.remove()
    found = layers.take()
    assert found[1] is seen[0]
    assert found[0] is found[2]
    assert not any(module._forward_hooks for module in network.modules())
    with pytest.raises(UserError, match="is not called"):
        layers.take()


def test_invalid_layers_raise() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"x": x}

    with LayerOutputs(Two(), [""]) as layers, pytest.raises(UserError, match="expected a tensor as output, got dict"):
        layers.model(torch.zeros(1))
    with (
        pytest.raises(UserError, match='no layer "1", because it was changed'),
        LayerOutputs(nn.Sequential(nn.ReLU()), ["1"]),
    ):
        pass
