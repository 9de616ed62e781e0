"""Hostile variants of a genuine run: one changed place each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

RUNS_CODE = {"name": "os.system", "command": "touch executed"}
"""A spec that runs a command in a shell, if a name in it is resolved."""
CALLS_CODE = {"class_path": "os.system", "init_args": {"command": "touch executed"}}
"""The same for a place that takes a class."""
NESTED = {"name": "imgrec.regularizers.adversarial.FGSM", "loss": RUNS_CODE}
"""The same as an argument of a class of imgrec."""
IMPORTS = "evilmod.Head"
"""A class whose module is in the current folder."""

Change = Callable[[Any], None]


@dataclass(frozen=True)
class Attack:
    """A change to one file of a run.

    Args:
        name: Identifier of the test.
        file: ``config.json``, ``best.ckpt`` or ``config.yaml``.
        change: Function that changes the content of the file in place.
        named: Untrusted name, which the message contains.
    """

    name: str
    file: str
    change: Change
    named: str


def put(*keys: Any, value: Any) -> Change:
    """Return a change that sets the value at a path of keys."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


SPECS = ("imgrec", "specs")
MODEL = ("model", "init_args")
DATA = ("data", "init_args")

MODEL_FOLDER = [
    Attack("nested", "config.json", put(*SPECS, "head", value=NESTED), "imgrec.regularizers.adversarial.FGSM"),
    Attack("head", "config.json", put(*SPECS, "head", value=IMPORTS), IMPORTS),
    Attack("backbone", "config.json", put(*SPECS, "backbone", value=RUNS_CODE), "os.system"),
    Attack("neck", "config.json", put(*SPECS, "neck", value=RUNS_CODE), "os.system"),
    Attack("pooling", "config.json", put(*SPECS, "pooling", value="evilmod.Pooling"), "evilmod.Pooling"),
    Attack("edits", "config.json", put(*SPECS, "edits", value=["swap_norm", RUNS_CODE]), "os.system"),
    Attack(
        "transform",
        "config.json",
        put("imgrec", "facts", "eval_transforms", value=["resize", "center_crop", RUNS_CODE]),
        "os.system",
    ),
]
CHECKPOINT: list[Attack] = [
    *(
        Attack(key, "best.ckpt", put("hyper_parameters", key, value=RUNS_CODE), "os.system")
        for key in ("backbone", "head")
    ),
    Attack(
        "nested", "best.ckpt", put("hyper_parameters", "head", value=NESTED), "imgrec.regularizers.adversarial.FGSM"
    ),
    Attack("import", "best.ckpt", put("hyper_parameters", "head", value=IMPORTS), IMPORTS),
    Attack(
        "transform", "best.ckpt", put("hyper_parameters", "facts", "eval_transforms", value=[RUNS_CODE]), "os.system"
    ),
]
CHECKPOINT_TASK = [  # what only the task reads
    Attack("loss", "best.ckpt", put("hyper_parameters", "loss", value=RUNS_CODE), "os.system"),
    Attack("losses", "best.ckpt", put("hyper_parameters", "loss", value=["focal", RUNS_CODE]), "os.system"),
    Attack(
        "regularizer",
        "best.ckpt",
        put("hyper_parameters", "regularizers", value=[{**RUNS_CODE, "weight": 1.0}]),
        "os.system",
    ),
    Attack("task", "best.ckpt", put("imgrec", "task", value="evilmod.Task"), "evilmod.Task"),
    Attack("instantiator", "best.ckpt", put("hyper_parameters", "_instantiator", value="evilmod.make"), "evilmod.make"),
]
RUN_DATA = [
    Attack("class", "config.yaml", put("data", "class_path", value="evilmod.Data"), "evilmod.Data"),
    Attack(
        "function",
        "config.yaml",
        put("data", value=CALLS_CODE),
        "os.system",
    ),
    Attack("source", "config.yaml", put(*DATA, "source", value=RUNS_CODE), "os.system"),
    Attack(
        "nested source",
        "config.yaml",
        put(*DATA, "source", value={"name": "concat", "sources": ["digits", RUNS_CODE]}),
        "os.system",
    ),
    Attack(
        "source of a source",
        "config.yaml",
        put(*DATA, "source", value={"name": "subset", "source": {"name": "subset", "source": RUNS_CODE}}),
        "os.system",
    ),
    Attack("transform", "config.yaml", put(*DATA, "train_transforms", value=["hflip", RUNS_CODE]), "os.system"),
    Attack("sampler", "config.yaml", put(*DATA, "sampler", value="evilmod.Sampler"), "evilmod.Sampler"),
]
RUN_MODEL = [
    Attack("task", "config.yaml", put("model", "class_path", value="evilmod.Task"), "evilmod.Task"),
    Attack("loss", "config.yaml", put(*MODEL, "loss", value=RUNS_CODE), "os.system"),
    Attack(
        "compiler",
        "config.yaml",
        put(*MODEL, "compile", value={"options": {"cpp.cxx": ["evil.sh"]}}),
        "evil.sh",
    ),
    Attack("optimizer", "config.yaml", put(*MODEL, "optimizer", value="evilmod.Adam"), "evilmod.Adam"),
    Attack(
        "strategy",
        "config.yaml",
        put(
            "trainer",
            "strategy",
            value={"class_path": "subprocess.Popen", "init_args": {"args": ["true"]}},
        ),
        "subprocess.Popen",
    ),
]
RUN_TRAINING = [
    Attack("callback", "config.yaml", put("trainer", "callbacks", value=["evilmod.Callback"]), "evilmod.Callback"),
    Attack(
        "argument of a callback",
        "config.yaml",
        put(
            "trainer",
            "callbacks",
            value=[
                {
                    "class_path": "EMA",
                    "init_args": {"decay": CALLS_CODE},
                }
            ],
        ),
        "os.system",
    ),
    Attack(
        "place of a callback",
        "config.yaml",
        put("trainer", "callbacks", value=[{"class_path": "LastCheckpoint", "init_args": {"dirpath": "../../out"}}]),
        "../../out",
    ),
    Attack("logger", "config.yaml", put("trainer", "logger", value={"class_path": "evilmod.Logger"}), "evilmod.Logger"),
    Attack("root", "config.yaml", put("trainer", "default_root_dir", value="/outside"), "/outside"),
]


def place_modules(folder: Path) -> None:
    """Put modules that must never run into ``folder``: a class, and the name of a standard module."""
    for name in ("evilmod", "json", "torch", "antigravity_of_imgrec"):
        (folder / f"{name}.py").write_text("import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n")
    found = folder / "evil-1.0.dist-info"
    found.mkdir(exist_ok=True)
    (found / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    points = "".join(f"[imgrec.{each}]\nevil = evilmod:Head\n" for each in ("losses", "heads", "sources", "backbones"))
    (found / "entry_points.txt").write_text(points)


def attacked(run: Path, attack: Attack) -> Path:
    """Apply an attack to the file of a run, and return the run."""
    if attack.file == "config.json":
        path = run / "model" / "config.json"
        content = json.loads(path.read_text())
        attack.change(content)
        path.write_text(json.dumps(content))
    elif attack.file == "best.ckpt":
        path = run / "checkpoints" / "best.ckpt"
        content = torch.load(path, weights_only=True)
        attack.change(content)
        torch.save(content, path)
        shutil.rmtree(run / "model", ignore_errors=True)  # the checkpoint is the only remaining model
    else:
        path = run / attack.file
        content = yaml.safe_load(path.read_text())
        attack.change(content)
        path.write_text(yaml.safe_dump(content))
    return run
