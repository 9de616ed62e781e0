"""Kill training processes with SIGKILL, resume them, and compare their results with an uninterrupted run.

Each training runs in a process forked from one that has imported all modules, so a kill costs one second. The location
of a kill is random. It is a step, validation, a checkpoint (half written or not yet renamed) or a half-written row of
metrics.csv. The process kills itself there, and with several processes all others.

It can be run with custom configs::

    python -m tests.soak.harness --kills 20 experiments/digits/quickstart.yaml
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
import yaml

PLACES = {"forward": 14, "stepped": 12, "validation": 7, "half written": 4, "not renamed": 8, "half a row": 8}
"""Locations of kills, with the largest number of times that a location is reached before the kill."""


@dataclass(frozen=True)
class Kill:
    """Kill at the ``count``-th time (from 1) that ``place`` is reached in a process."""

    place: str
    count: int

    def __str__(self) -> str:
        return f"{self.place} {self.count}"


@dataclass
class Outcome:
    """Result of one config: kills, resumed steps and differences."""

    name: str
    kills: list[Kill] = field(default_factory=list)
    resumed_at: list[int] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """True if there is no difference."""
        return not self.differences


def soak(
    name: str,
    config: dict[str, Any],
    kills: int,
    folder: Path,
    seed: int = 0,
    processes: int = 1,
    teacher: dict[str, Any] | None = None,
) -> Outcome:
    """Train ``config`` without interruption and with ``kills`` kills, and compare the runs.

    Args:
        name: Name of the config in the table.
        config: Content of the YAML file.
        kills: Number of kills, after which the run finishes.
        folder: Empty working folder.
        seed: Seed of the locations of kills.
        processes: Number of training processes, started as by torchrun. Defaults to 1.
        teacher: Config of a teacher, which is trained first. Its run is linked as ``teacher``.
    """
    outcome = Outcome(name)
    folder.mkdir(parents=True, exist_ok=True)
    if teacher is not None:
        (folder / "soak.yaml").write_text(yaml.safe_dump(teacher))
        (folder / "teacher").symlink_to(finish(folder, ["fit", "--config", "soak.yaml", "--runs", "taught"], 1))
    (folder / "soak.yaml").write_text(yaml.safe_dump(config))
    arguments = ["fit", "--config", "soak.yaml", "--ckpt_path", "last", "--runs"]
    whole = finish(folder, [*arguments, "whole"], processes)
    draw = random.Random(f"{seed} {name}")
    while len(outcome.kills) < kills:
        kill = Kill(place := draw.choice([*PLACES]), draw.randint(1, PLACES[place]))
        status = start(folder, [*arguments, "killed"], processes, kill)
        if status == -signal.SIGKILL:
            outcome.kills.append(kill)
        elif status == 0:  # finished before the kill: compare and start another run
            _compare(whole, folder, outcome)
        else:
            raise RuntimeError(f"{name}, {kill}: exit status {status}\n{said(folder)}")
    finish(folder, [*arguments, "killed"], processes)
    _compare(whole, folder, outcome)
    return outcome


def _compare(whole: Path, folder: Path, outcome: Outcome) -> None:
    """Compare the finished run, which was killed before, add the result to ``outcome`` and remove the run."""
    (killed,) = (folder / "killed/soak").iterdir()
    outcome.resumed_at += json.loads((killed / "summary.json").read_text()).get("resumed", [])
    outcome.differences += differences(whole, killed)
    shutil.rmtree(folder / "killed")


def finish(folder: Path, arguments: Sequence[str], processes: int) -> Path:
    """Run a command to its end and return the run folder. The last argument is the folder of runs."""
    status = start(folder, arguments, processes)
    if status != 0:
        raise RuntimeError(f"exit status {status}\n{said(folder)}")
    (run,) = (folder / arguments[-1] / "soak").iterdir()
    return run


def said(folder: Path) -> str:
    """Return the end of the output of the last processes in ``folder``."""
    return "\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("said.*")))


# ---------------------------------------------------------------- processes


def start(folder: Path, arguments: Sequence[str], processes: int = 1, kill: Kill | None = None) -> int:
    """Run ``imgrec`` with the arguments in forked processes and return the exit status, or -9 after a kill."""
    port = _free_port() if processes > 1 else 0
    children = []
    for rank in range(processes):
        child = os.fork()
        if child == 0:
            _train(folder, arguments, rank, processes, port, kill)
        children.append(child)
    statuses = []
    for child in children:
        _, status = os.waitpid(child, 0)
        statuses.append(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
        if statuses[-1] == -signal.SIGKILL:
            for other in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(other, signal.SIGKILL)
    return -signal.SIGKILL if -signal.SIGKILL in statuses else max(statuses, key=abs)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def _train(folder: Path, arguments: Sequence[str], rank: int, processes: int, port: int, kill: Kill | None) -> NoReturn:
    """Run the command in a forked process, with a kill."""
    status = 1
    try:
        torch.set_num_threads(1)  # a pool of threads does not survive a fork
        os.setsid()  # signals to the group include its workers
        os.chdir(folder)
        output = os.open(f"said.{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(output, 1)
        os.dup2(output, 2)
        for name in [n for n in os.environ if n.startswith(("PL_", "RANK", "LOCAL_RANK", "MASTER_", "WORLD_SIZE"))]:
            del os.environ[name]
        sys.argv = ["imgrec", *arguments]
        if processes > 1:
            message: dict[str, int | str] = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": processes,
                "MASTER_PORT": port,
                "GROUP_RANK": 0,
            }
            message |= {"LOCAL_WORLD_SIZE": processes, "TORCHELASTIC_RUN_ID": "soak"}
            os.environ.update({key: str(value) for key, value in message.items()}, MASTER_ADDR="127.0.0.1")
        from lightning_utilities.core.rank_zero import rank_zero_only

        rank_zero_only.rank = rank  # type: ignore[attr-defined]
        from imgrec.cli.main import main

        with _dying(kill if rank == 0 else None):
            status = main(list(arguments))
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@contextlib.contextmanager
def _dying(kill: Kill | None) -> Iterator[None]:
    """Patch training so that it sends SIGKILL at ``kill``."""
    if kill is None:
        yield
        return
    from imgrec.runs.metrics_csv import MetricsLog
    from imgrec.tasks import BaseTask

    reached = 0

    def die_at(place: str) -> None:
        nonlocal reached
        if place == kill.place:
            reached += 1
            if reached == kill.count:
                os.kill(os.getpid(), signal.SIGKILL)

    def before(cls: Any, name: str, place: str) -> None:
        wrapped: Callable[..., Any] = getattr(cls, name)

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            die_at(place)
            return wrapped(self, *args, **kwargs)

        setattr(cls, name, method)

    before(BaseTask, "training_step", "forward")
    before(BaseTask, "validation_step", "validation")

    stepping = BaseTask.optimizer_step

    def optimizer_step(self: Any, *args: Any, **kwargs: Any) -> None:
        stepping(self, *args, **kwargs)
        die_at("stepped")

    BaseTask.optimizer_step = optimizer_step  # type: ignore[method-assign]

    save = torch.save

    def half(content: Any, file: Any, *args: Any, **kwargs: Any) -> None:
        if kill.place == "half written" and reached + 1 == kill.count:
            save({"half": torch.zeros(1000)}, file)
            file.flush()
        die_at("half written")
        save(content, file, *args, **kwargs)

    torch.save = half  # type: ignore[assignment]
    synchronise = os.fsync

    def fsync(file: int) -> None:
        synchronise(file)
        die_at("not renamed")

    os.fsync = fsync  # type: ignore[assignment]
    append = MetricsLog.append

    def half_a_row(self: Any, *args: Any, **kwargs: Any) -> None:
        if kill.place == "half a row" and reached + 1 == kill.count and self._file is not None:
            self._file.write("9,9,0.12345")
            self._file.flush()
        die_at("half a row")
        append(self, *args, **kwargs)

    MetricsLog.append = half_a_row  # type: ignore[method-assign]
    yield


# ---------------------------------------------------------------- comparing


def differences(whole: Path, killed: Path) -> list[str]:
    """Return the differences between two run folders, without values of machine and clock."""
    found: list[str] = []
    for name in ("last.ckpt", "best.ckpt"):
        if (whole / "checkpoints" / name).is_file():
            ours, theirs = (_checkpoint(run, name) for run in (whole, killed))
            found += [f"{name}: {where}" for where in unlike(ours, theirs)]
    rows = [_rows(run / "metrics.csv") for run in (whole, killed)]
    found += [f"metrics.csv{where}" for where in unlike(rows[0], rows[1])]
    for path in sorted((whole / "predictions").glob("*.parquet")):
        if path.read_bytes() != (killed / "predictions" / path.name).read_bytes():
            found.append(f"predictions/{path.name}")
    model = "model/model.safetensors"
    if (whole / model).is_file() and (whole / model).read_bytes() != (killed / model).read_bytes():
        found.append(model)
    return found


def _checkpoint(run: Path, name: str) -> Any:
    found = torch.load(run / "checkpoints" / name, weights_only=True)
    return without_place(found, run.name)


def without_place(value: Any, run: str) -> Any:
    """Remove paths, times and system metrics from a nested value."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not str(k).startswith("system/")}
        kept = {k: v for k, v in kept.items() if k not in ("seconds", "folder", "SystemFigures", "SystemMonitor")}
        return {without_place(k, run): without_place(v, run) for k, v in kept.items()}
    if isinstance(value, list | tuple):
        return [without_place(v, run) for v in value]
    return re.sub(rf".*{re.escape(run)}", "RUN", value) if run and isinstance(value, str) else value


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.startswith("system/")} for row in csv.DictReader(file)]


def unlike(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Return the locations at which two nested values differ in a bit or in type."""
    if type(ours) is not type(theirs):
        return [f"{where}: {type(ours).__name__} and {type(theirs).__name__}"]
    if isinstance(ours, dict):
        found = [f"{where}: only one has {key!r}" for key in sorted(ours.keys() ^ theirs.keys(), key=str)]
        both = [key for key in ours if key in theirs]
        return found + [d for key in both for d in unlike(ours[key], theirs[key], f"{where}/{key}")]
    if isinstance(ours, list):
        if len(ours) != len(theirs):
            return [f"{where}: {len(ours)} and {len(theirs)} elements"]
        return [d for i, (a, b) in enumerate(zip(ours, theirs, strict=True)) for d in unlike(a, b, f"{where}[{i}]")]
    if isinstance(ours, torch.Tensor):
        same = ours.dtype == theirs.dtype and ours.shape == theirs.shape
        return [] if same and np.array_equal(_bits(ours), _bits(theirs)) else [f"{where}: tensors"]
    return [] if ours == theirs or (ours != ours and theirs != theirs) else [f"{where}: {ours!r} and {theirs!r}"]


def _bits(tensor: torch.Tensor) -> Any:
    return tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()


def table(outcomes: Sequence[Outcome]) -> str:
    """Format one line per config: number and locations of kills, resumed steps and equality."""
    lines = [f"{'config':34} kills  equal  killed at (times reached in that process); resumed at step"]
    for each in outcomes:
        killed = ", ".join(map(str, each.kills))
        steps = ", ".join(map(str, each.resumed_at))
        lines.append(f"{each.name:34} {len(each.kills):5}  {'yes' if each.equal else 'NO':5}  {killed}; {steps}")
        lines += [f"{'':34} {difference}" for difference in each.differences[:20]]
    return "\n".join(lines)


def main() -> int:
    """Run the soak test with the given YAML files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="+", type=Path)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    import_everything()
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for i, path in enumerate(options.configs):
            config = yaml.safe_load(path.read_text())
            outcomes.append(
                soak(path.stem, config, options.kills, Path(folder) / str(i), options.seed, options.processes)
            )
    print(table(outcomes))
    return 0 if all(each.equal for each in outcomes) else 1


def import_everything() -> None:
    """Import the modules of a training, so that forked processes share them."""
    import imgrec.cli.commands.report
    import imgrec.cli.commands.resume
    import imgrec.cli.output
    import imgrec.engine.experiment
    import imgrec.engine.training
    import imgrec.runs.load  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
