"""Weight normalization: gradients, resume, merge into the model folder."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from imgrec import ClassificationTask
from imgrec.errors import SpecError
from imgrec.export import load_model_folder, save_model_folder
from imgrec.models import ClassifierSpecs
from imgrec.models.edits.weight_norm import WeightNorm
from tests.callbacks.small_training import BACKBONE, digits, in_two_parts, same, task, trainer
from tests.models.small_models import GRAY_FACTS, edited_classifier, gray_images

SPECS = ClassifierSpecs(BACKBONE, "linear", "half", edits={"name": "weight_norm", "scope": ["layer1", "layer2"]})


def test_initial_output_is_unchanged() -> None:
    plain, edited = edited_classifier(BACKBONE), edited_classifier(BACKBONE, SPECS.edits)
    torch.testing.assert_close(edited(gray_images()), plain(gray_images()))
    names = {name for name, _ in edited.named_parameters()}
    assert "backbone.network.layer1.0.conv1.parametrizations.weight.original0" in names
    assert "backbone.network.layer3.0.conv1.weight" in names


def test_gradients_equal_paper() -> None:
    """Compare with equation 3: projection on the direction for the length, the remainder for the direction."""
    layer = nn.Linear(5, 3)
    plain = copy.deepcopy(layer)
    edited: Any = WeightNorm()(nn.Sequential(layer))
    given = torch.randn(7, 5)
    edited(given).pow(3).sum().backward()
    plain(given).pow(3).sum().backward()
    assert plain.weight.grad is not None
    length, direction = plain.weight.detach().norm(dim=1, keepdim=True), plain.weight.detach()
    along = (plain.weight.grad * direction).sum(1, keepdim=True) / length
    originals = edited[0].parametrizations.weight
    torch.testing.assert_close(originals.original0.grad, along)
    torch.testing.assert_close(originals.original1.grad, plain.weight.grad - along * direction / length)


def test_model_folder_contains_ordinary_weights(tmp_path: Path) -> None:
    made = task(edits=SPECS.edits)
    training = trainer(tmp_path, [], enable_checkpointing=False, max_epochs=1)
    training.fit(made, datamodule=digits())
    weight = made.get_parameter("model.backbone.network.layer1.0.conv1.parametrizations.weight.original0")
    assert not torch.equal(
        weight,
        edited_classifier(BACKBONE, SPECS.edits).get_parameter(
            "backbone.network.layer1.0.conv1.parametrizations.weight.original0"
        ),
    )
    made.eval()
    save_model_folder(tmp_path / "model", made.model, made.specs, made.facts or GRAY_FACTS)
    loaded, _ = load_model_folder(tmp_path / "model")
    assert not any("parametrizations" in name for name in loaded.state_dict())
    torch.testing.assert_close(loaded(gray_images()), made(gray_images()))
    assert any("parametrizations" in name for name in made.state_dict())  # the trained model is unchanged
    started = ClassificationTask(backbone=BACKBONE, normalize="half", init_from=str(tmp_path / "model"))
    torch.testing.assert_close(started.build_model(made.facts or GRAY_FACTS).eval()(gray_images()), made(gray_images()))


def test_resumed_training_equals_uninterrupted_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tests.callbacks.small_training as small

    monkeypatch.setattr(small, "task", lambda: task(edits=SPECS.edits))
    first, second = in_two_parts(tmp_path, list, at_step=7)
    assert any("original1" in name for name in first["state_dict"])
    assert same(first["state_dict"], second["state_dict"])


def test_zero_filter_raises() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    nn.init.zeros_(network[1].weight)  # type: ignore[arg-type]
    with pytest.raises(Exception, match="a filter of 1 is all zeros and has no direction"):
        WeightNorm()(network)
    WeightNorm(scope="0")(network)
    for scope, message in (("layer9", 'the pattern "layer9" matches no layer'), ("bn1", "matches no linear or")):
        with pytest.raises(SpecError, match=message):
            edited_classifier(BACKBONE, {"name": "weight_norm", "scope": scope})
