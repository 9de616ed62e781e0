"""`imgrec bench` as it is typed: what it prints, what it writes, how it refuses."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from imgrec.export import load_model_folder
from imgrec.export.export_folder import Export, export_aside, write_description
from imgrec.export.onnx_writer import write_onnx
from imgrec.reports.bench.results import read_bench
from imgrec.runs.folder import RunFolder

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def small_onnx(path: Path, batch: int | str = "N", side: int | str = 8) -> Path:
    """Return the mean of each of three channels."""
    images = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [batch, 3, side, side])
    logits = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixels"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["scores"]),
    ]
    graph = helper.make_graph(nodes, "mean", [images], [logits])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A trained run with an export."""
    folder = tmp_path / "runs" / "tiny" / "one"
    shutil.copytree(trained, folder)
    with export_aside(folder / "exports" / "onnx") as aside:
        classifier, facts = load_model_folder(folder / "model")
        write_onnx(classifier, facts, aside / "model.onnx")
        write_description(aside, Export(aside, "onnx", "fp32", facts, 0.0))
    return folder


def test_a_run_is_measured_and_keeps_what_was_found(cli: Cli, run: Path) -> None:
    done = cli(
        *("bench", run, "--runtime", "onnxruntime", "openvino", "--batch", 1, 2, "--budget", 0.05, "--images", 50),
        *("--csv", "a.csv", "--json", "a.json", "--out", "a.html", "--picture", "a.svg"),
    )
    assert done.returncode == 0, done.stderr
    assert "50 test images, compared with tiny, as it was recorded" in done.stdout  # no runtime was requested
    assert "timing" in done.stderr
    found = read_bench(run / "bench.csv")
    assert read_bench("a.csv") == found
    assert [row.runtime for row in found.rows] == ["onnxruntime", "openvino"]
    assert [row.agreement for row in found.rows] == [1.0, 1.0]
    written = json.loads(Path("a.json").read_text())
    assert written["rows"][0]["latencies"][1]["batch"] == 2
    assert "Accuracy over latency" in Path("a.html").read_text()
    assert Path("a.svg").read_text().startswith("<?xml")
    for line in ("a.csv", "a.json", "a.html", "a.svg", str(RunFolder(run).path / "bench.csv")):
        assert f"written    {line}" in done.stdout


def test_external_file_has_latency_and_reports_missing_data(cli: Cli, tmp_path: Path) -> None:
    small_onnx(tmp_path / "any.onnx")
    small_onnx(tmp_path / "fixed.onnx", batch=2)
    small_onnx(tmp_path / "wide.onnx", side="S")
    done = cli("bench", "any.onnx", "fixed.onnx", "wide.onnx", "--batch", 1, 2, "--budget", 0.02, "--csv", "a.csv")
    assert done.returncode == 0, done.stderr
    anything, fixed, wide = read_bench("a.csv").rows
    assert [latency.batch for latency in anything.latencies] == [1, 2]
    assert anything.accuracy is None
    assert anything.note == "no accuracy: the file does not contain its classes and preprocessing"
    assert [latency.batch for latency in fixed.latencies] == [2]
    assert "batch 1: images: expected a batch of 2, got 1" in fixed.note
    assert wide.latencies == ()
    assert "accepts images of any size" in wide.note
    assert "fixed.onnx, onnxruntime fp32: batch 1: images: expected a batch of 2" in done.stdout
    assert not list(tmp_path.glob("**/bench.csv"))


def test_invalid_input_has_status_2_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    small_onnx(tmp_path / "any.onnx")
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        (["gone"], "run folder not found: gone"),
        (["any.onnx", "--runtime", "onxruntime"], 'there is no "onxruntime"'),
        (["any.onnx", "--runtime", "torch"], "any.onnx opens in onnxruntime and openvino, not in torch"),
        (["any.onnx", "--batch", "0"], "--batch: expected int > 0, got 0"),
        (["any.onnx", "--threads", "0"], "--threads: expected int > 0, got 0"),
        (["any.onnx", "--picture", "a.jpg"], "--picture: expected a file name that ends in .png, .svg or .pdf"),
        (["any.onnx", "--device", "tpu"], 'expected cpu or cuda, got "tpu"'),
    ):
        done = cli("bench", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert message in done.stderr, done.stderr
    assert sorted(tmp_path.rglob("*")) == before
