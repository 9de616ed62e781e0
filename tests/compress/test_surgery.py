from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from imgrec.compress import note_step, rebuild, resize, select, surgery_of, surgical, widths_step
from imgrec.compress.surgery import surgical_copy
from imgrec.errors import UserError
from imgrec.models import Classifier, build_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("cat", "dog"), (1, 1), image_size=32)


def built(*channels: int) -> Classifier:
    spec = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": list(channels), "stem_width": 8}
    return build_classifier(spec, "linear", "half", FACTS).eval()


def test_the_difference_of_two_widths_converts_one_to_the_other() -> None:
    """Compare with a narrower network of timm, which is independent of the computation of the step."""
    narrow, wide = built(8, 8, 12, 16), built(8, 16, 16, 32)
    step = json.loads(json.dumps(widths_step(wide, narrow)))
    again = rebuild(built(8, 16, 16, 32), [step])
    again.load_state_dict(narrow.state_dict())
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(again(images), narrow(images))
    for (name, ours), (_, theirs) in zip(again.named_modules(), narrow.named_modules(), strict=True):
        assert ours.extra_repr() == theirs.extra_repr(), name
    assert isinstance(again, Classifier)
    assert again.backbone.feature_dim == 16
    assert surgery_of(again) == [step]
    assert not any(name.startswith("backbone.network.layer1") for name in step["shapes"])


def test_two_steps_are_merged() -> None:
    first, second, third = built(8, 16, 16, 32), built(8, 12, 16, 24), built(8, 4, 16, 16)
    model = built(8, 16, 16, 32)
    note_step(model, widths_step(first, second))
    note_step(model, widths_step(second, third))
    (merged,) = surgery_of(model)
    assert merged == json.loads(json.dumps(widths_step(first, third)))


def test_the_values_at_the_given_indices_are_kept() -> None:
    wide, narrow = nn.Linear(4, 3), nn.Linear(2, 3)
    old = wide.weight.detach().clone()
    wide.weight.grad = torch.arange(12.0).view(3, 4)
    kept = {"weight": torch.tensor([[1, 3], [5, 7], [9, 11]])}
    parameter = wide.weight
    resize(wide, widths_step(wide, narrow), kept)
    assert wide.in_features == 2
    assert wide.weight is parameter
    assert torch.equal(wide.weight, old[:, [1, 3]])
    assert torch.equal(parameter.grad, torch.tensor([[1.0, 3.0], [5.0, 7.0], [9.0, 11.0]]))  # type: ignore[arg-type]
    assert torch.equal(select(old, kept["weight"]), old[:, [1, 3]])
    nn.functional.mse_loss(wide(torch.rand(5, 2)), torch.zeros(5, 3)).backward()  # type: ignore[no-untyped-call]
    assert wide.weight.grad is not None
    assert wide.weight.grad.shape == (3, 2)


def test_a_stored_loss_does_not_keep_the_old_shape() -> None:
    wide, narrow = nn.Linear(4, 3), nn.Linear(2, 3)
    kept_loss = (wide(torch.rand(5, 4)) ** 2).sum()
    kept_loss.backward()
    resize(wide, widths_step(wide, narrow))
    (wide(torch.rand(5, 2)) ** 2).sum().backward()
    assert wide.weight.grad is not None
    assert wide.weight.grad.shape == (3, 2)
    assert kept_loss.grad_fn is not None


def test_the_memory_format_is_kept() -> None:
    wide, narrow = nn.Conv2d(4, 6, 3), nn.Conv2d(4, 2, 3)
    step = widths_step(wide, narrow)
    wide.to(memory_format=torch.channels_last)
    resize(wide, step)
    assert wide.weight.is_contiguous(memory_format=torch.channels_last)
    assert wide(torch.rand(1, 4, 5, 5)).shape == (1, 2, 3, 3)


def test_a_shared_tensor_is_resized_once() -> None:
    def tied(width: int) -> nn.Sequential:
        layers = nn.Sequential(nn.Linear(3, width), nn.Linear(3, width))
        layers[1].weight = layers[0].weight
        return layers

    model = tied(5)
    resize(model, widths_step(tied(5), tied(2)))
    assert model[0].weight is model[1].weight
    assert model[0].weight.shape == (2, 3)


def small() -> nn.Module:
    return nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8)))


def refusal(steps: Any) -> str:
    model = small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError) as caught:
        rebuild(model, steps, "the record")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert surgery_of(model) == []
    return str(caught.value)


def test_an_invalid_record_is_refused_without_changes() -> None:
    def channels(**given: Any) -> list[Mapping[str, Any]]:
        return [{"step": "channels", "attributes": {}, "shapes": {}} | given]

    assert 'unknown step "chanels"' in refusal([{"step": "chanels"}])
    assert 'Did you mean "channels"?' in refusal([{"step": "chanels"}])
    assert "not a list of steps" in refusal({"step": "channels"})
    assert "expected a step with the mappings" in refusal([{"step": "channels"}])
    conv = "conv"
    assert 'has no module "nowhere"' in refusal(channels(attributes={"nowhere": {"groups": 1}}))
    assert "`weight`" in refusal(channels(attributes={conv: {"weight": 3}}))
    assert "`forward`" in refusal(channels(attributes={conv: {"forward": 3}}))
    assert "'__import__'" in refusal(channels(attributes={conv: {"groups": "__import__"}}))
    assert 'no tensor "nothing"' in refusal(channels(shapes={"nothing": [1]}))
    for shape in ([9, 3, 3, 3], [0, 3, 3, 3], [8, 3, 3], [8.0, 3, 3, 3], "8377"):
        assert "cannot become" in refusal(channels(shapes={f"{conv}.weight": shape}))
    assert "no block" in refusal([{"step": "blocks", "removed": ["layer9"]}])
    assert "no block" in refusal([{"step": "blocks", "removed": [""]}])
    assert "a list of names" in refusal([{"step": "blocks"}])


def test_a_step_name_is_registered_once() -> None:
    with pytest.raises(ValueError, match="already registered"):
        surgical("channels")(resize)


def test_a_surgery_copy_has_no_hooks() -> None:
    model = small()
    calls: list[int] = []
    model.get_submodule("norm").register_forward_hook(lambda *_: calls.append(1))
    surgical_copy(model)(torch.rand(1, 3, 8, 8))
    assert not calls
    model(torch.rand(1, 3, 8, 8))
    assert calls
