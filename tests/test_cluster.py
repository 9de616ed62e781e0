"""The sbatch script that users copy, and the commands of docs/cluster.md."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

ROOT = Path(__file__).parents[1]
PARTS = ROOT / "experiments" / "_parts"
SCRIPT = PARTS / "slurm.sbatch"
DOCS = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")


def submit(place: Path, status: int) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run the script with an srun that exits with ``status``. Return the result and the arguments of each command."""
    (place / ".venv/bin").mkdir(parents=True)
    (place / ".venv/bin/activate").touch()
    (place / "bin").mkdir()
    for name, ends in {"srun": status, "scontrol": 0}.items():
        command = place / "bin" / name
        command.write_text(f'#!/bin/bash\nprintf "%s\\t" {name} "$@" >> said\necho >> said\nexit {ends}\n')
        command.chmod(0o755)
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "4", "HOME": str(place)}
    environment = {**os.environ, **slurm, "PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    arguments: list[str | Path] = ["bash", SCRIPT, "experiments/mine.yaml", "--seed_everything", "3"]
    done = subprocess.run(arguments, cwd=place, env=environment, capture_output=True, text=True, check=False)
    output = [line.strip("\t").split("\t") for line in (place / "said").read_text().splitlines()]
    return done, output


def test_the_script_is_bash() -> None:
    assert subprocess.run(["bash", "-n", SCRIPT], capture_output=True, check=False).returncode == 0
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?", SCRIPT.read_text(), re.MULTILINE))
    assert options["signal"] == "TERM@120"
    assert "requeue" in options
    assert options["gres"] == f"gpu:{options['ntasks-per-node']}"


def test_a_job_that_was_preempted_is_queued_again(tmp_path: Path) -> None:
    done, output = submit(tmp_path, 75)
    assert (done.returncode, done.stderr) == (75, "")
    assert output[0][:2] == ["srun", "imgrec"]
    assert output[1:] == [["scontrol", "requeue", "4711"]]


@pytest.mark.parametrize("status", [0, 1, 2])
def test_a_job_that_ended_stays_ended(tmp_path: Path, status: int) -> None:
    done, output = submit(tmp_path, status)
    assert done.returncode == status
    assert [arguments[0] for arguments in output] == ["srun"]


def test_script_runs_valid_command(tmp_path: Path, cli: Cli, tiny: Path) -> None:
    _, output = submit(tmp_path, 0)
    arguments = output[0][2:]
    assert arguments[:3] == ["fit", "--config", "experiments/mine.yaml"]
    assert arguments[-2:] == ["--seed_everything", "3"]
    given = [
        {"experiments/mine.yaml": tiny, "experiments/_parts/slurm.yaml": PARTS / "slurm.yaml"}.get(w, w)
        for w in arguments
    ]
    at = given.index("--ckpt_path")
    assert given[at + 1] == "last"
    resolved = cli(*given[:at], *given[at + 2 :], "--trainer.accelerator", "cpu", "--print_config")
    assert resolved.returncode == 0, resolved.stderr
    trainer = yaml.safe_load(resolved.stdout)["trainer"]
    assert (trainer["num_nodes"], trainer["devices"], trainer["strategy"]) == (2, 4, "ddp")
    (callback,) = trainer["callbacks"]
    assert callback == {"class_path": "LastCheckpoint", "init_args": {"every_minutes": 10}}


def test_the_commands_of_the_docs_resolve(tmp_path: Path, cli: Cli, tiny: Path) -> None:
    commands = [
        line[line.index("fit") :].split()
        for block in re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if " fit " in line
    ]
    assert len(commands) == 2
    for arguments in commands:
        files = {"experiments/mine.yaml": tiny, "gpu": "cpu", "last": tmp_path}
        given = [ROOT / word if word.startswith("experiments/_parts") else files.get(word, word) for word in arguments]
        given = [word for word in given if word not in ("--ckpt_path", tmp_path)]
        done = cli(*given, "--print_config")
        assert done.returncode == 0, done.stderr
        assert yaml.safe_load(done.stdout)["trainer"]["devices"] == 8


def test_files_named_in_docs_exist() -> None:
    for part in re.findall(r"_parts/[a-z]+\.[a-z]+", DOCS):
        assert (ROOT / "experiments" / part).is_file(), part
