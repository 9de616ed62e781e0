"""Selection of parameters by patterns."""

from __future__ import annotations

import pytest
from torch import nn

from imgrec.errors import UserError
from imgrec.models.utils.patterns import in_scope, scope_names


class Nested(nn.Module):
    """A network with the names of a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def test_module_selects_its_parameters_and_prefix_is_optional() -> None:
    model = Nested()
    assert scope_names(model, "head") == ["head.weight", "head.bias"]
    assert scope_names(model, "0") == scope_names(model, "backbone.network.0")
    assert scope_names(model, ["1.weight", "head.*"]) == ["backbone.network.1.weight", "head.weight", "head.bias"]
    assert scope_names(model, None) == [name for name, _ in model.named_parameters()]


def test_part_of_a_name_does_not_match() -> None:
    assert not in_scope("layer10.conv.weight", "layer1")
    assert not in_scope("head.weight", "eight")


def test_unmatched_pattern_raises_with_names() -> None:
    with pytest.raises(UserError, match=r'model\.x: the pattern "haed" matches no parameter.*Did you mean "head"'):
        scope_names(Nested(), ["0", "haed"], "model.x")
