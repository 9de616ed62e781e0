"""Training that starts from the matching weights of another model, saved in any format."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from imgrec import ClassificationTask
from imgrec.errors import UserError
from imgrec.export import read_origin, save_model_folder
from imgrec.export.state_dict import read_tensors, rename_tensors
from imgrec.models import Classifier, ClassifierSpecs, build_classifier
from imgrec.tasks.initial_weights import InitialWeights
from imgrec.types import DataFacts

TINY: dict[str, Any] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
SPECS = ClassifierSpecs(TINY, "linear", {"mean": [0.25], "std": [0.75]})
NAMES = tuple("abc")


def facts(names: tuple[str, ...] = NAMES) -> DataFacts:
    return DataFacts(names, (1,) * len(names), image_size=32, channels=1)


@pytest.fixture(scope="module")
def origin() -> Classifier:
    torch.manual_seed(5)
    return SPECS.build(facts()).eval()


@pytest.fixture(scope="module")
def places(origin: Classifier, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Paths of the same model, saved in every format."""
    place = tmp_path_factory.mktemp("places")
    save_model_folder(place / "folder", origin, SPECS, facts())
    save_model_folder(place / "run/model", origin, SPECS, facts())
    state = origin.state_dict()
    network = origin.backbone.network.state_dict()
    save_file(network, place / "bare.safetensors")
    lightning = {
        "state_dict": {f"model.{name}": value for name, value in state.items()} | {"loss.scale": torch.ones(1)},
        "hyper_parameters": {"facts": facts().to_dict()},
    }
    torch.save(lightning, place / "last.ckpt")
    torch.save({"model": {f"module.encoder.{name}": value for name, value in network.items()}}, place / "foreign.pth")
    names = ("folder", "run", "bare.safetensors", "last.ckpt", "foreign.pth")
    return {name.partition(".")[0]: place / name for name in names}


def built(start: Any, names: tuple[str, ...] = NAMES, **arguments: Any) -> ClassificationTask:
    given: dict[str, Any] = {"backbone": TINY, "init_from": start, "facts": facts(names).to_dict()}
    task = ClassificationTask(**given | arguments)
    task.configure_model()
    return task


def same_backbone(task: ClassificationTask, origin: Classifier) -> bool:
    theirs = origin.backbone.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in task.model.backbone.state_dict().items())


@pytest.mark.parametrize(
    ("place", "head"), [("folder", True), ("run", True), ("last", True), ("bare", False), ("foreign", False)]
)
def test_all_weights_are_loaded_from_every_format(
    place: str, head: bool, origin: Classifier, places: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imgrec")
    start = {"path": str(places[place]), "partial": True}
    if place == "foreign":
        start["rename"] = {"module.encoder.": ""}
    task = built(start)
    assert same_backbone(task, origin)
    assert (
        torch.equal(task.model.get_parameter("head.linear.weight"), origin.get_parameter("head.linear.weight")) == head
    )
    assert (float(task.model.mean), float(task.model.std)) == ((0.25, 0.75) if head else pytest.approx((0.449, 0.226)))
    assert f"model.init_from: {places[place]}" in caplog.text
    assert task.loaded_weights is not None
    assert task.loaded_weights.unknown == ()


def test_a_head_of_other_classes_with_the_right_shape_is_not_loaded(
    origin: Classifier, places: dict[str, Path]
) -> None:
    task = built({"path": str(places["folder"]), "partial": True}, ("a", "b", "d"))
    assert same_backbone(task, origin)
    assert task.loaded_weights is not None
    assert task.loaded_weights.other_classes == ("head.linear.bias", "head.linear.weight")
    assert not torch.equal(task.model.get_parameter("head.linear.weight"), origin.get_parameter("head.linear.weight"))


def test_a_scope_restricts_the_loaded_weights(origin: Classifier, places: dict[str, Path]) -> None:
    start = {"path": str(places["folder"]), "partial": True, "scope": ["conv1", "bn1", "layer1"]}
    task = built(start, normalize="half")
    assert task.loaded_weights is not None
    assert {name.split(".")[2] for name in task.loaded_weights.taken} == {"conv1", "bn1", "layer1"}
    assert any(name.endswith("running_var") for name in task.loaded_weights.taken)
    assert float(task.model.mean) == 0.5  # set in the config
    assert not same_backbone(task, origin)


def test_additional_layers_keep_their_initialization(origin: Classifier, places: dict[str, Path]) -> None:
    wider = {**TINY, "layers": [2, 1, 1, 1]}
    task = built({"path": str(places["folder"]), "partial": True}, backbone=wider)
    assert task.loaded_weights is not None
    assert task.loaded_weights.fresh
    assert all(".layer1.1." in name for name in task.loaded_weights.fresh)


def test_the_weights_of_the_backbone_are_loaded_first(origin: Classifier, places: dict[str, Path]) -> None:
    backbone = {**TINY, "weights": str(places["run"])}
    task = built({"path": str(places["folder"]), "partial": True, "scope": "head"}, backbone=backbone)
    assert same_backbone(task, origin)
    assert torch.equal(task.model.get_parameter("head.linear.weight"), origin.get_parameter("head.linear.weight"))


def test_a_timm_folder_has_other_names_and_classes(tmp_path: Path) -> None:
    network = timm.create_model(
        "resnet18", num_classes=3, in_chans=1, layers=(1, 1, 1, 1), channels=(8,) * 4, stem_width=8
    )
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    for label_names, taken in ((["a", "b", "c"], True), (["c", "b", "a"], False), (None, False)):
        config: dict[str, Any] = {"architecture": "resnet18", "pretrained_cfg": {"classifier": "fc", "mean": [0.1]}}
        if label_names is not None:
            config["label_names"] = label_names
        (tmp_path / "config.json").write_text(json.dumps(config))
        task = built({"path": str(tmp_path), "partial": True})
        assert torch.equal(task.model.get_parameter("head.linear.weight"), network.get_parameter("fc.weight")) == taken
        assert float(task.model.mean) == pytest.approx(0.1)


def test_a_checkpoint_does_not_depend_on_the_source(
    places: dict[str, Path], tmp_path: Path, fit: Callable[..., Any], tiny_backbone: dict[str, Any]
) -> None:
    save_file(build_classifier(TINY, "linear", "half", facts()).state_dict(), tmp_path / "gone.safetensors")
    start = {"path": str(tmp_path / "gone.safetensors"), "partial": True}
    task, trainer = fit(ClassificationTask(backbone=tiny_backbone, init_from=start, normalize="half"))
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    (tmp_path / "gone.safetensors").unlink()
    again = ClassificationTask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True)
    assert again.loaded_weights is None
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in task.state_dict().items())
    assert read_origin(tmp_path / "task.ckpt").facts.num_classes == 10


def test_the_longest_matching_prefix_is_renamed() -> None:
    state: dict[str, Tensor] = {"a.b.c": torch.ones(1), "a.d": torch.ones(1), "e": torch.ones(1)}
    assert list(rename_tensors(state, {"a.": "x.", "a.b.": ""})) == ["c", "x.d", "e"]


# ------------------------------------------------------------------ invalid arguments


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": "p", "parital": True}, r'there is no key "parital". Did you mean "partial"'),
        ({"partial": True}, r"init_from.path: expected a path, got None"),
        ({"path": "p", "partial": "yes"}, r"init_from.partial: expected true or false, got 'yes'"),
        ({"path": "p", "scope": "backbone"}, r"init_from.scope: expected `partial: true`"),
        ({"path": "p", "partial": True, "scope": 3}, r"init_from.scope: expected a pattern of names"),
        ({"path": "p", "partial": True, "rename": ["a"]}, r"init_from.rename: expected a mapping"),
        ({"path": "nowhere", "partial": True}, r"init_from: run folder, model folder, .* not found: .*nowhere"),
    ],
)
def test_an_invalid_source_raises_when_the_task_is_built(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ClassificationTask(backbone=TINY, init_from=given)


def test_a_source_without_matching_weights_raises(places: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no parameter matches .* tensors are backbone.network.module.*`rename`"):
        built({"path": str(places["foreign"]), "partial": True})
    with pytest.raises(UserError, match=r'init_from.scope: the pattern "layer9" matches no parameter'):
        built({"path": str(places["folder"]), "partial": True, "scope": "layer9"})
    torch.save({"step": 3}, tmp_path / "numbers.pt")
    with pytest.raises(UserError, match=r"holds no tensors by name"):
        read_tensors(tmp_path / "numbers.pt")
    (tmp_path / "broken.ckpt").write_bytes(b"PK\x03\x04 no")
    with pytest.raises(UserError, match="is no readable checkpoint"):
        read_tensors(tmp_path / "broken.ckpt")


def test_a_mapping_without_partial_equals_the_path(places: dict[str, Path], origin: Classifier) -> None:
    assert InitialWeights.parse({"path": "p"}) == InitialWeights.parse("p")
    task = built({"path": str(places["folder"])})
    assert task.loaded_weights is None
    assert torch.equal(task.model.get_parameter("head.linear.weight"), origin.get_parameter("head.linear.weight"))
    with pytest.raises(UserError, match="Use the same architecture"):
        ClassificationTask(backbone="resnet34", init_from={"path": str(places["folder"])})
