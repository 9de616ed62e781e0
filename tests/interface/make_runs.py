"""Make the run folders in tests/interface/runs: ``python tests/interface/make_runs.py FOLDER``.

The stored folders were made by commit 4720193, the last one before the modules moved to the packages of their layers.
Do not make them again with a later version. They show that later versions read the files of that version. machine.json
describes the machine on which they were made.
Each experiment has two runs: ``complete``, and ``stopped``, which SIGTERM ended in the middle of epoch 2.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import yaml

from imgrec.cli.main import main

STOP_AT = 8
"""Optimizer step after which the stopped runs receive SIGTERM, of 18 in all."""

BASE: dict[str, Any] = {
    "model": {
        "backbone": {"name": "cifar_resnet", "depth": 8, "widths": [4, 6, 8]},
        "optimizer": {"name": "adamw", "lr": 0.01},
        "schedule": {"name": "cosine", "warmup": 0.1},
        "normalize": "half",
    },
    "data": {
        "source": {"name": "subset", "source": "digits", "images": 240},
        "image_size": 16,
        "channels": 1,
        "batch_size": 24,
        "num_workers": 0,
        "cache": "off",
        "train_transforms": ["squash", {"name": "random_crop", "padding": 1}],
    },
    "trainer": {"max_epochs": 3, "limit_train_batches": 6, "callbacks": []},
}


def configs() -> dict[str, dict[str, Any]]:
    """Return the config of each experiment."""
    trainer = BASE["trainer"]
    pruning = {"class_path": "Pruning", "init_args": {"sparsity": 0.5}}
    qat = {"class_path": "QAT", "init_args": {"start": 0.34}}
    structured = {
        "class_path": "StructuredPruning",
        "init_args": {
            "target": {"macs": 0.6},
            "importance": "taylor",
            "rounds": 2,
            "start": 0.2,
            "end": 0.6,
            "round_to": 2,
        },
    }
    student = {
        "class_path": "imgrec.DistillationTask",
        "init_args": {
            **BASE["model"],
            "distillation": {"name": "logits", "temperature": 2},
            "teacher": "runs/plain/complete",
        },
    }
    return {
        "plain": BASE,
        "pruned": {**BASE, "trainer": {**trainer, "callbacks": [pruning]}},
        "qat": {**BASE, "trainer": {**trainer, "callbacks": [qat]}},
        "structured": {
            **BASE,
            "model": {**BASE["model"], "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.9}},
            "trainer": {**trainer, "callbacks": [structured]},
        },
        "distilled": {**BASE, "model": student},
    }


def make(folder: Path) -> None:
    """Train every experiment twice in ``folder``."""
    (folder / "machine.json").write_text(json.dumps(describe_machine(), indent=2) + "\n")
    os.chdir(folder)
    os.environ["XDG_CACHE_HOME"] = os.environ["IMGREC_CACHE"] = str(folder / "cache")
    for name, config in configs().items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        for run in ("complete", "stopped"):
            status = train(name, stop=run == "stopped")
            assert status == (75 if run == "stopped" else 0), (name, run, status)
            (made,) = (path for path in (folder / "runs" / name).iterdir() if path.name not in ("complete", "stopped"))
            made.rename(made.with_name(run))
            shorten(made.with_name(run))


def describe_machine() -> dict[str, str]:
    """Return the properties of this machine on which the bits of a training depend."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines() if path.is_file() else []
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = hashlib.sha256(" ".join(sorted(fields.get("flags", "").split())).encode()).hexdigest()[:16]
    names = ("model name", "cpu family", "model", "stepping")
    return {**{name: fields.get(name, "") for name in names}, "flags": flags, "torch": torch.__version__}


def shorten(run: Path) -> None:
    """Remove the report, which every version can write again, and the release of the operating system."""
    (run / "report.html").unlink(missing_ok=True)
    path = run / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"platform": "Linux x86_64"}, indent=2) + "\n")


def train(name: str, stop: bool) -> int:
    """Train one experiment, and send SIGTERM to this process after ``STOP_AT`` steps on request."""
    after_batch = pl.Trainer.__dict__.get("fit")
    assert after_batch is not None

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == STOP_AT:
                os.kill(os.getpid(), signal.SIGTERM)

    def fit(trainer: pl.Trainer, *arguments: Any, **named: Any) -> Any:
        trainer.callbacks.insert(0, Stop())  # type: ignore[attr-defined]
        return after_batch(trainer, *arguments, **named)

    if stop:
        pl.Trainer.fit = fit  # type: ignore[method-assign, assignment]
    sys.argv = ["imgrec", "fit", "--config", f"{name}.yaml"]
    try:
        return main(sys.argv[1:])
    except SystemExit as error:
        return int(error.code or 0)
    finally:
        pl.Trainer.fit = after_batch  # type: ignore[method-assign]


if __name__ == "__main__":
    target = Path(sys.argv[1]).resolve()
    target.mkdir(parents=True)
    make(target)
