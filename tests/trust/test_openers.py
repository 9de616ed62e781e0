"""Every command and function that opens what another process wrote refuses names outside the registries."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import imgrec
from imgrec.cli.main import COMMANDS, NO_DATA, USER_CONFIG
from imgrec.errors import UserError
from tests.trust.conftest import unfinished
from tests.trust.hostile import (
    CHECKPOINT,
    CHECKPOINT_TASK,
    MODEL_FOLDER,
    RUN_DATA,
    RUN_MODEL,
    RUN_TRAINING,
    RUNS_CODE,
    Attack,
    attacked,
)
from tests.trust.watch import Watch

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Guarded = Callable[[], AbstractContextManager[Watch]]
Words = Callable[[Path], Sequence[str | Path]]


def second(run: Path) -> Path:
    """Return a second run with other weights, for commands that require two runs."""
    other = shutil.copytree(run, run.with_name("other"))
    path = other / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["state_dict"]["model.head.linear.bias"] += 1
    torch.save(content, path)
    shutil.rmtree(other / "model")
    return other


def picture(run: Path) -> Path:
    path = run.parent / "picture.png"
    Image.new("L", (16, 16), 128).save(path)
    return path


def trained_from(key: str) -> Words:
    """Return the arguments of a training that loads a run as its start or as its teacher."""

    def arguments(run: Path) -> Sequence[str | Path]:
        tiny = run.parents[2] / "tiny.yaml"
        shutil.copy(run / "config.yaml", tiny)
        text = (run / "config.yaml").read_text()
        distilling = text.replace("imgrec.ClassificationTask", "imgrec.DistillationTask")
        tiny.write_text(distilling if key == "teacher" else text)
        return ["fit", "--config", tiny, f"--model.{key}", run]

    return arguments


COMMAND_WORDS: dict[str, tuple[Words, list[Attack]]] = {
    "predict": (lambda run: ["predict", run, picture(run)], MODEL_FOLDER + CHECKPOINT + CHECKPOINT_TASK),
    "predict model": (lambda run: ["predict", run / "model", picture(run)], MODEL_FOLDER),
    "predict checkpoint": (
        lambda run: ["predict", run / "checkpoints" / "best.ckpt", picture(run)],
        CHECKPOINT + CHECKPOINT_TASK,
    ),
    "test": (lambda run: ["test", run], RUN_DATA + RUN_MODEL),
    "validate": (lambda run: ["validate", run], RUN_DATA[:3] + RUN_MODEL),
    "test checkpoint": (
        lambda run: ["test", shutil.copy(run / "checkpoints" / "best.ckpt", run.parent / "alone.ckpt")],
        [*CHECKPOINT[:2], *CHECKPOINT_TASK[:4]],
    ),
    "evaluate": (lambda run: ["evaluate", run, "digits"], [MODEL_FOLDER[0], CHECKPOINT[0], CHECKPOINT_TASK[3]]),
    "report": (lambda run: ["report", run], RUN_DATA),
    "compare": (lambda run: ["compare", run, second(run), "--out", "page.html"], RUN_DATA[:4]),
    "audit": (lambda run: ["audit", run], RUN_DATA),
    "audit predictions": (lambda run: ["audit", run, "--predictions", run], RUN_DATA[:1]),
    "soup": (lambda run: ["soup", run, second(run)], MODEL_FOLDER[:3] + RUN_DATA[:4]),
    "compress": (
        lambda run: ["compress", run, "--finetune", "1"],
        MODEL_FOLDER[:1] + RUN_DATA[:4] + RUN_MODEL[:3] + RUN_TRAINING,
    ),
    "bench": (
        lambda run: ["bench", run, "--runtime", "torch", "--images", "0", "--budget", "0.01"],
        MODEL_FOLDER + CHECKPOINT,
    ),
    "resume": (lambda run: ["resume", unfinished(run)], RUN_DATA + RUN_MODEL + RUN_TRAINING),
    "fit init_from": (trained_from("init_from"), [MODEL_FOLDER[-1], CHECKPOINT[-1]]),
    "fit teacher": (trained_from("teacher"), MODEL_FOLDER[:3] + CHECKPOINT[:2]),
}
"""Commands that resolve names of a run, and the attacks on the files that they read."""

PASSIVE = {"runs", "watch", "sync", "cache"}
"""Commands that read figures of runs and resolve no name."""

CASES = [(name, attack) for name, (_, attacks) in COMMAND_WORDS.items() for attack in attacks]


@pytest.mark.parametrize(("command", "attack"), CASES, ids=[f"{name}-{a.file}-{a.name}" for name, a in CASES])
def test_a_command_refuses_before_anything_is_imported(
    command: str, attack: Attack, cli: Cli, run: Path, guarded: Guarded
) -> None:
    arguments = COMMAND_WORDS[command][0](attacked(run, attack)) if not command.startswith("fit") else None
    if arguments is None:  # the user's own config is the genuine one
        arguments = COMMAND_WORDS[command][0](run)
        attacked(run, attack)
    with guarded():
        done = cli(*arguments)
    text = done.stdout + done.stderr
    assert done.returncode == (0 if command in ("report", "compare") else 2), text
    assert attack.named in text
    assert "--trust" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("attack", [RUN_DATA[0], RUN_MODEL[1]], ids=lambda attack: attack.name)
@pytest.mark.parametrize("arguments", [["runs", "runs"], ["watch", "--once"], ["cache", "list"], ["sync", "runs"]])
def test_a_command_that_reads_figures_resolves_nothing(
    arguments: list[str], attack: Attack, cli: Cli, run: Path, guarded: Guarded
) -> None:
    attacked(run, attack)
    with guarded():
        done = cli(*arguments)
    assert "Traceback" not in done.stderr


FUNCTIONS: dict[str, tuple[Callable[[Path], Any], list[Attack]]] = {
    "load": (imgrec.load, MODEL_FOLDER + CHECKPOINT + CHECKPOINT_TASK),
    "compress_run": (lambda run: imgrec.compress_run(run, ["finetune"]), RUN_DATA[:3] + RUN_TRAINING[:2]),
    "soup_runs": (lambda run: imgrec.soup_runs(run, second(run)), MODEL_FOLDER[:2] + RUN_DATA[:3]),
    "evaluate": (lambda run: imgrec.evaluate(run, "digits"), MODEL_FOLDER[:2] + CHECKPOINT_TASK[:1]),
    "evaluate_run": (lambda run: imgrec.evaluate_run(run, "digits"), MODEL_FOLDER[:1]),
    "evaluate_split": (lambda run: imgrec.evaluate_split(run, "val"), RUN_DATA[:3]),
    "resume": (lambda run: imgrec.resume(unfinished(run)), RUN_DATA[:3] + RUN_TRAINING[:2]),
    "predict": (lambda run: imgrec.predict(run, picture(run)), MODEL_FOLDER[:2] + CHECKPOINT_TASK[:1]),
    "bench_runs": (lambda run: imgrec.bench_runs(run, runtimes=["torch"], images=0), MODEL_FOLDER[:2]),
    "ClassificationTask": (
        lambda run: imgrec.ClassificationTask.load_from_checkpoint(run / "checkpoints" / "best.ckpt"),
        [*CHECKPOINT[:3], *CHECKPOINT_TASK[:3], CHECKPOINT_TASK[4]],
    ),
}
READERS = {"RunFolder", "run_table", "compare_runs"}
"""Functions and classes that read figures of runs and resolve no name."""
TRAININGS = {"fit", "find_batch_size", "find_learning_rate", "technique_costs"}
"""Functions that take the user's own config."""

CALLS = [(name, attack) for name, (_, attacks) in FUNCTIONS.items() for attack in attacks]


@pytest.mark.parametrize(("function", "attack"), CALLS, ids=[f"{name}-{a.file}-{a.name}" for name, a in CALLS])
def test_a_function_refuses_before_anything_is_imported(
    function: str, attack: Attack, run: Path, guarded: Guarded
) -> None:
    attacked(run, attack)
    with guarded(), pytest.raises(UserError) as caught:
        FUNCTIONS[function][0](run)
    assert attack.named in str(caught.value)
    assert "trust=True" in str(caught.value)


def test_a_data_module_of_a_checkpoint_stays_closed_after_it_was_loaded(run: Path, guarded: Guarded) -> None:
    path = run / "checkpoints" / "best.ckpt"
    content = torch.load(path, weights_only=True)
    content["datamodule_hyper_parameters"]["source"] = {"name": "concat", "sources": ["digits", RUNS_CODE]}
    torch.save(content, path)
    with guarded(), pytest.raises(UserError, match=r"os\.system"):
        imgrec.ImageDataModule.load_from_checkpoint(path).setup()


def test_pickle_instead_of_checkpoint_is_not_loaded(run: Path, cli: Cli, guarded: Guarded) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            import os

            return os.system, ("touch executed",)

    path = run / "checkpoints" / "best.ckpt"
    torch.save({"state_dict": {}, "evil": Evil()}, path)
    shutil.rmtree(run / "model")
    with guarded():
        for arguments in (["predict", run, picture(run)], ["test", run], ["bench", run], ["resume", unfinished(run)]):
            done = cli(*arguments)
            assert done.returncode == 2, done.stderr


def test_every_command_and_public_name_is_classified() -> None:
    opened = {name.partition(" ")[0] for name in COMMAND_WORDS} - {"fit"}
    assert opened | PASSIVE | USER_CONFIG | NO_DATA == set(COMMANDS), "a new command: add it to COMMAND_WORDS"
    functions = {name for name in imgrec.__all__ if callable(getattr(imgrec, name)) and not name[0].isupper()}
    assert functions | {"RunFolder"} == set(FUNCTIONS) - {"ClassificationTask"} | READERS | TRAININGS
