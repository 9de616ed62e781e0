"""Quantization of a run: files, measured accuracy, search for sensitive layers, and exceeded budgets."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from imgrec.compress.quantization.onnx_static import OnnxInt8
from imgrec.data import ImageDataModule
from imgrec.errors import BudgetExceededError, UserError
from imgrec.export.export_folder import read_export
from imgrec.export.runtimes.registry import open_runtime
from imgrec.runs.data import load_run_data
from imgrec.runs.evaluation import predict_split
from imgrec.runs.folder import RunFolder
from imgrec.runs.load import load
from imgrec.studies.compression.accuracy_budget import Budget
from imgrec.studies.compression.quantize import quantize_run

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_int8_with_its_accuracy_drop(run: Path) -> None:
    folder = quantize_run(run, calibration=64)
    assert folder == run / "exports" / "onnxruntime-int8"
    export = read_export(folder)
    record = export.quantization
    assert record is not None
    assert (export.precision, record["kept"], record["trials"][0]["kept"], record["budget"]["holds"]) == (
        "int8",
        [],
        [],
        True,
    )
    assert record["calibration"] == {"split": "train", "images": 64, "seed": 0}
    model = onnx.load(str(export.file))
    assert sum(node.op_type == "DequantizeLinear" for node in model.graph.node) > record["layers"]
    data = load_run_data(RunFolder(run))
    with open_runtime(folder, "onnxruntime") as network:
        found = predict_split(data, "val", network)
    assert found is not None
    before = RunFolder(run).predictions("val")
    assert record["accuracy"]["images"] == len(found.targets)
    assert record["accuracy"]["after"] == pytest.approx(100 * found.accuracy, abs=1e-3)
    assert record["accuracy"]["before"] == pytest.approx(100 * before.accuracy, abs=0.6)  # trained in another runtime
    agreement = np.mean(found.logits.argmax(1) == before.logits.argmax(1))
    assert record["accuracy"]["agreement"] == pytest.approx(agreement, abs=0.01)


def relabelled(run: Path) -> ImageDataModule:
    """Return the data of the run with the predictions of its model as labels, so that float32 is always correct."""
    data: ImageDataModule = load_run_data(RunFolder(run))
    predictor = load(run, device="cpu")
    rows = data.splits.val
    images = torch.cat([batch.images for batch in data.val_dataloader()])
    data.source.targets[rows] = predictor.logits(images).argmax(1).numpy()
    return data


def spoil(monkeypatch: pytest.MonkeyPatch, *layers: str) -> None:
    """Patch int8 quantization to shuffle the quantized weights of some layers."""
    plain = OnnxInt8.write

    def write(self: OnnxInt8, target: Path, keep: Any = ()) -> Path:
        file = plain(self, target, keep)
        model = onnx.load(str(file))
        for tensor in model.graph.initializer:
            if any(tensor.name.startswith(f"{layer}.weight_quantized") for layer in layers):
                values = onnx.numpy_helper.to_array(tensor)
                mixed = np.random.default_rng(0).permutation(values.ravel()).reshape(values.shape)
                tensor.CopyFrom(onnx.numpy_helper.from_array(mixed, tensor.name))
        onnx.save(model, str(file))
        return file

    monkeypatch.setattr(OnnxInt8, "write", write)


def test_sensitive_layers_stay_in_float(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, "backbone.network.conv1", "head.linear")
    other = "backbone.network.layer1.0.conv1"
    folder = quantize_run(run, max_drop=10, calibration=64, exclude=[other], data=relabelled(run))
    record = read_export(folder).quantization
    assert record is not None
    hurt = {"backbone.network.conv1", "head.linear"}
    assert set(record["kept"]) == hurt | {other}
    assert {layer for group in record["sensitivity"][:2] for layer in group["layers"]} == hurt
    assert record["trials"][0]["drop"] > 10 >= record["accuracy"]["drop"]
    assert record["budget"] == {"max_drop": 10, "sure": False, "max_kept": 0.5, "holds": True}


def test_an_exceeded_budget_keeps_the_existing_export(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, "backbone.network.conv1", "head.linear")
    old = run / "exports" / "onnxruntime-int8"
    old.mkdir(parents=True)
    (old / "export.json").write_text("{}")
    with pytest.raises(
        BudgetExceededError, match=r"costs more than 2 points of accuracy: .* With 1 of \d+ layers in float: "
    ):
        quantize_run(run, max_drop=2, calibration=64, max_kept=0.1, data=relabelled(run))
    assert [p.name for p in (run / "exports").rglob("*")] == ["onnxruntime-int8", "export.json"]
    assert (old / "export.json").read_text() == "{}"


def test_half_weights_are_measured_too(run: Path) -> None:
    export = read_export(quantize_run(run, "fp16", max_drop=0.5, name="half"))
    assert export.folder.name == "half"
    assert export.quantization is not None
    assert export.quantization["accuracy"]["agreement"] > 0.98


def test_calibration_images_are_not_evaluated(run: Path) -> None:
    data = load_run_data(RunFolder(run))
    there = data.split_sizes()["val"]
    record = read_export(quantize_run(run, calibration=40, calibrate_on="val", data=data)).quantization
    assert record is not None
    assert record["accuracy"]["images"] == there - 40


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"to": "int4"}, r'to \(onnxruntime\): there is no "int4"\. Did you mean "int8"'),
        ({"runtime": "tensorrt"}, "Accepted: onnxruntime, openvino"),
        ({"to": "bf16"}, "Accepted: int8, fp16, fp32"),
        ({"method": "dynamik"}, 'Did you mean "dynamic"'),
        ({"to": "fp16", "method": "dynamic"}, 'expected "static" for fp16 and onnxruntime'),
        ({"max_drop": -1}, r"max_drop: expected float in \[0, 100\] | None, got -1"),
        ({"level": 95}, r"level: expected float in \(0, 1\), got 95"),
        ({"max_kept": 2}, r"max_kept: expected float in \[0, 1\], got 2"),
        ({"calibration": 8}, "expected at least 32 images, got 8"),
        ({"calibration": 100_000}, "got 100000"),
        ({"calibrate_on": "test"}, "calibration: expected the split train or val"),
        ({"max_drop": 0.5, "sure": True}, "to show with 95 % confidence a drop of at most 0.5 points"),
    ],
)
def test_bad_input(given: dict[str, Any], message: str, trained: Path) -> None:
    before = json.dumps(sorted(map(str, trained.rglob("*"))))
    with pytest.raises(UserError, match=message):
        quantize_run(trained, **given)
    assert json.dumps(sorted(map(str, trained.rglob("*")))) == before


def test_other_data_raises(trained: Path) -> None:
    larger = ImageDataModule("digits", image_size=24, channels=1)
    fewer = ImageDataModule("digits", image_size=16, channels=1, classes=[0, 1])
    for data in (larger, fewer):
        data.setup()
    with pytest.raises(UserError, match="expected images of 1 x 16 x 16 for calibration, got 1 x 24 x 24"):
        quantize_run(trained, data=larger)
    with pytest.raises(UserError, match="expected the 10 classes of the model"):
        quantize_run(trained, data=fewer)


def test_a_sure_budget_requires_enough_images() -> None:
    Budget(0.5).check_images(10)
    Budget(0.5, sure=True).check_images(598)
    with pytest.raises(UserError, match="expected 598 validation images or more"):
        Budget(0.5, sure=True).check_images(597)
    with pytest.raises(UserError, match="that are not used for calibration, got none"):
        Budget().check_images(0)


@pytest.mark.slow
def test_int8_for_openvino_keeps_what_is_excluded(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    import openvino

    wide = ["--model.backbone.channels", "[16, 32, 64, 64]", "--model.backbone.stem_width", "16"]
    longer = ["--trainer.max_epochs", "6", "--trainer.limit_train_batches", "1.0"]
    assert cli("fit", "--config", tiny, *wide, *longer).returncode == 0
    (run,) = (tmp_path / "runs/tiny").iterdir()
    folder = quantize_run(run, runtime="openvino", calibration=40, exclude=["backbone.network.layer1.*"])
    record = read_export(folder).quantization
    assert record is not None
    assert record["accuracy"]["before"] > 85
    assert record["accuracy"]["agreement"] > 0.95
    network = openvino.Core().read_model(str(folder / "model.xml"))
    sources = {
        op.get_friendly_name().removesuffix("/WithoutBiases"): op.input(1)
        .get_source_output()
        .get_node()
        .get_type_name()
        for op in network.get_ops()
        if op.get_type_name() == "Convolution"
    }
    assert set(record["kept"]) == {name for name in sources if name.startswith("backbone.network.layer1.")}
    assert {name: kind == "Constant" for name, kind in sources.items()} == {n: n in record["kept"] for n in sources}
    half = read_export(quantize_run(run, "bf16", "openvino"))
    assert half.quantization is not None
    assert half.quantization["accuracy"]["agreement"] > 0.95
