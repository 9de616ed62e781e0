"""Run folders: reading, search and creation."""

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
_MAX_LISTED = 10


class RunFolder:
    """Run folder, whose files are read on access. It is path-like: ``Path(run)`` works.

    Args:
        path: Folder of one run, ``runs/<experiment>/<run id>``.

    Raises:
        UserError: If the path is no run folder. The message lists the runs below it, or the run that contains it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        if not is_run_folder(self.path):
            raise UserError(_not_a_run_text(self.path))

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.path.resolve().name

    @property
    def experiment(self) -> str:
        """Experiment of the run: the one in environment.json, otherwise the name of the parent folder."""
        return str(self.environment.get("experiment") or self.path.resolve().parent.name)

    @cached_property
    def config(self) -> dict[str, Any]:
        """Resolved config. ``imgrec fit --config`` with its file repeats the run."""
        import yaml

        path = self.path / CONFIG
        try:
            found = yaml12.parse(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError) as error:
            raise UserError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(found, dict):
            raise UserError(f"{path}: expected a mapping, got {type(found).__name__}")
        return found

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, git commit, command, hardware, seed and data fingerprint."""
        return read_json(self.path / ENVIRONMENT)

    @property
    def parent(self) -> Path | None:
        """Run that this one was derived from, such as by compression. ``None`` if there is none or it is missing."""
        named = (self.environment.get("parent") or {}).get("path")
        found = self.path / named if isinstance(named, str) else None
        return found.resolve() if found is not None and is_run_folder(found) else None

    @property
    def recipe(self) -> dict[str, Any]:
        """Config that identifies the recipe. For a derived run it contains the name of the variant.

        It excludes the initial weights of a derived run: one plan applied to parents of several seeds is one recipe.
        """
        variant = self.environment.get("variant")
        if not variant:
            return self.config
        model = dict(self.config.get("model") or {})
        arguments = {k: v for k, v in (model.get("init_args") or {}).items() if k not in ("init_from", "teacher")}
        return {**self.config, "model": {**model, "init_args": arguments}, "variant": variant}

    @property
    def summary(self) -> dict[str, Any]:
        """Current content of summary.json. Empty before it is written."""
        path = self.path / SUMMARY
        return read_json(path) if path.exists() else {}

    @property
    def metrics_file(self) -> Path:
        """Path of metrics.csv."""
        return self.path / "metrics.csv"

    def metrics(self) -> dict[str, MetricSeries]:
        """Return all metrics of metrics.csv by name, with the steps and epochs of their values."""
        return read_metrics(self.metrics_file)

    def splits(self) -> SplitTable | None:
        """Return the samples of training, validation and test, or ``None`` if the run folder does not contain them.

        Raises:
            UserError: If splits.parquet is damaged.
        """
        from imgrec.data.splits.table import SplitTable  # imports torch, which most readers of a run do not require

        path = self.path / SPLITS_FILE
        return SplitTable.read(path) if path.is_file() else None

    def predictions_file(self, split: str) -> Path:
        """Return the path of the predictions on ``val``, ``test`` or ``evaluations/<name>``."""
        if split.startswith(f"{EVALUATIONS}/"):
            return self.path / split / "predictions.parquet"
        return self.path / "predictions" / f"{split}.parquet"

    def predictions(self, split: str = "test") -> Predictions:
        """Return the predictions on a split.

        Raises:
            UserError: If the run has no predictions on that split.
        """
        path = self.predictions_file(split)
        if not path.is_file():
            raise UserError(self._missing(f'predictions on "{split}"', split, path.parent, ".parquet"))
        return read_predictions(path)

    def has_predictions(self, split: str) -> bool:
        """Return True if the run has predictions on a split."""
        return self.predictions_file(split).is_file()

    def checkpoint(self, name: str = "best") -> Path:
        """Return the path of the checkpoint ``best`` or ``last``.

        Raises:
            UserError: If the run has no such checkpoint.
        """
        path = self.path / "checkpoints" / f"{name}.ckpt"
        if not path.is_file():
            raise UserError(self._missing(f'checkpoint "{name}"', name, path.parent, ".ckpt"))
        return path

    def trained_checkpoint(self) -> Path:
        """Return the path of the checkpoint whose metrics are those of the run.

        It is ``checkpoint`` of summary.json. If that is missing, it is the best checkpoint, or the last one if training
        ended before a validation.

        Raises:
            UserError: If the run has no checkpoint.
        """
        named = self.summary.get("checkpoint")
        if isinstance(named, str) and (found := inside(self.path, named, f"{SUMMARY}: checkpoint")).is_file():
            return found
        last = self.path / "checkpoints" / "last.ckpt"
        return last if last.is_file() and not last.with_name("best.ckpt").exists() else self.checkpoint("best")

    @property
    def model_folder(self) -> Path:
        """Path of the shareable model folder."""
        return self.path / "model"

    @property
    def exports(self) -> Path:
        """Path of the folder of exported models."""
        return self.path / "exports"

    @property
    def report(self) -> Path:
        """Path of report.html."""
        return self.path / "report.html"

    def _missing(self, title: str, name: str, folder: Path, suffix: str) -> str:
        names = sorted(p.stem for p in folder.glob(f"*{suffix}"))
        has = f"It has: {', '.join(names)}.{suggestion(name, names)}" if names else "It has none."
        return f"the run {self.path} has no {title}. {has}"


def is_run_folder(path: Path) -> bool:
    """Return True if a folder contains config.yaml and environment.json, which every run folder has from its start."""
    return (path / CONFIG).is_file() and (path / ENVIRONMENT).is_file()


def find_runs(root: str | os.PathLike[str], depth: int = 3) -> Iterator[Path]:
    """Find the run folders below ``root``, sorted by name.

    Folders inside a run and hidden folders are not searched.

    Args:
        root: Folder to search.
        depth: Maximum number of levels below ``root``. Defaults to 3.
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
    """Create the empty folder ``root/experiment/run_id`` and return its path.

    Args:
        root: Folder of all runs, which is created if it is missing.
        experiment: Name that may contain slashes: ``digits/quickstart``.
        run_id: Name of the run. Defaults to the local time, ``20261121-143005``. A second run in the same second has
            the suffix ``-2``.

    Raises:
        UserError: If the folder cannot be created, a name is invalid, or the folder of ``run_id`` exists.
    """
    parent = Path(root).expanduser() / _parse_name(experiment, "experiment")
    name = datetime.now().strftime("%Y%m%d-%H%M%S") if run_id is None else _parse_name(run_id, "run id").name
    try:
        parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, 10_000):
            folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
            try:
                folder.mkdir()  # atomic: succeeds in one process only
            except FileExistsError:
                if run_id is not None:
                    raise UserError(f"the run folder {folder} exists already. Specify another run id.") from None
                continue
            return folder
    except OSError as error:
        raise WriteError(f"run folder in {parent}", error.strerror or str(error), error.errno) from error
    raise UserError(f"cannot create a run folder in {parent}: {name} and 9998 names after it exist")


def check_writable(root: str | os.PathLike[str], experiment: str = "experiment") -> None:
    """Check that run folders can be created below ``root``, without a change.

    Args:
        root: Folder of all runs.
        experiment: Name of the experiment.

    Raises:
        UserError: If they cannot, or if the name of the experiment is invalid.
    """
    _parse_name(experiment, "experiment")
    root = Path(root).expanduser()
    existing = root
    try:
        existing = next(p for p in (root, *root.absolute().parents) if p.exists())
        with tempfile.TemporaryDirectory(dir=existing, prefix=".imgrec-"):
            pass
    except OSError as error:
        reason = f"{existing}: {error.strerror or error}"
        raise WriteError(f"run folders in {root}", reason, error.errno) from error


def _parse_name(name: str, kind: str) -> PurePosixPath:
    path = PurePosixPath(name)
    is_invalid = not path.parts or path.is_absolute() or ".." in path.parts or "\x00" in name
    if is_invalid or (len(path.parts) > 1 and kind == "run id"):
        example = "seed-0" if kind == "run id" else "digits/quickstart"
        raise UserError(f"{kind}: expected a name such as {example}, got {name!r}")
    return path


def _not_a_run_text(path: Path) -> str:
    if not path.exists():
        siblings = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
        return f"run folder not found: {path}.{suggestion(path.name, siblings)}"
    message = f"{path} is no run folder: expected a folder of `imgrec fit` with {CONFIG} and {ENVIRONMENT}."
    outer = next((p for p in path.absolute().parents if is_run_folder(p)), None)
    if outer is not None:
        return f"{message} It is inside the run {outer}. Use that folder."
    below = list(find_runs(path))
    if not below:
        return message
    newest = sorted(below, key=lambda p: (p / ENVIRONMENT).stat().st_mtime, reverse=True)
    more = f"\n  and {len(below) - _MAX_LISTED} more" if len(below) > _MAX_LISTED else ""
    return f"{message} Runs below it, newest first:" + "".join(f"\n  {p}" for p in newest[:_MAX_LISTED]) + more
