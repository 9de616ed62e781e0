"""The run folder: make one, find them, read one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from imgrec.errors import UserError, suggestion
from imgrec.runs.metrics_csv import MetricSeries, read_metrics
from imgrec.runs.predictions import Predictions, read_predictions
from imgrec.runs.summary import SUMMARY, read_json
from imgrec.utils import yaml as yaml12
from imgrec.utils.paths import inside
from imgrec.utils.write_errors import WriteError

if TYPE_CHECKING:
    from imgrec.data.splits.table import SplitTable

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
SPLITS_FILE = "splits.parquet"
EVALUATIONS = "evaluations"
_LISTED = 10


class RunFolder:
    """Reads a run folder; what it gives is read when it is asked for. It is path-like: ``Path(run)`` works.

    Args:
        path: the folder of one run, ``runs/<experiment>/<run id>``.

    Raises:
        UserError: it is none. The message says what a run folder holds, and names the runs below, or the run around,
            the given path.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        if not is_run_folder(self.path):
            raise UserError(_why_none(self.path))

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def run_id(self) -> str:
        """The name of the folder."""
        return self.path.resolve().name

    @property
    def experiment(self) -> str:
        """The experiment that the run belongs to: what environment.json says, else the folder around the run."""
        return str(self.environment.get("experiment") or self.path.resolve().parent.name)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved config; ``imgrec fit --config`` on its file repeats the run."""
        import yaml

        path = self.path / CONFIG
        try:
            found = yaml12.load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(found, dict):
            raise UserError(f"{path} should hold a mapping, and holds a {type(found).__name__}")
        return found

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, git commit, command, hardware, seed and data fingerprint."""
        return read_json(self.path / ENVIRONMENT)

    @property
    def parent(self) -> Path | None:
        """The run that this one was made from, compressed say; ``None`` where there is none, or none any more."""
        named = (self.environment.get("parent") or {}).get("path")
        found = self.path / named if isinstance(named, str) else None
        return found.resolve() if found is not None and is_run_folder(found) else None

    @property
    def recipe(self) -> dict[str, Any]:
        """The config as runs are told apart by it: of one that was made from others, with the name of how.

        Where such a run started from is left out: the same plan from parents of several seeds is one recipe.
        """
        variant = self.environment.get("variant")
        if not variant:
            return self.config
        model = dict(self.config.get("model") or {})
        arguments = {k: v for k, v in (model.get("init_args") or {}).items() if k not in ("init_from", "teacher")}
        return {**self.config, "model": {**model, "init_args": arguments}, "variant": variant}

    @property
    def summary(self) -> dict[str, Any]:
        """The figures of the run in a few keys, as they stand now; empty before the first is written."""
        path = self.path / SUMMARY
        return read_json(path) if path.exists() else {}

    @property
    def metrics_file(self) -> Path:
        """metrics.csv."""
        return self.path / "metrics.csv"

    def metrics(self) -> dict[str, MetricSeries]:
        """Every metric by name, with the steps and epochs of its values."""
        return read_metrics(self.metrics_file)

    def splits(self) -> SplitTable | None:
        """Return the samples of training, validation and test; ``None`` if the run folder does not store them.

        Raises:
            UserError: If splits.parquet is damaged.
        """
        from imgrec.data.splits.table import SplitTable  # it imports torch, which most readers of a run do not need

        path = self.path / SPLITS_FILE
        return SplitTable.read(path) if path.is_file() else None

    def predictions_file(self, split: str) -> Path:
        """Return the file of the predictions on ``val`` or ``test``, or of an evaluation: ``evaluations/<name>``."""
        if split.startswith(f"{EVALUATIONS}/"):
            return self.path / split / "predictions.parquet"
        return self.path / "predictions" / f"{split}.parquet"

    def predictions(self, split: str = "test") -> Predictions:
        """What the model said of each image of ``split``.

        Raises:
            UserError: the run holds no predictions on that split; the message names those that it has.
        """
        path = self.predictions_file(split)
        if not path.is_file():
            raise UserError(self._missing(f'predictions on "{split}"', split, path.parent, ".parquet"))
        return read_predictions(path)

    def has_predictions(self, split: str) -> bool:
        """Whether :meth:`predictions` has a file to read."""
        return self.predictions_file(split).is_file()

    def checkpoint(self, which: str = "best") -> Path:
        """The checkpoint ``best`` or ``last``.

        Raises:
            UserError: the run has no such checkpoint; the message names those that it has.
        """
        path = self.path / "checkpoints" / f"{which}.ckpt"
        if not path.is_file():
            raise UserError(self._missing(f'checkpoint "{which}"', which, path.parent, ".ckpt"))
        return path

    def trained_checkpoint(self) -> Path:
        """The checkpoint that the run's figures are of: the one that summary.json names under ``checkpoint``.

        Where it names none that is there: the best, or the last where training ended before a validation.

        Raises:
            UserError: the run has neither.
        """
        named = self.summary.get("checkpoint")
        if isinstance(named, str) and (found := inside(self.path, named, f"{SUMMARY}: checkpoint")).is_file():
            return found
        last = self.path / "checkpoints" / "last.ckpt"
        return last if last.is_file() and not last.with_name("best.ckpt").exists() else self.checkpoint("best")

    @property
    def model_folder(self) -> Path:
        """Where the shareable model folder stands, or will."""
        return self.path / "model"

    @property
    def exports(self) -> Path:
        """Where the exported models stand, or will."""
        return self.path / "exports"

    @property
    def report(self) -> Path:
        """Where report.html stands, or will."""
        return self.path / "report.html"

    def _missing(self, what: str, word: str, folder: Path, suffix: str) -> str:
        there = sorted(p.stem for p in folder.glob(f"*{suffix}"))
        has = f"it has: {', '.join(there)}.{suggestion(word, there)}" if there else "it has none."
        return f"the run {self.path} has no {what}; {has}"


def is_run_folder(path: Path) -> bool:
    """Whether ``path`` is a folder with the two files that every run folder has from its start."""
    return (path / CONFIG).is_file() and (path / ENVIRONMENT).is_file()


def find_runs(root: str | os.PathLike[str], depth: int = 3) -> Iterator[Path]:
    """The run folders below ``root``, at most ``depth`` levels down, in the order of their names.

    The folders inside a run are not looked into, nor are hidden ones.
    """
    root = Path(root)
    if depth < 1 or not root.is_dir():
        return
    for folder in sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")):
        if is_run_folder(folder):
            yield folder
        else:
            yield from find_runs(folder, depth - 1)


def create_run_folder(root: str | os.PathLike[str], experiment: str, run_id: str | None = None) -> Path:
    """Make the empty folder ``root/experiment/run_id`` and give its path.

    Args:
        root: the folder of all runs; made where it is missing.
        experiment: a name, which may hold slashes: ``digits/quickstart``.
        run_id: by default the local time, ``20261121-143005``; a second run of that second gets ``-2``.

    Raises:
        UserError: the folder cannot be made, the name leads out of ``root``, or ``run_id`` was given and is taken.
    """
    parent = Path(root).expanduser() / _inside(experiment, "experiment")
    wanted = datetime.now().strftime("%Y%m%d-%H%M%S") if run_id is None else _inside(run_id, "run id").name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 10_000):
            folder = parent / (wanted if attempt == 1 else f"{wanted}-{attempt}")
            try:
                folder.mkdir()  # the one step that two processes cannot both do
            except FileExistsError:
                if run_id is not None:
                    raise UserError(f"the run folder {folder} exists already; give another run id") from None
                continue
            return folder
    except OSError as error:
        raise WriteError(f"run folder in {parent}", error.strerror or str(error), error.errno) from error
    raise UserError(f"cannot make a run folder in {parent}: {wanted} and 9998 names after it are taken")


def check_writable(root: str | os.PathLike[str], experiment: str = "experiment") -> None:
    """Say before any work is done whether run folders can be made under ``root``; leaves nothing behind.

    Raises:
        UserError: they cannot, or the experiment has no name of a folder; the message says why.
    """
    _inside(experiment, "experiment")
    root = Path(root).expanduser()
    existing = root
    try:
        existing = next(p for p in (root, *root.absolute().parents) if p.exists())
        with tempfile.TemporaryDirectory(dir=existing, prefix=".imgrec-"):
            pass
    except OSError as error:
        reason = f"{existing}: {error.strerror or error}"
        raise WriteError(f"run folders in {root}", reason, error.errno) from error


def _inside(name: str, what: str) -> PurePosixPath:
    path = PurePosixPath(name)
    bad = not path.parts or path.is_absolute() or ".." in path.parts or "\x00" in name
    if bad or (len(path.parts) > 1 and what == "run id"):
        example = "seed-0" if what == "run id" else "digits/quickstart"
        raise UserError(f"{what}: expected a name such as {example}, got {name!r}")
    return path


def _why_none(path: Path) -> str:
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        return f"run folder not found: {path}.{suggestion(path.name, siblings)}"
    message = f"{path} is no run folder: a run folder holds {CONFIG} and {ENVIRONMENT}, as `imgrec fit` leaves them."
    around = next((p for p in path.absolute().parents if is_run_folder(p)), None)
    if around is not None:
        return f"{message} It lies inside the run {around}: give that folder."
    below = list(find_runs(path))
    if not below:
        return message
    newest = sorted(below, key=lambda p: (p / ENVIRONMENT).stat().st_mtime, reverse=True)
    more = f"\n  and {len(below) - _LISTED} more" if len(below) > _LISTED else ""
    return f"{message} Runs below it, newest first:" + "".join(f"\n  {p}" for p in newest[:_LISTED]) + more
