from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_data_config
from torch import nn

from imgrec.errors import UserError
from imgrec.export import load_model_folder, save_model_folder
from imgrec.export.description import describe_network
from imgrec.export.model_folder.model_card import model_card
from imgrec.export.model_folder.save import VERSION
from imgrec.models import Classifier, ClassifierSpecs, build_classifier
from imgrec.registry import Spec
from imgrec.types import DataFacts
from imgrec.utils import yaml

TINY: dict[str, Any] = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 16, 16, 32], "stem_width": 8}


def facts(image_size: int = 64, channels: int = 3) -> DataFacts:
    return DataFacts(
        ("cat", "dog", "a <b>"),
        (5, 6, 7),
        image_size=image_size,
        channels=channels,
        eval_transforms=({"name": "resize", "scale": 1.25, "interpolation": "bicubic"}, "center_crop"),
    )


def trained(backbone: Spec, head: Spec, known: DataFacts, normalize: str = "auto") -> Classifier:
    """Return a classifier whose buffers and parameters all differ from the initial ones."""
    torch.manual_seed(0)
    model = build_classifier(backbone, head, normalize, known)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def saved(folder: Path, backbone: Spec, head: Spec, known: DataFacts) -> Classifier:
    model = trained(backbone, head, known)
    save_model_folder(folder, model, {"backbone": backbone, "head": head, "normalize": "auto"}, known, "Made by us.")
    return model


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        (TINY, 1),
        ({"name": "resnet18", "stem_type": "deep", "layers": [1, 1, 1, 1]}, 3),
        ("vit_tiny_patch16_224", 3),
        ("mobilenetv3_small_050.lamb_in1k", 3),
        ("convnext_atto", 1),
        ("tf_efficientnet_lite0", 3),
    ],
)
def test_timm_loads_the_folder_and_gives_the_same_logits(tmp_path: Path, backbone: Spec, channels: int) -> None:
    known = facts(channels=channels)
    model = saved(tmp_path / "model", backbone, {"name": "linear", "dropout": 0.1}, known)
    network: Any = timm.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    images = torch.randint(0, 256, (2, channels, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(network(model.normalize(images)), expected, rtol=1e-5, atol=1e-5)
        again, known_again = load_model_folder(tmp_path / "model")
        assert torch.equal(again(images), expected)
    assert known_again == known
    assert network.pretrained_cfg["label_names"] == list(known.class_names)
    data: dict[str, Any] = resolve_data_config(model=network)  # type: ignore[no-untyped-call]
    assert data["input_size"] == (channels, 64, 64)
    assert tuple(data["mean"]) == pytest.approx(model.mean.tolist())
    assert (data["crop_pct"], data["interpolation"]) == (0.8, "bicubic")


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        (TINY, {"name": "cosine", "learnable": True}),
        ("torchvision/squeezenet1_1", "linear"),
        ("torchvision/mnasnet0_5", "linear"),
        ("torchvision/googlenet", "linear"),
        ("deit_tiny_distilled_patch16_224", "linear"),
    ],
)
def test_models_that_timm_cannot_build_are_restored(tmp_path: Path, backbone: Spec, head: Spec) -> None:
    model = saved(tmp_path, backbone, head, facts())
    images = torch.rand(2, 3, 64, 64)
    again, known = load_model_folder(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(images), model(images))
    assert known == facts()
    assert not again.training
    with pytest.raises((RuntimeError, ValueError)):
        timm.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_a_fresh_process_without_network_or_original_weights_gives_the_same_logits(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=9).state_dict()
    save_file(state, tmp_path / "start.safetensors")
    start = tmp_path / "start.safetensors"
    model = saved(tmp_path / "model", {"name": "test_resnet", "weights": str(start)}, "linear", facts())
    start.unlink()
    assert "start.safetensors" not in (tmp_path / "model" / "config.json").read_text()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        save_file({"images": images, "logits": model(images)}, tmp_path / "expected.safetensors")
    code = f"""
import socket, torch
def refuse(*_): raise OSError("no network here")
socket.socket.connect = refuse
from safetensors.torch import load_file
from imgrec.export import load_model_folder
expected = load_file({str(tmp_path / "expected.safetensors")!r})
model, _ = load_model_folder({str(tmp_path / "model")!r})
with torch.no_grad():
    print(torch.equal(model(expected["images"]), expected["logits"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


def test_normalization_is_stored_from_the_model(tmp_path: Path) -> None:
    model = trained(TINY, "linear", facts())
    model.mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    save_model_folder(tmp_path, model, {"backbone": TINY, "head": "linear", "normalize": "auto"}, facts())
    assert torch.equal(load_model_folder(tmp_path)[0].mean, model.mean)


def test_the_card_contains_the_classes_and_no_path(tmp_path: Path) -> None:
    saved(tmp_path, TINY, "linear", facts())
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: timm\n")
    for words in ("Made by us.", "0. cat", r"2. a \<b\>", "64 x 64", "imgrec.load"):
        assert words in card
    assert str(tmp_path) not in card


def test_the_card_describes_specs_and_surgery() -> None:
    specs = ClassifierSpecs(TINY, pooling="gem", edits={"name": "se", "scope": "layer1"})
    cut = [{"step": "channels"}, {"step": "blocks"}, {"step": "channels"}, {"step": "qat"}]
    card = model_card("tiny", describe_network(facts(), (0.5,), (0.5,)), False, None, specs, cut)
    shown = card.partition("```yaml\n")[2].partition("```")[0]
    assert yaml.parse(shown) == specs.to_dict()
    assert "channels were removed, then residual blocks were removed, then it was trained" in card
    assert "Since it was built" not in model_card("tiny", describe_network(facts(), (0.5,), (0.5,)), False, None, specs)


def test_saving_changes_neither_the_model_nor_the_random_state(tmp_path: Path) -> None:
    model = trained(TINY, "linear", facts()).train()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.state_dict().items()}
    save_model_folder(tmp_path, model, {"backbone": TINY, "head": "linear", "normalize": "auto"}, facts())
    assert torch.equal(torch.get_rng_state(), before)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    load_model_folder(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_half_precision_is_restored(tmp_path: Path) -> None:
    model = trained(TINY, "linear", facts()).to(torch.bfloat16)
    save_model_folder(tmp_path, model, {"backbone": TINY, "head": "linear", "normalize": "auto"}, facts())
    again, _ = load_model_folder(tmp_path)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert again(images).dtype == torch.bfloat16
        assert torch.equal(again(images), model(images))


def test_a_model_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    saved(tmp_path / "model", TINY, "linear", facts())
    newer = saved(tmp_path / "model", TINY, "cosine", facts())
    again, _ = load_model_folder(tmp_path / "model")
    assert torch.equal(again.state_dict()["head.weight"], newer.state_dict()["head.weight"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_an_error_leaves_the_old_folder_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "model", TINY, "linear", facts())
    before = {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imgrec.export.model_folder.save.save_file", full)
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        saved(tmp_path / "model", TINY, "cosine", facts())
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model"]


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all of it")
    with pytest.raises(UserError, match="no model folder"):
        saved(tmp_path, TINY, "linear", facts())
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_model_folder(folder)
    return str(caught.value)


def edit(folder: Path, change: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_invalid_folders_raise_clear_errors(tmp_path: Path) -> None:
    assert "not found" in refusal(tmp_path / "nowhere")
    assert "no config.json" in refusal(tmp_path)
    saved(tmp_path, TINY, "linear", facts())
    edit(tmp_path, lambda c: c["imgrec"].update(version=VERSION + 1))
    assert "newer imgrec" in refusal(tmp_path)
    edit(tmp_path, lambda c: c["imgrec"].update(version=1, layout="timm"))
    tensors = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "fc.bias"}, tmp_path / "model.safetensors")
    assert "head.linear.bias" in refusal(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert "not a readable safetensors file" in refusal(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert "holds no model.safetensors" in refusal(tmp_path)
    edit(tmp_path, lambda c: c["imgrec"].pop("facts"))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert "'facts'" in refusal(tmp_path)


@pytest.mark.parametrize("part", ["backbone", "head", "transform"])
def test_a_folder_cannot_call_functions(tmp_path: Path, part: str) -> None:
    saved(tmp_path / "model", TINY, "linear", facts())
    foreign = {"name": "os.mkdir", "path": str(tmp_path / "proof")}

    def plant(config: dict[str, Any]) -> None:
        if part == "transform":
            config["imgrec"]["facts"]["eval_transforms"] = [foreign]
        else:
            config["imgrec"]["specs"][part] = foreign

    edit(tmp_path / "model", plant)
    assert "os.mkdir" in refusal(tmp_path / "model")
    assert not (tmp_path / "proof").exists()


def test_a_timm_folder_provides_preprocessing_and_class_names(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = timm.create_model("test_resnet", num_classes=3).eval()
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 96, 96], "crop_pct": 0.75, "interpolation": "bilinear", "mean": [0.1] * 3, "std": [1] * 3}
    config = {
        "architecture": "test_resnet",
        "num_classes": 3,
        "label_names": ["x", "y", "z"],
        "pretrained_cfg": {**cfg, "classifier": "fc", "first_conv": "conv1.0"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model, known = load_model_folder(tmp_path)
    assert known.class_names == ("x", "y", "z")
    assert known.image_size == 96
    assert known.eval_transforms == ({"name": "resize", "scale": 1 / 0.75, "interpolation": "bilinear"}, "center_crop")
    images = torch.rand(2, 3, 96, 96)
    with torch.no_grad():
        torch.testing.assert_close(model(images), network(images - 0.1))
    del config["label_names"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_model_folder(tmp_path)[1].class_names == ("0", "1", "2")
    (tmp_path / "config.json").write_text(json.dumps({**config, "label_names": ["x"]}))
    assert "names 1 classes, its network has 3" in refusal(tmp_path)


def test_a_downloaded_timm_folder_has_the_logits_of_timm() -> None:
    if not os.environ.get("IMGREC_DATA"):
        pytest.skip("IMGREC_DATA is not set")
    folder = Path(os.environ["IMGREC_DATA"]) / "weights" / "tf_efficientnet_lite0"
    model, known = load_model_folder(folder)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model(images), network(images * 2 - 1), rtol=1e-4, atol=1e-4)
    assert known.class_names[999] == "999"
