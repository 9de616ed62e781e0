from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from imgrec.errors import SpecError
from imgrec.models import BACKBONES, build_classifier, check_classifier
from imgrec.types import DataFacts

FACTS = DataFacts(("a", "b"), (1, 1), image_size=64)


def write_folder(folder: Path, name: str = "mobilenetv3_small_050", **extra: object) -> torch.nn.Module:
    torch.manual_seed(1)
    network: torch.nn.Module = timm.create_model(name, num_classes=7)
    folder.mkdir(exist_ok=True)
    save_file(network.state_dict(), folder / "model.safetensors")
    cfg = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "classifier": "classifier", "first_conv": "conv_stem"}
    config = {"architecture": name, "num_classes": 7, "pretrained_cfg": {**cfg, "input_size": [3, 64, 64]}, **extra}
    (folder / "config.json").write_text(json.dumps(config))
    return network.eval()


def test_folder_sets_tensors_and_normalization(tmp_path: Path) -> None:
    network = write_folder(tmp_path)
    backbone = BACKBONES.build({"name": "mobilenetv3_small_050", "weights": str(tmp_path)}, image_size=64).eval()
    assert backbone.mean == (0.1, 0.2, 0.3)
    assert backbone.std == (0.4, 0.5, 0.6)
    state, expected = backbone.network.state_dict(), network.state_dict()
    assert expected.keys() - state.keys() == {"classifier.weight", "classifier.bias"}
    for key, value in state.items():
        assert torch.equal(value, expected[key]), key


def test_file_sets_tensors_only(tmp_path: Path) -> None:
    network = write_folder(tmp_path)
    weights = str(tmp_path / "model.safetensors")
    backbone = BACKBONES.build({"name": "mobilenetv3_small_050", "weights": weights}, image_size=64)
    assert torch.equal(backbone.network.get_parameter("conv_stem.weight"), network.get_parameter("conv_stem.weight"))
    assert backbone.mean == BACKBONES.build("mobilenetv3_small_050", image_size=64).mean


def test_gray_images_use_sum_of_color_filters(tmp_path: Path) -> None:
    network = write_folder(tmp_path)
    spec = {"name": "mobilenetv3_small_050", "weights": str(tmp_path)}
    backbone = BACKBONES.build(spec, image_size=64, in_channels=1)
    expected = network.get_parameter("conv_stem.weight").sum(1, keepdim=True)
    torch.testing.assert_close(backbone.network.get_parameter("conv_stem.weight"), expected)
    assert backbone.mean == pytest.approx((0.2,))


def test_position_embeddings_are_resampled_for_another_image_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network: Any = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=1)
    with torch.no_grad():
        network.pos_embed.fill_(0.25)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    spec = {"name": "vit_tiny_patch16_224", "weights": str(tmp_path / "vit.safetensors"), "depth": 1}
    built = BACKBONES.build(spec, image_size=64).network
    embedding = built.get_parameter("pos_embed")
    assert embedding.shape == (1, 16 + 1, 192)
    torch.testing.assert_close(embedding, torch.full_like(embedding, 0.25))
    assert torch.equal(built.get_parameter("norm.weight"), network.norm.weight)


def test_torchvision_weights_without_last_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = BACKBONES.build("torchvision/googlenet", image_size=64, num_classes=5)
    state = {**original.network.state_dict(), "fc.weight": torch.zeros(5, 1024), "fc.bias": torch.zeros(5)}
    save_file(state, tmp_path / "w.safetensors")
    spec = {"name": "torchvision/googlenet", "weights": str(tmp_path / "w.safetensors")}
    for more in ({}, {"auxiliary": False}):  # auxiliary classifiers of other classes are unchanged
        built = BACKBONES.build({**spec, **more}, image_size=64, num_classes=2).network.state_dict()
        same = [k for k, v in built.items() if not k.startswith("aux") or k.split(".")[1] != "fc2"]
        assert len(same) > 300
        assert all(torch.equal(built[k], state[k]) for k in same)


@pytest.mark.slow
def test_torchvision_position_embeddings_are_resampled(tmp_path: Path) -> None:
    small = {"name": "torchvision/vit_b_32"}
    state = BACKBONES.build(small, image_size=64).network.state_dict()
    state["encoder.pos_embedding"].fill_(0.5)
    save_file(state, tmp_path / "vit.safetensors")
    built = BACKBONES.build({**small, "weights": str(tmp_path / "vit.safetensors")}, image_size=96).network
    embedding = built.get_parameter("encoder.pos_embedding")
    assert embedding.shape[1] == 9 + 1
    torch.testing.assert_close(embedding, torch.full_like(embedding, 0.5))


def test_load_weights_false_reads_nothing() -> None:
    for name in ("resnet18", "torchvision/resnet18"):
        for source in ({"weights": "gone/since"}, {"pretrained": True}):
            spec = {"name": name, **source}
            check_classifier(spec, "linear", "auto", load_weights=False)
            model = build_classifier(spec, "linear", "auto", FACTS, load_weights=False)
            assert model.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])


def test_mismatched_weights_raise_with_reason(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", model_args={"drop_rate": 0.1})
    folder = str(tmp_path / "folder")

    def refused(spec: dict[str, object]) -> str:
        with pytest.raises(SpecError) as caught:
            build_classifier(spec, "linear", "auto", FACTS)
        return str(caught.value)

    other = refused({"name": "resnet18", "weights": folder})
    assert "mobilenetv3_small_050" in other
    assert "resnet18" in other
    state = timm.create_model("mobilenetv3_small_050", num_classes=7).state_dict()
    save_file({k: v for k, v in state.items() if k != "conv_stem.weight"}, tmp_path / "less.safetensors")
    less = refused({"name": "mobilenetv3_small_050", "weights": str(tmp_path / "less.safetensors")})
    assert "conv_stem.weight" in less
    save_file({**state, "extra.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    assert "extra.weight" in refused({"name": "mobilenetv3_small_050", "weights": str(tmp_path / "more.safetensors")})
    wider = refused({"name": "mobilenetv3_small_050", "weights": folder, "round_chs_fn": None, "stem_size": 32})
    assert "stem_size=32" in wider or "conv_stem.weight" in wider
    tv = BACKBONES.build("torchvision/resnet18", image_size=64).network.state_dict()
    tv["layer1.0.conv1.weight"] = torch.zeros(1, 1, 3, 3)
    save_file(tv, tmp_path / "tv.safetensors")
    assert "layer1.0.conv1.weight" in refused(
        {"name": "torchvision/resnet18", "weights": str(tmp_path / "tv.safetensors")}
    )
    (tmp_path / "cut.safetensors").write_bytes(b"123456")
    assert "safetensors" in refused({"name": "resnet18", "weights": str(tmp_path / "cut.safetensors")})


def test_missing_or_invalid_source_raises_in_check(tmp_path: Path) -> None:
    (tmp_path / "pickle.pth").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for weights, word in [
        (tmp_path / "gone", "not found"),
        (tmp_path / "pickle.pth", "expected a safetensors file"),
        (tmp_path / "empty", "no config.json"),
        (tmp_path / "broken", "not valid JSON"),
    ]:
        with pytest.raises(SpecError, match=word) as caught:
            check_classifier({"name": "resnet18", "weights": str(weights)}, "linear", "auto")
        assert str(caught.value).startswith("model.backbone.weights: ")


def test_efficientnet_folder_normalization() -> None:
    if not os.environ.get("IMGREC_DATA"):
        pytest.skip("IMGREC_DATA is not set")
    spec = {"name": "tf_efficientnet_lite0", "weights": "weights/tf_efficientnet_lite0"}
    check_classifier(spec, "linear", "auto")
    model = build_classifier(spec, "linear", "auto", FACTS).eval()
    assert model.mean.tolist() == [0.5] * 3
    folder = Path(os.environ["IMGREC_DATA"]) / "weights" / "tf_efficientnet_lite0"
    original = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images), original(images * 2 - 1))
