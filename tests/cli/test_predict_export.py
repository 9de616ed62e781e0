"""Predict, load, test and validate of a run whose figures are those of an export use that export."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms.functional import to_pil_image

import imgrec
from imgrec.errors import UserError
from imgrec.export import Predictor, load_model_folder
from imgrec.export.export_network import export_onnx
from imgrec.export.qat_onnx import NAME
from imgrec.runs.load import load_classifier
from imgrec.runs.network import read_network
from imgrec.runs.summary import update_summary
from tests.conftest import Cli

COUNT = 5


@pytest.fixture(scope="module")
def variant(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 variant of the tiny run, as `imgrec compress` leaves it."""
    place = tmp_path_factory.mktemp("variant")
    parent = shutil.copytree(trained, place / "runs" / "tiny" / trained.name)
    before = Path.cwd()
    os.chdir(place)
    try:
        (run,) = imgrec.compress_run(parent, [{"name": "quantize", "calibration": 64}])
    finally:
        os.chdir(before)
    return run.path


@pytest.fixture(scope="module")
def images(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """Files of test images of the run, with their ids."""
    data = imgrec.ImageDataModule(source="digits", channels=1, image_size=16)
    data.setup()
    folder, found = tmp_path_factory.mktemp("images"), {}
    for number, row in enumerate(data.splits.test[:COUNT].tolist()):
        (image,) = data.load_images([data.source.ids[row]])
        assert image is not None
        path = folder / f"{number}.png"
        to_pil_image(image).save(path)
        found[path] = data.source.ids[row]
    return found


def test_the_variant_predicts_in_its_own_runtime_and_precision(variant: Path, images: dict[Path, str]) -> None:
    predictions = imgrec.RunFolder(variant).predictions("test")
    int8 = np.stack([predictions.logits[predictions.ids.index(name)] for name in images.values()])
    predictor = imgrec.load(variant, batch_size=2)
    found = np.stack([each.logits for each in predictor.predict(images)])
    float32 = np.stack([each.logits for each in imgrec.load(variant / "model", device="cpu").predict(images)])
    np.testing.assert_allclose(found, int8, atol=1e-4)
    assert np.abs(float32 - int8).max() > 1e-2  # the outputs of the two networks differ
    assert predictor.backend.title == "ONNX Runtime, int8"
    with pytest.raises(UserError, match="runs in ONNX Runtime, int8, and has no classifier in PyTorch"):
        _ = predictor.classifier
    for path in (variant / "exports" / "onnxruntime-int8", variant / "exports" / "onnxruntime-int8" / "model.onnx"):
        np.testing.assert_array_equal(np.stack([e.logits for e in imgrec.load(path).predict(images)]), found)
    views = imgrec.load(variant, tta="hflip", tta_average="logits")
    pixels = torch.stack([image for path in images if isinstance(image := predictor.read(path), torch.Tensor)])
    both = (predictor.logits(pixels) + predictor.logits(pixels.flip(-1))) / 2
    torch.testing.assert_close(views.logits(pixels), both)
    classifier, _ = load_classifier(variant)  # what is to be quantized, trained on or taught by is the network itself
    assert read_network(variant)[0].state_dict().keys() == classifier.state_dict().keys()


def test_an_export_is_not_compressed_further(variant: Path) -> None:
    with pytest.raises(UserError, match="whose result is the export exports/onnxruntime-int8"):
        imgrec.compress_run(variant, [{"name": "mask", "sparsity": 0.5}])


@pytest.mark.parametrize("where", ["", "exports/onnxruntime-int8", "exports/onnxruntime-int8/model.onnx"])
def test_the_command_prints_runtime_and_precision(where: str, cli: Cli, variant: Path, images: dict[Path, str]) -> None:
    done = cli("predict", variant / where, *images)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"model      {variant / where}: ONNX Runtime, int8\n"
    best = [each.classes[0] for each in imgrec.load(variant).predict(images)]
    assert [line.partition(": ")[2].split()[0] for line in done.stdout.splitlines()] == best
    plain = cli("predict", variant / "model", *images)
    assert plain.stderr == f"model      {variant / 'model'}: PyTorch, fp32 on cpu\n"


@pytest.mark.parametrize("command", ["test", "validate"])
def test_the_variant_is_evaluated_by_its_export(command: str, cli: Cli, variant: Path) -> None:
    before = {path: path.read_bytes() for path in variant.rglob("*") if path.is_file()}
    done = cli(command, variant)
    assert done.returncode == 0, done.stderr
    accuracy = imgrec.RunFolder(variant).summary["val" if command == "validate" else "test"]["acc"]
    assert "onnxruntime-int8: ONNX Runtime, int8" in done.stdout.splitlines()[0]
    assert f"{accuracy:.4f}" in next(line for line in done.stdout.splitlines() if line.startswith("accuracy"))
    assert {path: path.read_bytes() for path in variant.rglob("*") if path.is_file()} == before
    refused = cli(command, variant, "--data.batch_size", "7")
    assert refused.returncode == 2
    assert "are those of its export exports/onnxruntime-int8, which takes no options" in refused.stderr


def test_a_run_trained_for_int8_predicts_with_its_int8_file(
    trained: Path, images: dict[Path, str], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    classifier, facts = load_model_folder(run / "model")
    with torch.no_grad():
        classifier.head.linear.bias[7] += 100  # type: ignore[union-attr, operator, index]
    export_onnx(classifier, facts, run / "exports" / NAME)
    assert {each.classes[0] for each in imgrec.load(run).predict(images)} == {"7"}
    assert len({each.classes[0] for each in imgrec.load(run / "model").predict(images)}) > 1


def test_a_batch_size_of_the_file_is_kept(trained: Path, images: dict[Path, str], tmp_path: Path) -> None:
    import onnx

    classifier, facts = load_model_folder(trained / "model")
    folder = export_onnx(classifier, facts, tmp_path / "x").folder
    model = onnx.load(str(folder / "model.onnx"))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, str(folder / "model.onnx"))
    expected = Predictor(classifier, facts, device="cpu").predict(images)
    for mine, theirs in zip(imgrec.load(folder, batch_size=4).predict(images), expected, strict=True):
        np.testing.assert_allclose(mine.logits, theirs.logits, atol=1e-4)


def test_missing_or_external_export_is_rejected(cli: Cli, trained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained, tmp_path / "run"))
    classifier, facts = load_model_folder(run / "model")
    outside = export_onnx(classifier, facts, tmp_path / "elsewhere").folder
    (tmp_path / "lone").mkdir()
    lone = shutil.copy(outside / "model.onnx", tmp_path / "lone" / "model.onnx")
    for named, output in (
        ("exports/none", "is missing. Use"),
        ("../elsewhere", "expected a path inside the folder"),
    ):
        update_summary(run, {"export": named})
        for arguments in (("predict", run, "x.png"), ("test", run)):
            (tmp_path / "x.png").write_bytes(b"")
            done = cli(*arguments)
            assert done.returncode == 2, json.dumps(named)
            assert output in done.stderr
    with pytest.raises(UserError, match=r"expected a file with export\.json next to it"):
        imgrec.load(lone)
    with pytest.raises(UserError, match="was built without CUDA"):
        imgrec.load(outside, device="cuda").logits(torch.zeros(1, 1, 16, 16))
