"""Results of `imgrec bench`, compared with independent counts and with the records of the run."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score
from torch import Tensor, nn

from imgrec.bench.bench import check_options, run_bench
from imgrec.bench.candidates import Candidate, find_candidates
from imgrec.bench.evaluation import EvaluatedCandidate, add_scores, evaluate_candidates, find_reference, select_images
from imgrec.bench.process import BenchProcess, MeasurementError
from imgrec.bench.rows import Options
from imgrec.errors import UserError
from imgrec.export import load_model_folder
from imgrec.export.export_folder import Export, export_aside, read_export, write_description
from imgrec.export.onnx_writer import write_onnx
from imgrec.models import Classifier
from imgrec.reports.bench.results import Bench, BenchRow, Latency, percentile, read_bench, write_bench
from imgrec.runs.folder import RunFolder
from imgrec.runs.predictions import Predictions
from imgrec.runs.summary import write_json
from imgrec.stats.intervals import wilson_interval
from imgrec.stats.paired import paired_bootstrap
from imgrec.types import DataFacts
from imgrec.utils import yaml
from imgrec.utils.memory import process_memory

ROW = BenchRow("net", "runs/net", "torch", "fp32")


def export(classifier: Classifier, facts: DataFacts, folder: Path, format: str = "onnx") -> Path:
    """Write an export as the command does, without the comparison of its logits."""
    with export_aside(folder) as aside:
        write_onnx(classifier, facts, aside / "model.onnx")
        write_description(aside, Export(folder, "onnx", "fp32", facts, 0.0))
    return folder


def no_export(classifier: Classifier, facts: DataFacts, folder: Path, format: str) -> Path:
    raise AssertionError("the run has an export")


@pytest.fixture(scope="module")
def run(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained run with an export in float32 and one that calls itself int8."""
    folder = tmp_path_factory.mktemp("bench") / "run"
    shutil.copytree(trained, folder)
    made = export(*load_model_folder(folder / "model"), folder / "exports" / "onnx")
    record = read_export(made)
    shutil.copytree(made, folder / "exports" / "int8")
    write_description(folder / "exports" / "int8", replace(record, precision="int8"))
    return folder


@pytest.fixture(scope="module")
def bench(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    work = tmp_path_factory.mktemp("work")
    candidates = find_candidates([str(run)], ["torch", "onnxruntime"], None, work, no_export)
    return run_bench(candidates, Options(batches=(1, 4), budget=0.05), work)


# ---------------------------------------------------------------- the whole


def test_a_run_is_measured_in_each_runtime_with_its_exports(bench: Bench, run: Path) -> None:
    found = [(row.name, row.runtime, row.precision) for row in bench.rows]
    assert found == [("tiny", "torch", "fp32"), ("tiny", "onnxruntime", "fp32"), ("tiny/int8", "onnxruntime", "int8")]
    assert bench.reference == "tiny, torch fp32"
    assert not any(row.note for row in bench.rows)


def test_sizes_equal_independent_counts(bench: Bench, run: Path) -> None:
    state = load_file(run / "model" / "model.safetensors")
    classifier, facts = load_model_folder(run / "model")
    learnt = [
        state[name] for name in state if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    learnt = [
        each for name, each in state.items() if name not in ("mean", "std") and any(each is one for one in learnt)
    ]
    for row in bench.rows:
        assert row.parameters == sum(each.numel() for each in learnt)
        assert row.nonzero == sum(int((each != 0).sum()) for each in learnt)
        assert row.macs == count_multiplications(classifier, facts)
    assert bench.rows[0].bytes == (run / "model" / "model.safetensors").stat().st_size
    assert bench.rows[1].bytes == (run / "exports" / "onnx" / "model.onnx").stat().st_size


def count_multiplications(classifier: Classifier, facts: DataFacts) -> int:
    """Count the multiplications of convolutions and linear layers: one per weight and output."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        weight = module.get_parameter("weight")
        total += output.numel() // output.shape[1] * weight.numel()

    handles = [m.register_forward_hook(count) for m in classifier.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    classifier(torch.zeros(1, facts.channels, facts.image_size, facts.image_size))
    for handle in handles:
        handle.remove()
    return total


def test_accuracy_equals_that_of_the_run_in_every_runtime(bench: Bench, run: Path) -> None:
    predicted = RunFolder(run).predictions("test")
    own = RunFolder(run).summary["test"]
    for row in bench.rows:
        assert (row.split, row.images) == ("test", len(predicted))
        assert row.accuracy == pytest.approx(own["acc"], abs=1e-6)
        assert row.ece == pytest.approx(own["ece"], abs=1e-3)
        assert (row.agreement, row.difference, row.difference_low, row.difference_high) == (1.0, 0.0, 0.0, 0.0)
        assert row.accuracy is not None
        assert (row.low, row.high) == wilson_interval(round(row.accuracy * len(predicted)), len(predicted))


def test_batch_sizes_are_timed_in_turn(bench: Bench) -> None:
    assert bench.batches == [1, 4]
    for row in bench.rows:
        for latency in row.latencies:
            assert latency.calls >= 10  # one a round at least
            assert 0 < latency.median <= latency.p95
        largest = row.latencies[-1]
        assert row.images_per_second == pytest.approx(4 / largest.median)
        if process_memory("now") is not None:
            assert row.memory is not None
            assert row.memory < 1 << 30  # the libraries are not in it
    assert [latency.speedup for latency in bench.rows[0].latencies] == [1.0, 1.0]
    assert bench.versions == f"torch {version('torch')}, onnxruntime {version('onnxruntime')}"


def test_the_csv_round_trip(bench: Bench, tmp_path: Path) -> None:
    odd = replace(ROW, name='a "b", c', note="first; second", latencies=(Latency(1, 1 / 3, 0.5, 7),), joules=1e-9)
    for each in (bench, replace(bench, rows=(*bench.rows, odd), notes=("one", "two"))):
        write_bench(tmp_path / "bench.csv", each)
        assert read_bench(tmp_path / "bench.csv") == each
    (tmp_path / "bench.csv").write_text("name,runtime\nx,torch\n")
    with pytest.raises(UserError, match=r"bench.csv: expected a file of `imgrec bench`"):
        read_bench(tmp_path / "bench.csv")


# ---------------------------------------------------------------- what is measured


def test_a_given_export_belongs_to_its_run(run: Path, tmp_path: Path) -> None:
    given = [str(run), str(run / "exports" / "int8"), str(run / "exports" / "onnx" / "model.onnx")]
    found = find_candidates(given, None, None, tmp_path, no_export)
    names = [(each.name, each.runtime, each.own) for each in found]
    assert names == [
        ("tiny", "torch", True),
        ("tiny", "onnxruntime", False),
        ("tiny", "openvino", False),
        ("tiny/int8", "onnxruntime", False),
    ]
    (alone,) = find_candidates(given[1:2], None, None, tmp_path, no_export)
    assert alone.run is not None
    assert alone.run.path == run
    assert alone.counts == {"bytes": (run / "exports" / "int8" / "model.onnx").stat().st_size}
    both = find_candidates([str(run)], ["openvino"], ["fp32", "bf16"], tmp_path, no_export)
    options = [(each.runtime, each.precision) for each in both]
    assert options == [("openvino", "fp32"), ("openvino", "bf16"), ("openvino", None)]  # an int8 file has one precision


def test_a_missing_package_is_noted_in_its_row_or_raised_if_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    found = find_candidates([str(run)], None, None, tmp_path, no_export)
    missing = {each.runtime: each.missing for each in found if each.missing}
    assert missing == {"openvino": "OpenVINO needs the package openvino: pip install 'imgrec[openvino]'"}
    with pytest.raises(UserError, match=r"pip install 'imgrec\[openvino\]'"):
        find_candidates([str(run)], ["torch", "openvino"], None, tmp_path, no_export)


def test_invalid_arguments_are_refused_before_measuring(run: Path, tmp_path: Path) -> None:
    file = str(run / "exports" / "int8")
    for sources, runtimes, precisions, message in (
        ([file], ["torch"], None, "opens in onnxruntime and openvino, not in torch"),
        ([str(tmp_path / "gone")], None, None, "run folder not found"),
        ([str(tmp_path)], None, None, "no run folder"),
        ([str(run)], ["tensorrt"], None, 'there is no "tensorrt"'),
        ([str(run)], None, ["fp8"], r"precision \(torch\): expected fp32, bf16, fp16, got fp8"),
        ([str(run)], ["onnxruntime"], ["bf16"], "onnxruntime computes in the precision of the file"),
    ):
        with pytest.raises(UserError, match=message):
            find_candidates(sources, runtimes, precisions, tmp_path, no_export)
    for options, message in (
        (Options(batches=(0,)), "--batch: expected sizes of 1 or more"),
        (Options(budget=0), "--budget"),
        (Options(threads=10_000), "--threads: expected 1 to"),
        (Options(images=-1), "--images"),
    ):
        with pytest.raises(UserError, match=message):
            check_options(options)


def test_a_file_that_no_runtime_opens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    candidates = find_candidates([str(tmp_path / "broken.onnx")], None, None, tmp_path, no_export)
    with pytest.raises(UserError, match=r"broken.onnx cannot be opened by ONNX Runtime"):
        run_bench(candidates, Options(), tmp_path)


def test_a_killed_process_is_reported_with_its_reason() -> None:
    with BenchProcess(1) as process:
        with pytest.raises(MeasurementError, match="AttributeError"):
            process.call("no_such_command")
        process._process.kill()
        with pytest.raises(MeasurementError, match="its process ended with signal SIGKILL"):
            process.call("warm", batch=1)


# ---------------------------------------------------------------- what the networks say


def predictions(right: NDArray[np.bool_], ids: list[str] | None = None) -> Predictions:
    targets = np.arange(len(right)) % 3
    predicted = np.where(right, targets, (targets + 1) % 3)
    return Predictions(ids or [str(i) for i in range(len(right))], targets, 5 * np.eye(3)[predicted], ["a", "b", "c"])


def test_a_row_is_compared_with_the_reference_on_shared_images() -> None:
    generator = np.random.default_rng(0)
    mine, theirs = generator.random(80) < 0.7, generator.random(80) < 0.9
    reference = predictions(theirs)
    row = add_scores(ROW, EvaluatedCandidate(predictions(mine)), reference, "test")
    assert row.accuracy == accuracy_score(np.ones(80), mine)
    assert row.difference == pytest.approx(mine.mean() - theirs.mean())
    assert (row.difference_low, row.difference_high) == paired_bootstrap(mine, theirs)
    assert row.agreement == (mine == theirs).mean()
    order = generator.permutation(80)[:50]  # the same images, fewer and in another order
    predicted = predictions(mine)
    part = Predictions(
        [str(i) for i in order], predicted.targets[order], predicted.logits[order], predicted.class_names
    )
    assert add_scores(ROW, EvaluatedCandidate(part), reference, "test").difference == pytest.approx(
        mine[order].mean() - theirs[order].mean()
    )
    more = predictions(mine, [f"{'new' if i < 20 else ''}{i}" for i in range(80)])
    row = add_scores(ROW, EvaluatedCandidate(more), reference, "test")
    assert row.note == "compared on the 60 images that it shares with the reference"
    assert row.difference == pytest.approx(mine[20:].mean() - theirs[20:].mean())


def test_rows_without_comparison_have_a_note() -> None:
    predicted = predictions(np.ones(9, bool))
    other = Predictions(predicted.ids, predicted.targets, predicted.logits, ["x", "y", "z"])
    assert (
        add_scores(ROW, EvaluatedCandidate(other), predicted, "test").note
        == "not compared: it has other classes than the reference"
    )
    away = predictions(np.ones(9, bool), [f"z{i}" for i in range(9)])
    assert "other images" in add_scores(ROW, EvaluatedCandidate(away), predicted, "test").note
    logits = predicted.logits.copy()
    logits[:2] = math.nan
    row = add_scores(
        ROW,
        EvaluatedCandidate(Predictions(predicted.ids, predicted.targets, logits, predicted.class_names)),
        predicted,
        "test",
    )
    assert row.accuracy == pytest.approx(7 / 9)
    assert row.ece is None
    assert row.note == "2 images have logits that are NaN or infinite: they count as wrong"
    assert add_scores(ROW, EvaluatedCandidate(note="no accuracy: why"), predicted, "test") == replace(
        ROW, note="no accuracy: why"
    )


def test_images_are_selected_independently_of_their_order() -> None:
    ids = [f"image/{i}" for i in range(100)]
    some = {ids[i] for i in select_images(ids, 10)}
    turned = ids[::-1]
    assert {turned[i] for i in select_images(turned, 10)} == some
    assert len(some) == 10
    assert select_images(ids, 200) == list(range(100))


def make_predict(network: Callable[[NDArray[np.float32]], Any]) -> Callable[[Path, Path], Any]:
    def predict(images: Path, logits: Path) -> None:
        np.save(logits, network(np.load(images).astype(np.float32) / 255))

    return predict


def test_a_run_without_data_has_its_recorded_accuracy(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    config = yaml.parse((copy / "config.yaml").read_text())
    config["data"]["init_args"]["source"] = {"name": "folder", "root": "/nowhere/at/all"}
    (copy / "config.yaml").write_text(yaml.dump(config))
    given = [str(copy), str(copy / "exports" / "int8")]
    candidates = find_candidates(given, ["torch", "onnxruntime"], None, tmp_path, no_export)
    own, *others = evaluate_candidates(candidates, [None] * len(candidates), "test", None, tmp_path, print)
    recorded = RunFolder(copy).predictions("test")
    assert own.predictions is not None
    np.testing.assert_array_equal(own.predictions.logits, recorded.logits)
    assert own.note.startswith("accuracy as the run recorded it: the data of the run")
    for other in others:
        assert other.predictions is None
        assert other.note.startswith("no accuracy: the data of the run")


def test_a_network_without_a_run_is_evaluated_on_matching_images(run: Path, tmp_path: Path) -> None:
    classifier, facts = load_model_folder(run / "model")
    folder = tmp_path / "away"
    shutil.copytree(run / "exports" / "onnx", folder)
    foreign = tmp_path / "foreign.onnx"
    shutil.copy(folder / "model.onnx", foreign)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    write_description(other, replace(read_export(other), facts=replace(facts, image_size=20)))
    candidates = find_candidates(
        [str(run), str(folder), str(foreign), str(other)], ["torch", "onnxruntime"], None, tmp_path, no_export
    )

    def network(images: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            found: NDArray[np.float32] = classifier(torch.from_numpy(images)).numpy()
        return found

    found = dict(
        zip(
            [each.path for each in candidates],
            evaluate_candidates(candidates, [make_predict(network)] * len(candidates), "val", 40, tmp_path, print),
            strict=True,
        )
    )
    predicted = found[str(folder)].predictions
    assert predicted is not None
    recorded = RunFolder(run).predictions("val")
    keep = select_images(recorded.ids, 40)
    assert sorted(predicted.ids) == sorted(recorded.ids[i] for i in keep)
    assert found[str(foreign)].note == "no accuracy: the file does not contain its classes and preprocessing"
    assert found[str(other)].note == "no accuracy: it belongs to no run, and no other source has images for it"


def test_the_reference_is_the_first_row_or_its_dense_run(run: Path, tmp_path: Path) -> None:
    def candidate(folder: Path, own: bool) -> Candidate:
        return Candidate("x", str(folder), str(folder), "torch", run=RunFolder(folder), own=own)

    predicted = [EvaluatedCandidate(note="no accuracy"), EvaluatedCandidate(predictions(np.ones(9, bool)))]
    assert find_reference([candidate(run, True)] * 2, predicted, "test", None) == (None, predicted[1].predictions)
    name, dense = find_reference([candidate(run, False)], predicted[1:], "test", None)
    assert name == "tiny, as it was recorded"
    assert dense is not None
    assert dense.accuracy == RunFolder(run).predictions("test").accuracy
    child = tmp_path / "child"
    shutil.copytree(run, child)
    environment = RunFolder(child).environment
    write_json(child / "environment.json", {**environment, "parent": {"path": str(run)}})
    assert find_reference([candidate(child, True)], predicted[1:], "test", None)[0] == "tiny, as it was recorded"
    given = [candidate(child, True), candidate(run, True)]
    assert find_reference(given, predicted[1:] * 2, "test", None) == (None, predicted[1].predictions)


def test_the_percentile_is_a_measured_value() -> None:
    values = list(np.random.default_rng(0).random(37))
    assert percentile(values, 0.95) == np.quantile(values, 0.95, method="inverted_cdf")
