from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from imgrec.cli.main import COMMANDS, split_command
from imgrec.cli.options import parse
from imgrec.engine.config import experiment_name
from imgrec.errors import UserError

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.mark.parametrize(
    ("words", "command", "rest"),
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
def test_the_command_is_found_between_options(words: list[str], command: str | None, rest: list[str]) -> None:
    assert split_command(words) == (command, rest)


def test_options_in_their_forms() -> None:
    line = (
        "runs/a --config a.yaml -c=b.yaml -c c.yaml --config=d.yaml --print_config --model.loss=focal "
        "--model.optimizer.lr -1e-3 --trainer.fast_dev_run --a= --b -2 --ckpt_path x.ckpt --d=--e"
    )
    found = parse(line.split())
    assert found.targets == ["runs/a"]
    assert found.configs == ["a.yaml", "b.yaml", "c.yaml", "d.yaml"]
    assert found.ckpt_path == "x.ckpt"
    assert found.print_config
    assert not found.help
    assert found.overrides == [
        ("model.loss", "focal"),
        ("model.optimizer.lr", -0.001),
        ("trainer.fast_dev_run", True),
        ("a", None),
        ("b", -2),
        ("d", "--e"),
    ]


@pytest.mark.parametrize("words", [["--config"], ["-c"], ["--config="], ["--config", "--x"], ["--ckpt_path"]])
def test_an_option_that_needs_a_file(words: list[str]) -> None:
    with pytest.raises(UserError, match="needs a file"):
        parse(words)


@pytest.mark.parametrize("word", ["-x", "-1", "-lr=3"])
def test_there_are_no_short_options(word: str) -> None:
    with pytest.raises(UserError, match="no option"):
        parse([word])


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


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_help_names_every_command(words: list[str], cli: Cli) -> None:
    done = cli(*words)
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
    ("words", "said"),
    [
        (["fti"], '"fit"'),
        (["--seed_everything", "1"], "a command is missing"),
        (["fit", "tiny.yaml"], "--config tiny.yaml"),
        (["test", "a", "b"], "one run folder or checkpoint, got 2"),
        (["test"], "expected a run folder or a checkpoint"),
        (["fit"], 'needs the argument "source"'),
    ],
)
def test_a_command_line_that_makes_no_sense(words: list[str], said: str, cli: Cli) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert said in done.stderr


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    """`imgrec list backbones '*' | head -1` ends without a traceback."""
    command = f"{Path(sys.executable).parent / 'imgrec'} list backbones '*' | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
