from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from imgrec.cli.main import COMMANDS, split_command
from imgrec.engine.config import experiment_name

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("arguments", "command", "rest"),
    [
        (["fit", "--config", "a"], "fit", ["--config", "a"]),
        (["--config", "a", "fit"], "fit", ["--config", "a"]),
        (["--config=a", "fit", "--x", "1"], "fit", ["--config=a", "--x", "1"]),
        (["-c", "fit", "fit"], "fit", ["-c", "fit"]),
        (["--print_config", "fit", "-c", "a"], "fit", ["--print_config", "-c", "a"]),
        (["--model.loss", "focal", "test", "runs/a"], "test", ["--model.loss", "focal", "runs/a"]),
        (["--help"], None, ["--help"]),
        ([], None, []),
    ],
)
def test_the_command_is_found_between_options(arguments: list[str], command: str | None, rest: list[str]) -> None:
    assert split_command(arguments) == (command, rest)


@pytest.mark.parametrize(
    ("configs", "name"),
    [
        (["experiments/digits/quickstart.yaml"], "digits/quickstart"),
        (["/a/experiments/digits/deep/b.yml", "experiments/_parts/debug.yaml"], "digits/deep/b"),
        (["experiments/_parts/debug.yaml", "experiments/digits/quickstart.yaml"], "digits/quickstart"),
        (["mine.yaml"], "mine"),
        (["experiments/a.yaml"], "a"),
        (["experiments.yaml"], "experiments"),
        (["experiments/_parts/debug.yaml"], "experiment"),
        ([], "experiment"),
    ],
)
def test_a_config_names_the_experiment(configs: list[str], name: str) -> None:
    assert experiment_name(configs) == name


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_help_names_every_command(arguments: list[str], cli: Cli) -> None:
    done = cli(*arguments)
    assert done.returncode == 0
    assert [name for name in COMMANDS if f"\n  {name} " not in done.stdout] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help(command: str, cli: Cli) -> None:
    done = cli(command, "--help")
    assert done.returncode == 0
    assert f"imgrec {command}" in done.stdout
    assert done.stderr == ""


def test_the_version(cli: Cli) -> None:
    assert cli("--version").stdout == f"imgrec {version('imgrec')}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fti"], '"fit"'),
        (["--seed_everything", "1"], "a command is missing"),
        (["fit", "--config"], "expected one argument"),
        (["fit", "--print_config=skip_null"], "expected no value, true or false"),
        (["fit", "tiny.yaml"], "--config tiny.yaml"),
        (["test", "a", "b"], "expected no further argument"),
        (["test"], "expected a run folder or a checkpoint"),
        (["fit"], 'needs the argument "source"'),
    ],
)
def test_invalid_command_line(arguments: list[str], message: str, cli: Cli) -> None:
    done = cli(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr


def test_closed_pipe(tmp_path: Path) -> None:
    """`imgrec list backbones '*' | head -1` ends without a traceback."""
    command = f"{Path(sys.executable).parent / 'imgrec'} list backbones '*' | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
