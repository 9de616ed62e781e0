"""Specs of a classifier in a task, a checkpoint and a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from imgrec import ClassificationTask, ImageDataModule
from imgrec.errors import UserError
from imgrec.export import load_model_folder, read_origin, read_specs, save_model_folder
from imgrec.models import BACKBONES, Backbone, ClassifierSpecs, build_classifier, compile_network
from imgrec.optim.param_groups import layer_numbers
from imgrec.tasks.initial_weights import InitialWeights
from imgrec.types import DataFacts

RESNET: dict[str, Any] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [4, 6, 8, 10]}
PARTS: dict[str, Any] = {
    "backbone": RESNET,
    "neck": {"name": "pan", "channels": 6},
    "pooling": "gem",
    "head": {"name": "mlp", "hidden": 5},
    "normalize": "half",
}
FACTS = DataFacts(("a", "b", "c"), (1, 1, 1), image_size=32)


def images(size: int = 32) -> torch.Tensor:
    return torch.randint(256, (3, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_specs_round_trip_as_plain_data() -> None:
    specs = ClassifierSpecs(**PARTS)
    assert json.loads(json.dumps(specs.to_dict())) == PARTS
    assert ClassifierSpecs.from_dict(specs.to_dict()) == specs
    assert ClassifierSpecs.from_dict(specs) is specs
    assert ClassifierSpecs.from_arguments({**PARTS, "optimizer": "sgd"}) == specs
    assert not specs.is_plain
    assert ClassifierSpecs("resnet18").is_plain
    started = ClassifierSpecs({**RESNET, "pretrained": True}, neck="fpn").without_initial_values()
    assert started == ClassifierSpecs(RESNET, neck="fpn")


def test_unknown_part_raises() -> None:
    with pytest.raises(UserError, match=r'expected parts of a classifier, which are backbone, head, .*, got "tail"'):
        ClassifierSpecs.from_dict({**PARTS, "tail": "long"})
    with pytest.raises(KeyError):
        ClassifierSpecs.from_dict({"backbone": "resnet18"})
    with pytest.raises(UserError, match="expected a mapping with the parts of a classifier"):
        ClassifierSpecs.from_dict(["resnet18"])  # type: ignore[arg-type]


def test_model_folder_with_neck_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    specs = ClassifierSpecs(**PARTS)
    model = specs.build(FACTS).eval()
    folder = save_model_folder(tmp_path / "model", model, specs, FACTS)
    config = json.loads((folder / "config.json").read_text())
    assert config["imgrec"]["specs"] == PARTS
    assert config["imgrec"]["version"] == 3
    assert config["imgrec"]["layout"] == "classifier"
    assert config["num_features"] == model.feature_dim == 18
    again, _ = load_model_folder(folder)
    assert torch.equal(again(images()), model(images()))
    assert read_specs(folder) == specs
    InitialWeights(str(folder)).check(specs)
    with pytest.raises(UserError, match=r"holds a classifier with the neck .*'pan'.* model\.neck is None"):
        InitialWeights(str(folder)).check(ClassifierSpecs(RESNET, PARTS["head"], pooling="gem"))


def test_plain_network_uses_timm_layout_and_old_version(tmp_path: Path) -> None:
    model = build_classifier(RESNET, "linear", "half", FACTS)
    old: dict[str, Any] = {"backbone": RESNET, "head": "linear", "normalize": "half"}
    folder = save_model_folder(tmp_path / "model", model, old, FACTS)
    config = json.loads((folder / "config.json").read_text())
    assert (config["imgrec"]["version"], config["imgrec"]["layout"]) == (1, "timm")
    assert config["imgrec"]["specs"] == old
    averaged = ClassifierSpecs(**old, pooling="average")
    folder = save_model_folder(tmp_path / "pooled", averaged.build(FACTS), averaged, FACTS)
    assert json.loads((folder / "config.json").read_text())["imgrec"]["layout"] == "classifier"


@pytest.mark.parametrize("part", ["neck", "pooling"])
def test_folder_cannot_name_code_of_another_kind(tmp_path: Path, part: str) -> None:
    specs = ClassifierSpecs(**PARTS)
    folder = save_model_folder(tmp_path / "model", specs.build(FACTS), specs, FACTS)
    config = json.loads((folder / "config.json").read_text())
    config["imgrec"]["specs"][part] = {"name": "os.mkdir", "path": str(tmp_path / "proof")}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r'got "os\.mkdir", which is code outside the registries'):
        load_model_folder(folder)
    assert not (tmp_path / "proof").exists()


def test_checkpoint_with_neck_loads_without_arguments(tmp_path: Path) -> None:
    task = ClassificationTask(**{**PARTS, "backbone": {"name": "cifar_resnet", "depth": 8, "widths": [4, 6, 8]}})
    data = ImageDataModule("digits", channels=1, batch_size=16, num_workers=0)
    trainer = pl.Trainer(
        max_steps=2, limit_val_batches=1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, datamodule=data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    again = ClassificationTask.load_from_checkpoint(tmp_path / "last.ckpt", map_location="cpu", weights_only=True)
    assert task.facts is not None
    size = task.facts.image_size
    batch = torch.randint(256, (2, 1, size, size), dtype=torch.uint8)
    with torch.no_grad():
        expected = task.eval().model(batch)
        assert torch.equal(again.eval().model(batch), expected)
        origin = read_origin(tmp_path / "last.ckpt")
        assert torch.equal(origin.classifier(batch), expected)
    assert origin.specs == task.specs


def test_layer_decay_with_neck() -> None:
    model = ClassifierSpecs(**PARTS).build(FACTS)
    numbers = layer_numbers(model)
    assert set(numbers) == {name for name, _ in model.named_parameters()}
    last = max(numbers.values())
    assert {numbers[name] for name in numbers if name.startswith(("neck.", "pooling.", "head."))} == {last}
    plain = layer_numbers(build_classifier(RESNET, "linear", "half", FACTS))
    assert all(numbers[name] == number for name, number in plain.items() if name in numbers and "head" not in name)


def test_compiled_neck_equals_plain_neck() -> None:
    torch.manual_seed(0)
    model = ClassifierSpecs(**PARTS).build(FACTS).eval()
    with torch.no_grad():
        expected, names = model(images()), list(model.state_dict())
        compile_network(model, {"backend": "eager"})
        assert list(model.state_dict()) == names
        torch.testing.assert_close(model(images()), expected)
    called = torch._dynamo.utils.counters["stats"]["calls_captured"]
    assert called > 0


class Ours(nn.Module):
    """A custom network with `stage_modules`."""

    stage_modules = (("fine",), ("coarse",))

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, 2, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.coarse(self.fine(images)).mean(dim=(2, 3))
        return found


def test_custom_backbone_with_neck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))
    BACKBONES.register("ours")(lambda: Backbone(Ours(), 5, (0.5,) * 3, (0.5,) * 3))
    model = ClassifierSpecs("ours", neck={"name": "fpn", "channels": 7}).build(FACTS)
    assert model(images()).shape == (3, 3)
    assert model.feature_dim == 14
