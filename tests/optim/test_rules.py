from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from imgrec.errors import SpecError, UserError
from imgrec.optim import build_optimizer, check_optimizer, read_rules


class Network(nn.Module):
    """Two convolutions, a norm and a head, by the names that a classifier has."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
        self.backbone = nn.ModuleDict({"network": layers})
        self.head = nn.Linear(4, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.backbone["network"](images).mean((2, 3)))
        return logits


class Task(nn.Module):
    """Module with a network and a loss that has a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Network()
        self.loss = nn.Module()
        self.loss.centres = nn.Parameter(torch.zeros(2, 4))


def settings(model: nn.Module, rules: list[dict[str, Any]], **values: Any) -> dict[str, tuple[float, float]]:
    """Return learning rate and weight decay of every parameter by name."""
    spec = {"name": "nesterov", "lr": 0.1, "weight_decay": 0.01, "groups": rules, **values}
    optimizer = build_optimizer(spec, model)
    names = {id(p): name for name, p in model.named_parameters()}
    found = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            found[names.pop(id(parameter))] = (round(group["lr"], 9), group["weight_decay"])
    assert not names
    return found


def test_a_pattern_has_its_own_learning_rate_and_weight_decay() -> None:
    found = settings(Network(), [{"scope": "head", "lr_factor": 10}, {"scope": "0", "weight_decay": 0.5}])
    assert found == {
        "backbone.network.0.weight": (0.1, 0.5),
        "backbone.network.0.bias": (0.1, 0.0),
        "backbone.network.1.weight": (0.1, 0.0),
        "backbone.network.1.bias": (0.1, 0.0),
        "backbone.network.2.weight": (0.1, 0.01),
        "backbone.network.2.bias": (0.1, 0.0),
        "head.weight": (1.0, 0.01),
        "head.bias": (1.0, 0.0),
    }


def test_later_rules_override_and_others_combine() -> None:
    rules = [
        {"scope": ["backbone", "head"], "lr_factor": 2.0, "weight_decay": 0.3},
        {"scope": "*.bias", "decay_norm_and_bias": True},
        {"scope": "head.bias", "lr_factor": 5.0},
    ]
    found = settings(Network(), rules)
    assert found["head.bias"] == (0.5, 0.3)
    assert found["head.weight"] == (0.2, 0.3)
    assert found["backbone.network.1.weight"] == (0.2, 0.0)
    assert found["backbone.network.1.bias"] == (0.2, 0.3)


def test_patterns_of_task_match_network_and_loss_parameters() -> None:
    found = settings(Task(), [{"scope": "head", "lr_factor": 3.0}, {"scope": "loss", "lr_factor": 0.0}])
    assert found["model.head.weight"] == (0.3, 0.01)
    assert found["loss.centres"][0] == 0.0
    assert found["model.backbone.network.0.weight"] == (0.1, 0.01)
    assert settings(Task(), [{"scope": "*.weight", "lr_factor": 3.0}])["model.head.weight"] == (0.3, 0.01)


def test_rules_multiply_layer_decay_and_scaled_rates() -> None:
    import timm

    spec = {"name": "adamw", "lr": 0.1, "layer_decay": 0.5, "groups": [{"scope": "fc", "lr_factor": 4.0}]}
    network: Any = timm.create_model("test_resnet", num_classes=3)
    plain = build_optimizer({**spec, "groups": None}, network)
    ruled = build_optimizer({**spec, "lr_reference_batch": 16}, network, effective_batch=32)
    rates = {id(p): group["lr"] for group in plain.param_groups for p in group["params"]}
    for group in ruled.param_groups:
        for parameter in group["params"]:
            head = any(parameter is each for each in network.fc.parameters())
            assert group["lr"] == pytest.approx(rates[id(parameter)] * 2 * (4 if head else 1))


def test_group_names_are_unique_and_plain_groups_first() -> None:
    spec: dict[str, Any] = {"name": "adamw", "lr": 0.1, "weight_decay": 0.1}
    rules = [{"scope": ["head", "1"], "lr_factor": 2}, {"scope": "*.bias", "weight_decay": 0.2}]
    names = [g["name"] for g in build_optimizer({**spec, "groups": rules}, Network()).param_groups]
    assert names[0] == "decay"
    assert len(set(names)) == len(names)


def test_a_group_may_have_any_option_of_the_optimizer() -> None:
    spec = {"name": "nesterov", "lr": 0.1, "groups": [{"scope": "head", "momentum": 0.5}]}
    assert [g["momentum"] for g in build_optimizer(spec, Network()).param_groups] == [0.9, 0.5]
    spec = {"name": "muon", "lr": 0.1, "groups": [{"scope": "head", "use_fallback": True}]}
    assert [g.get("use_fallback", False) for g in build_optimizer(spec, Network()).param_groups] == [False, True]


def test_step_equals_two_optimizers() -> None:
    model = Network()
    twin = copy.deepcopy(model)
    optimizer = build_optimizer({"name": "sgd", "lr": 0.1, "groups": [{"scope": "head", "lr_factor": 10.0}]}, model)
    theirs = [
        torch.optim.SGD(twin.backbone.parameters(), lr=0.1),
        torch.optim.SGD(twin.head.parameters(), lr=1.0),
    ]
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for network, optimizers in ((model, [optimizer]), (twin, theirs)):
        torch.autograd.backward(network(images).square().mean())
        for each in optimizers:
            each.step()
    torch.testing.assert_close(model.state_dict(), twin.state_dict())


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ([{"scope": "head", "lr_facto": 2}], r'groups\[0\]: unknown key "lr_facto".*Did you mean "lr_factor"'),
        ([{"scop": "head"}], r"groups\[0\]: expected a mapping with the key `scope`"),
        (["head"], r"groups: expected"),
        ([{"scope": [], "lr_factor": 2}], r"groups\[0\]: expected a mapping with the key `scope`"),
        ([{"scope": "head"}], r"groups\[0\]: expected a setting in addition to `scope`"),
        ([{"scope": "head", "lr_factor": -1}], r"groups\[0\]\.lr_factor: expected "),
        ([{"scope": "head", "weight_decay": "much"}], r"groups\[0\]\.weight_decay: expected float"),
        (
            [{"scope": "0"}, {"scope": "head", "betas": [0.5, 0.9], "nu": 2}],
            r"groups\[0\]: expected a setting in addition to `scope`",
        ),
        ([{"scope": "head", "decay_norm_and_bias": 1}], r"decay_norm_and_bias: expected bool"),
    ],
)
def test_invalid_rule_is_rejected_before_model(rules: Any, message: str) -> None:
    with pytest.raises(SpecError, match=f"^model\\.optimizer.*{message}"):
        check_optimizer({"name": "nesterov", "lr": 0.1, "groups": rules})


def test_pattern_without_match_is_rejected_with_suggestion() -> None:
    spec = {"name": "sgd", "lr": 0.1, "groups": [{"scope": "had", "lr_factor": 2}]}
    for model in (Network(), Task()):
        with pytest.raises(SpecError, match=r'^model\.optimizer: groups\[0\]\.scope: the pattern "had".*"head"'):
            build_optimizer(spec, model)


def test_global_options_are_rejected_in_groups() -> None:
    def whole(params: Any, lr: float = 0.1, tint: float = 1.0) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=lr)

    from imgrec.optim import OptimizerFactory

    with pytest.raises(UserError, match=r"groups\[0\]: `tint` of whole applies to all parameters"):
        OptimizerFactory(whole).check_arguments(groups=[{"scope": "head", "tint": 2.0}])
    with pytest.raises(UserError, match="whole has no weight decay"):
        OptimizerFactory(whole).check_arguments(groups=[{"scope": "head", "weight_decay": 2.0}])


def test_missing_rules_are_empty() -> None:
    assert read_rules(None, {}) == []
    assert settings(Network(), []) == settings(Network(), [{"scope": "head", "lr_factor": 1.0}])
