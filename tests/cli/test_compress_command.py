"""Tests of `imgrec compress`: flags, rejected plans, files of a variant and resuming."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import imgrec
from imgrec.compress.plan import Plan
from imgrec.compress.profiling import count_macs
from imgrec.compress.surgery import surgery_of
from imgrec.engine.resume import train_in
from imgrec.errors import BudgetExceededError, UserError
from imgrec.export import load_model_folder
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.runs.summary import read_json, update_summary, write_json
from imgrec.studies.compression.study import Compression
from imgrec.tasks import BaseTask
from imgrec.utils import yaml
from tests.conftest import Cli

HALF: dict[str, Any] = {"name": "prune", "target": {"macs": 0.5}}
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch_pruning":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocker())
import imgrec, torch
found = imgrec.load(sys.argv[1], device="cpu")
images = torch.arange(2 * 16 * 16, dtype=torch.float32).view(2, 1, 16, 16) / 512
print(found.logits(images).tolist())
"""


@pytest.fixture
def parent(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the tiny run, in the folder of runs that the command sees."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "runs" / "tiny" / trained.name)).relative_to(tmp_path)


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- what flags mean


@pytest.mark.parametrize(
    ("flags", "steps"),
    [
        ("--prune 0.7 --structured --finetune 3", [{"name": "prune", "target": {"macs": 0.3}}, "finetune"]),
        (
            "--quantize int8 --prune 0.9 --qat 2 --distill",
            [{"name": "mask", "sparsity": 0.9}, {"name": "qat", "epochs": 2, "distill": True}, "quantize"],
        ),
        (
            "--drop-blocks 0.25 --target latency --quantize bf16 --runtime openvino --calibration 64",
            [
                {"name": "drop_blocks", "target": {"latency": 0.75}},
                {"name": "quantize", "to": "bf16", "runtime": "openvino", "calibration": 64},
            ],
        ),
    ],
)
def test_flags_are_a_plan(cli: Cli, flags: str, steps: list[Any]) -> None:
    done = cli("compress", "RUN", *flags.split(), "--name", "v", "--print_plan")
    assert done.returncode == 0, done.stderr
    assert yaml.parse(done.stdout) == {"variants": {"v": Plan.from_specs(steps).to_specs()}}


def test_max_drop_is_a_budget_of_the_plan_and_of_the_step_that_quantizes(cli: Cli, tmp_path: Path) -> None:
    done = cli(
        "compress", "RUN", "--prune", "0.9", "--quantize", "int8", "--max-drop", "0.5", "--name", "v", "--print_plan"
    )
    steps = Plan.from_specs([{"name": "mask", "sparsity": 0.9}, {"name": "quantize", "max_drop": 0.5}]).to_specs()
    assert yaml.parse(done.stdout) == {"variants": {"v": {"max_drop": 0.5, "steps": steps}}}
    (tmp_path / "again.yaml").write_text(done.stdout)
    (tmp_path / "other.yaml").write_text("max_drop: 2\nvariants: {a: [mask], b: {steps: [finetune], max_drop: 3}}\n")
    (tmp_path / "none.yaml").write_text("name: c\nsteps: [mask]\n")
    arguments = [word for name in ("again", "other", "none") for word in ("--plan", f"{name}.yaml")]
    found = yaml.parse(cli("compress", "RUN", *arguments, "--max-drop", "1", "--print_plan").stdout)["variants"]
    assert {name: plan["max_drop"] for name, plan in found.items()} == {"v": 0.5, "a": 2, "b": 3, "c": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "compress: expected a step (--prune 0.5) or a plan"),
        (("--max-drop", "101", "--finetune", "1"), "max_drop: expected points of accuracy, 0 to 100, got 101"),
        (("--plan", "p.yaml", "--max-drop", "-1"), "max_drop: expected points of accuracy, 0 to 100, got -1"),
        (("--distill", "--quantize", "int8"), "--distill: expected --finetune or --qat as well"),
        (("--structured", "--finetune", "1"), "--structured: expected --prune as well"),
        (("--prune", "1.5", "--structured"), "--prune: expected float in (0, 1), got 1.5"),
        (("--prune", "0.5", "--structured", "--target", "mac"), 'no cost is called "mac". Did you mean "macs"'),
        (("--qat", "1", "--finetune", "1", "--quantize", "int4"), "expected Literal"),
        (("--finetune", "1", "--runtime", "tvm"), "--runtime: expected --quantize as well"),
        (("--plan", "none.yaml"), "config none.yaml: cannot be read"),
        (("--plan", "p.yaml", "--name", "x"), "--name: expected flags of steps"),
        (("--plan", "p.yaml", "--quantize", "int8"), "run folder not found: RUN"),
        (("--plan", "p.yaml", "--plan", "p.yaml"), "run folder not found: RUN"),
        (("--plan", "bad.yaml"), r"bad.yaml.steps[1]: finetune cannot come after quantize (bad.yaml.steps[0])"),
    ],
)
def test_invalid_plan_is_one_error(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    (tmp_path / "p.yaml").write_text("steps: [quantize]\n")
    (tmp_path / "bad.yaml").write_text("steps: [quantize, finetune]\n")
    done = cli("compress", "RUN", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ---------------------------------------------------------------- what is refused, and leaves the disk as it was


HOLD = "import sys; from imgrec.runs.lock import RunLock; RunLock(sys.argv[1]); print('held', flush=True); input()"


def test_runs_without_compression_support_are_rejected(cli: Cli, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--prune", "0.5", "--structured", "--quantize", "int8")

    def refused(output: str, *more: str) -> None:
        before = below(Path("runs"))
        done = cli("compress", parent, *(more or flags))
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert output in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert below(Path("runs")).keys() == before.keys()

    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(parent)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    done = cli("compress", parent, *flags)
    holder.communicate("\n")
    assert done.returncode == 2
    assert "is in use" in done.stderr
    (parent / ".lock").unlink()

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "torch_pruning", None)
        refused("prune needs the package torch-pruning: pip install 'imgrec[compress]'")
    (Path("p.yaml")).write_text("variants: {v: [quantize]}\n")
    refused('expected a different name for each variant, got "v" twice', "--plan", "p.yaml", "--plan", "p.yaml")

    update_summary(parent, {"status": "interrupted"})
    refused("(status: interrupted). Run: imgrec resume")
    update_summary(parent, {"status": "finished"})

    config = (parent / "config.yaml").read_text()
    other = yaml.parse(config)
    other["data"]["init_args"]["source"] = {"name": "folder", "root": "gone"}
    (parent / "config.yaml").write_text(yaml.dump(other))
    refused("is not available: data.source")
    (parent / "config.yaml").write_text(config)
    environment = read_json(parent / "environment.json")
    splits = (parent / "splits.parquet").read_bytes()
    (parent / "splits.parquet").unlink()
    write_json(parent / "environment.json", environment | {"data_fingerprint": "another"})
    refused("has changed since it was trained: its fingerprint was another")
    write_json(parent / "environment.json", environment)
    (parent / "splits.parquet").write_bytes(splits)

    shutil.rmtree(parent / "model")
    shutil.rmtree(parent / "checkpoints")
    refused("is no run folder with a trained model")


def test_unreachable_target_reports_reachable_one(cli: Cli, parent: Path) -> None:
    done = cli("compress", parent, "--prune", "0.999", "--structured")
    assert done.returncode == 2
    assert "0.001 of the MACs cannot be reached" in done.stderr
    assert not (parent.parent / "compressed").exists()


def test_rejected_export_writes_no_variant(cli: Cli, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(folder: Path, **given: Any) -> Path:
        (folder / "exports").mkdir()
        raise BudgetExceededError("max_drop: int8 costs more")

    monkeypatch.setattr("imgrec.studies.compression.study.quantize_run", refusing)
    assert cli("compress", parent, "--quantize", "int8").returncode == 5
    assert not (parent.parent / "compressed").exists()
    with pytest.raises(BudgetExceededError, match="max_drop"):
        imgrec.compress_run(parent, [HALF, "quantize"])
    (kept,) = (parent.parent / "compressed").glob("*/*/model")  # pruned model, from which the plan resumes
    assert (kept / "model.safetensors").is_file()


def test_a_plan_that_loses_more_than_its_budget_is_kept_and_marked(cli: Cli, parent: Path) -> None:
    predictions = imgrec.RunFolder(parent).predictions("val")
    perfect = 5 * np.eye(10, dtype=np.float32)[predictions.targets]  # a run that was trained for longer
    write_predictions(
        parent / "predictions" / "val.parquet",
        Predictions(predictions.ids, predictions.targets, perfect, predictions.class_names),
    )
    arguments = ("compress", parent, "--prune", "0.97", "--quantize", "fp16")
    done = cli(*arguments, "--max-drop", "0.5")
    assert done.returncode == 5
    (folder,) = (parent.parent / "compressed" / "sparse0.97-fp16").iterdir()
    run = imgrec.RunFolder(folder)
    ours, theirs = (imgrec.RunFolder(each).predictions("val") for each in (folder, parent))
    lost = 100 * (theirs.accuracy - ours.accuracy)
    budget = run.summary["compression"]["budget"]
    assert lost > 0.5
    assert budget["drop"] == pytest.approx(lost, abs=1e-3)
    assert budget["low"] <= lost <= budget["high"]
    assert (budget["max_drop"], budget["split"], budget["images"], budget["holds"]) == (
        0.5,
        "val",
        len(ours.ids),
        False,
    )
    sentence = f"the accuracy budget is exceeded: {lost:.2f} points are lost, 0.5 are allowed ("
    assert f"EXCEEDED: {lost:.2f} of 0.5" in done.stdout
    assert done.stderr.splitlines()[-1].startswith(f"imgrec: error: sparse0.97-fp16: {sentence}")
    assert str(folder) in done.stderr.splitlines()[-1]
    card = (folder / "model" / "README.md").read_text()
    assert f"> **Note:** {sentence}" in card
    assert sentence[1:] in run.report.read_text()
    export = folder / "exports" / "onnxruntime-fp16"
    assert json.loads((export / "export.json").read_text())["budget"] == budget
    assert json.loads((export / "export.json").read_text())["quantization"]["budget"]["holds"]  # the step's own

    network = (export / "model.onnx").read_bytes()
    again = cli("compress", parent, "--prune", "0.97", "--quantize", "fp16")  # without a budget nothing is judged
    assert again.returncode == 0, again.stderr
    allowed = cli("compress", parent, "--plan", "wide.yaml") if _wide(run) else None
    assert allowed is not None
    assert allowed.returncode == 0, allowed.stderr
    assert "is finished" in allowed.stdout
    assert f"holds: {lost:.2f} of 100" in allowed.stdout
    assert json.loads((export / "export.json").read_text())["budget"]["holds"]
    assert (folder / "model" / "README.md").read_text().count("> **Note:**") == 1
    assert (export / "model.onnx").read_bytes() == network


def _wide(run: imgrec.RunFolder) -> bool:
    """Write the plan of a variant again, with a budget of 100 points."""
    plan = {"name": run.environment["variant"], "steps": run.environment["plan"], "max_drop": 100}
    return Path("wide.yaml").write_text(yaml.dump(plan)) > 0


def test_dry_run_prints_plan_only(cli: Cli, parent: Path) -> None:
    before = below(Path("runs"))
    arguments = ("--prune", "0.5", "--structured", "--finetune", "2", "--dry-run", "--max-drop", "1.5")
    done = cli("compress", parent, *arguments)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "macs0.5-finetune2: is new: runs/tiny/compressed/macs0.5-finetune2/<time>"
    assert lines[2] == "  2. fine-tune for 2 epochs, learning rate 0.001"
    assert lines[3] == "  budget: a drop of at most 1.5 points against the run, after all steps"
    assert below(Path("runs")) == before


# ---------------------------------------------------------------- what a variant leaves


@pytest.mark.slow
def test_pruned_fine_tuned_and_quantized(cli: Cli, parent: Path) -> None:
    arguments = ("compress", parent, "--prune", "0.5", "--structured", "--finetune", "1", "--quantize", "int8")
    more = ("--calibration", "64", "--distill", "--ema", "0.5")
    done = cli(*arguments, *more)
    assert done.returncode == 0, done.stderr
    (place,) = (parent.parent / "compressed").iterdir()
    assert place.name == "macs0.5-distill1-int8"
    (folder,) = place.iterdir()
    run = imgrec.RunFolder(folder)
    assert run.experiment == "tiny/compressed/macs0.5-distill1-int8"
    assert run.parent == parent.resolve()

    images = torch.zeros(1, 1, 16, 16)
    macs = [count_macs(load_model_folder(each / "model")[0], images) for each in (parent, folder)]
    assert 0.4 < macs[1] / macs[0] <= 0.5
    found = run.summary["compression"]
    assert found["parent"] == f"tiny/{parent.name}"
    assert found["sizes"]["macs"] == {"before": macs[0], "after": macs[1]}
    assert run.summary["parameters"] == found["sizes"]["parameters"]["after"]
    export = json.loads((folder / "exports" / "onnxruntime-int8" / "export.json").read_text())
    assert export["precision"] == "int8"
    assert run.summary["export"] == "exports/onnxruntime-int8"
    for split in ("val", "test"):
        predictions = run.predictions(split)
        assert predictions.ids == imgrec.RunFolder(parent).predictions(split).ids
        assert run.summary[split]["acc"] == pytest.approx(predictions.accuracy)
        assert found["splits"][split]["after"] == pytest.approx(predictions.accuracy)
        assert run.summary[split]["loss"] is None  # that of the network in floating point is not int8's
    latency = found["latency"]
    assert (latency["runtime"], latency["batch"], latency["threads"]) == ("onnxruntime", 1, 1)
    assert all(latency[name] > 0 for name in ("before", "after", "ratio"))
    page = run.report.read_text()
    assert f"Compressed from tiny/{parent.name}" in page
    assert "Milliseconds per image" in page
    assert "both models in ONNX Runtime" in page
    assert "exports/onnxruntime-int8" in page

    config = run.config
    assert config["model"]["class_path"] == "imgrec.DistillationTask"
    assert config["model"]["init_args"]["init_from"] == str(folder / "stages" / "1-prune")
    assert (
        cli("fit", "--config", folder / "config.yaml", "--print_config").stdout == (folder / "config.yaml").read_text()
    )

    before = below(folder)
    again = cli(*arguments, *more)
    assert again.returncode == 0
    assert f"macs0.5-distill1-int8: is finished: {folder}" in again.stdout
    assert below(folder) == before
    tested = cli("test", folder)  # of the network in floating point, whose figures are not the run's
    assert tested.returncode == 0, tested.stderr
    assert below(folder) == before
    table = cli("runs", "runs", "--columns", "run,variant,test/acc").stdout
    assert "macs0.5-distill1-int8" in table

    ended = subprocess.run([sys.executable, "-c", BLOCKED, str(folder)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    given = torch.arange(2 * 16 * 16, dtype=torch.float32).view(2, 1, 16, 16) / 512
    torch.testing.assert_close(torch.tensor(json.loads(ended.stdout)), imgrec.load(folder, device="cpu").logits(given))


@pytest.mark.slow
def test_blocks_by_time_then_channels_then_openvino(cli: Cli, tiny: Path) -> None:
    backbone = {"name": "cifar_resnet", "depth": 20, "widths": [8, 8, 16]}
    fitted = cli("fit", "--config", tiny, "--model.backbone", json.dumps(backbone))
    assert fitted.returncode == 0, fitted.stderr
    (parent,) = Path("runs/tiny").iterdir()
    once = {"name": "finetune", "epochs": 1}
    steps = [
        {"name": "drop_blocks", "target": {"latency": 0.8}}, once,
        {"name": "prune", "target": {"macs": 0.4}}, once,
        {"name": "quantize", "runtime": "openvino", "calibration": 64, "biases": "none"},
    ]  # fmt: skip
    Path("plan.yaml").write_text(yaml.dump({"name": "all", "steps": steps}))
    done = cli("compress", parent, "--plan", "plan.yaml")
    assert done.returncode == 0, done.stderr
    (folder,) = Path("runs/tiny/compressed/all").iterdir()
    run = imgrec.RunFolder(folder)
    assert run.summary["status"] == "finished"
    assert run.summary["export"] == "exports/openvino-int8"
    assert run.summary["compression"]["latency"]["runtime"] == "openvino"
    classifier, _ = load_model_folder(run.model_folder)
    record = surgery_of(classifier)
    assert [step["step"] for step in record] == ["blocks", "channels"]
    assert record[0]["removed"]
    images = torch.zeros(1, 1, 16, 16)
    assert count_macs(classifier, images) <= 0.4 * count_macs(load_model_folder(parent / "model")[0], images)
    assert run.predictions("test").accuracy == run.summary["test"]["acc"]


def test_masks_without_training_and_held_in_training(parent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = {"name": "mask", "sparsity": 0.8, "schedule": "one_shot"}
    still, trained = imgrec.compress_run(parent, [mask], [mask, {"name": "finetune", "epochs": 1}])
    for run in (still, trained):
        classifier, _ = load_model_folder(run.model_folder)
        weights = [m.weight for m in classifier.modules() if isinstance(m, torch.nn.Conv2d)][1:]
        zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
        assert zeros == pytest.approx(0.8, abs=0.02)
        sizes = run.summary["compression"]["sizes"]
        assert sizes["parameters"]["after"] == sizes["parameters"]["before"] > 2 * sizes["nonzero"]["after"]
        assert "Stored zeros reduce neither time nor memory" in run.report.read_text()
    assert not (still.path / "checkpoints").exists()
    assert still.predictions("test").accuracy == still.summary["test"]["acc"]
    assert "sparse0.8-finetune1" in capsys.readouterr().out


# ---------------------------------------------------------------- stopped, and gone on with


def test_stopped_plan_resumes_exactly(
    parent: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = [HALF, {"name": "finetune", "epochs": 2}]
    compression = Compression(parent, train_in)
    (whole,) = compression.run([Plan.from_specs(steps, "whole")])

    step = BaseTask.training_step
    seen: list[int] = []

    def failing(self: BaseTask, batch: Any, batch_idx: int) -> Any:
        seen.append(batch_idx)
        if len(seen) == 9:  # in the second epoch of two with six batches
            raise UserError("stopped here")
        return step(self, batch, batch_idx)

    monkeypatch.setattr(BaseTask, "training_step", failing)
    with pytest.raises(UserError, match="stopped here"):
        compression.run([Plan.from_specs(steps, "cut")])
    monkeypatch.setattr(BaseTask, "training_step", step)
    (cut,) = (parent.parent / "compressed" / "cut").iterdir()
    pruned = (cut / "stages" / "1-prune" / "model.safetensors").stat()
    (resumed,) = Compression(parent, train_in).run([Plan.from_specs(steps, "cut")])
    assert resumed.path == cut
    assert (cut / "stages" / "1-prune" / "model.safetensors").stat() == pruned
    assert imgrec.RunFolder(cut).summary["resumed"] == [6]
    ours, theirs = (load_model_folder(run.model_folder)[0].state_dict() for run in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.summary["compression"]["splits"] == whole.summary["compression"]["splits"]
    capsys.readouterr()


def test_stopped_training_ends_command_without_result(parent: Path) -> None:
    stopped: Callable[[Path, Any], bool] = lambda folder, config: False  # noqa: E731
    with pytest.raises(UserError, match="The same command resumes runs/tiny/compressed/control-finetune1"):
        Compression(parent, stopped).run([Plan.from_specs([{"name": "finetune", "epochs": 1}])])
    (variant,) = (parent.parent / "compressed").glob("*/*")
    assert "compression" not in imgrec.RunFolder(variant).summary
    assert imgrec.RunFolder(variant).parent == parent.resolve()
