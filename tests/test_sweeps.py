"""W&B sweeps: what an agent would run for each of our sweep files is built by W&B's own code, and resolves."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args, load_sweep_config

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "experiments" / "_sweeps").glob("*.yaml"))
METHODS = {"grid", "random", "bayes"}


def values(parameters: dict[str, Any], end: int) -> dict[str, Any]:
    """Return values that W&B could choose: the first or last listed value, or a bound of a range."""
    return {
        name: given["values"][end] if "values" in given else given["max" if end else "min"]
        for name, given in parameters.items()
    }


def command_of(sweep: dict[str, Any], chosen: dict[str, Any]) -> list[str]:
    """Return the command line of an agent, as built by ``wandb_agent.py``."""
    parts = create_sweep_command_args({"args": {name: {"value": value} for name, value in chosen.items()}})
    parts |= {"program": [sweep["program"]], "interpreter": ["python"], "env": ["/usr/bin/env"]}
    line: list[str] = []
    for word in create_sweep_command(list(sweep["command"])):
        line += parts[word[2:-1]] if word.startswith("${") else [word]
    return line


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
@pytest.mark.parametrize("end", [0, -1])
def test_the_command_of_an_agent_is_a_fit_with_the_chosen_values(
    path: Path, end: int, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = load_sweep_config(str(path))
    assert sweep is not None
    chosen = values(sweep["parameters"], end)
    program, *arguments = command_of(sweep, chosen)
    assert program == "imgrec"
    monkeypatch.chdir(ROOT)  # an agent runs where the experiments are
    done = cli(*arguments, "--print_config")
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    for name, value in chosen.items():
        part, *rest = name.split(".")
        place = config[part]["init_args"] if rest else {part: config[part]}
        for key in rest or [part]:
            place = place[key]
        assert place == pytest.approx(value) if isinstance(value, float) else place == value, name
    logger = config["trainer"]["logger"]
    assert logger["class_path"] == "WandbLogger"


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_sweep_has_documented_goal(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert sweep["method"] in METHODS
    assert sweep["metric"] == {"name": "val/acc", "goal": "maximize"}
    for given in sweep["parameters"].values():
        assert {"values"} <= given.keys() or {"distribution", "min", "max"} <= given.keys()
        assert all(isinstance(given.get(end, 0.0), float) for end in ("min", "max"))  # 1e-4 would be text in YAML 1.1


def test_there_is_a_sweep_of_each_kind() -> None:
    assert {yaml.safe_load(path.read_text(encoding="utf-8"))["method"] for path in SWEEPS} == {"grid", "bayes"}
