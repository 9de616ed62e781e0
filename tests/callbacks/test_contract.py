"""Contract of every callback: its example trains, its state is plain, and ``fast_dev_run`` writes no file."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
import yaml

from imgrec import UserError
from imgrec.engine.class_lists import CLASS_LISTS
from imgrec.engine.instantiate import instantiate
from imgrec.utils.signature import Entry

Cli = Callable[..., "CompletedProcess[str]"]
CALLBACKS = CLASS_LISTS["callbacks"].list_own()
BAD: dict[str, list[dict[str, Any]]] = {
    "AdaptiveClipping": [{"factor": 0.0}, {"eps": -1.0}],
    "AugmentationStrength": [{"start": 2.0}, {"until": 0.0}],
    "BestCheckpoint": [{"mode": "up"}],
    "EMA": [{"decay": 1.0}, {"start": -0.1}],
    "EarlyStopping": [{"patience": 0}, {"time_limit": "soon"}],
    "EpochPictures": [{"every_n_epochs": 0}, {"columns": 0}, {"rows": 0}],
    "Freeze": [{"until": 1.5}, {"epochs": 0}, {"batch_norm": "frosen"}],
    "GradualUnfreezing": [{"start": 0.7}, {"end": 1.0}, {"every_n_epochs": 0}, {"stages": []}],
    "ImageSizeSchedule": [{"start": 0.0}, {"multiple": 0}],
    "LastCheckpoint": [{"keep": 0}, {"every_steps": 0}],
    "LayerStatistics": [{"depth": 0}, {"every_n_steps": 0}],
    "MaxNorm": [{"limit": 0.0}, {"limit": -1.0}],
    "NaNGuard": [{"factor": 0.5}, {"window": 1}],
    "Pruning": [{"sparsity": 1.5}, {"pattern": "4:4"}, {"start": 0.7}, {"every_n_steps": 0}],
    "QAT": [{"start": 1.0}, {"freeze_observers": 0.2}, {"freeze_batchnorm": 1.5}],
    "StructuredPruning": [{"target": {"macs": 1.5}}, {"importance": "l3"}, {"rounds": 0}, {"start": 0.7}],
    "TestTimeViews": [{"views": "hflop"}],
}


def example(entry: Entry[Any]) -> str:
    """Return the value of ``trainer.callbacks`` in the YAML of a docstring, as YAML."""
    found = re.search(r"^ +trainer:\n +callbacks:\n(?: +.*\n?)+", entry.doc, re.MULTILINE)
    assert found, f"{entry.name} has no example in YAML"
    config = yaml.safe_load(textwrap.dedent(found.group()))
    assert entry.name in str(config["trainer"]["callbacks"])
    return yaml.safe_dump(config["trainer"]["callbacks"], default_flow_style=True, width=10_000).strip()


def is_plain(value: Any) -> bool:
    """Return True if a checkpoint can contain the value without a pickle."""
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str) or isinstance(value, torch.Tensor)


@pytest.mark.parametrize("entry", CALLBACKS, ids=lambda entry: entry.name)
def test_the_example_trains_and_its_state_is_plain(entry: Entry[Any], cli: Cli, tiny: Path, tmp_path: Path) -> None:
    short = ["--trainer.limit_train_batches", "3", "--trainer.limit_val_batches", "2", "--evaluate_after_fit", "false"]
    words = ["fit", "--config", tiny, "--trainer.callbacks", example(entry), *short]
    dry_run = cli(*words, "--trainer.fast_dev_run", "true")
    assert dry_run.returncode == 0, dry_run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]
    done = cli(*words)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs/tiny").iterdir()
    states = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["callbacks"]
    own = {key: state for key, state in states.items() if key.startswith(entry.name)}
    assert all(map(is_plain, own.values())), own


@pytest.mark.parametrize(("name", "arguments"), [(name, each) for name, bad in BAD.items() for each in bad], ids=str)
def test_invalid_arguments_raise_one_message(name: str, arguments: dict[str, Any]) -> None:
    import pytorch_lightning as pl

    with pytest.raises(UserError) as caught:
        instantiate({"class_path": name, **arguments}, pl.Callback, "trainer.callbacks[0]")
    value = next(iter(arguments.values()))
    wrong = next(iter(value.values())) if isinstance(value, dict) else value
    assert str(wrong) in str(caught.value)


def test_every_callback_has_invalid_arguments() -> None:
    assert set(BAD) == {entry.name for entry in CALLBACKS}
