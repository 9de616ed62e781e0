"""W&B log of a run folder, one W&B run per folder."""

from __future__ import annotations

import logging
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from lightning_fabric.loggers.logger import rank_zero_experiment
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import WandbLogger as LightningWandbLogger

from imgrec.loggers.base import Images, RunLogger
from imgrec.loggers.wandb.artifacts import log_checkpoint, log_model_folder
from imgrec.loggers.wandb.files import STEP, last_logged
from imgrec.loggers.wandb.media import evaluation_media
from imgrec.loggers.wandb.run import attempt, check_settings, new_id, staged_in, start_run
from imgrec.metrics.names import known_mode
from imgrec.runs.config import flat_config
from imgrec.runs.folder import RunFolder
from imgrec.runs.metrics_csv import read_metrics
from imgrec.runs.summary import read_json, write_json

ID_FILE = Path("wandb") / "run.json"
_SUMMARY = ("status", "epochs", "steps", "best_epoch", "best_score", "monitor", "parameters", "train_seconds")

logger = logging.getLogger("imgrec")


class WandbLogger(RunLogger, LightningWandbLogger):
    """Logger that writes a run folder to W&B, online or offline. ``WandbLogger`` in a YAML is this class.

    The resolved config becomes sortable columns (``loss/name``, ``optimizer/lr``). The summary of a validation metric
    is its best value. After the evaluation a table of predictions with thumbnails, the confusion matrix, ROC and
    reliability curves are logged. The files of W&B and the id of the run are in ``wandb/`` of the run folder. A resumed
    run continues under its id, and repeated metrics are not logged twice. Without a key or a server the run is stored
    offline for ``imgrec sync``, with one warning. Training continues in any case.

    Args:
        project: Project. Defaults to ``WANDB_PROJECT``, or to ``imgrec``.
        entity: User or team. Defaults to the default of W&B.
        name: Name of the run. Defaults to ``<experiment>/<run id>``.
        group: Group of runs: folds, seeds, trials.
        job_type: Kind of run: ``train``, ``eval``.
        tags: Words to filter by.
        notes: Remark.
        id: W&B id of the run. Defaults to that of the run folder, or to a new id.
        mode: ``online``, ``offline`` or ``disabled``. Defaults to ``WANDB_MODE``, or to ``online``.
        offline: True for ``mode: offline``. Defaults to False.
        save_dir: Folder of the files of W&B. Defaults to the run folder.
        log_model: True to log the checkpoints (aliases ``best`` and ``latest``) and the model folder as artifacts at
            the end of training. ``all`` logs every checkpoint when it is written. Defaults to False.
        table_rows: Number of images in the table of predictions, mostly the most confident errors. 0 omits the table.
            Defaults to 64.
        settings: Additional ``wandb.Settings``.
        **kwargs: Arguments of ``WandbLogger`` of Lightning and of ``wandb.init``.

    Raises:
        UserError: If a setting is invalid.
    """

    _open: ClassVar[WandbLogger | None] = None

    def __init__(
        self,
        project: str | None = None,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        id: str | None = None,
        mode: Literal["online", "offline", "disabled"] | None = None,
        offline: bool = False,
        save_dir: str | os.PathLike[str] | None = None,
        log_model: Literal["all"] | bool = False,
        table_rows: int = 64,
        settings: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            name=name,
            project=project or os.environ.get("WANDB_PROJECT") or "imgrec",
            id=id,
            entity=entity,
            group=group,
            job_type=job_type,
            tags=tags,
            notes=notes,
            mode="offline" if offline else mode,
            **kwargs,
        )
        self._save_dir = os.fspath(save_dir) if save_dir is not None else None
        self._log_model = log_model
        self.table_rows = table_rows
        self._settings = settings or {}
        check_settings(self._settings)
        self._folder: Path | None = None
        self._seen: tuple[int, frozenset[str]] = (-1, frozenset())
        self._defined: set[str] = set()
        self._place = "."
        self._borrowed = False
        self._kept = False

    _experiment: Any

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """``wandb.Run``, once there is a run folder or a logged metric.

        Raises:
            AttributeError: If it has not begun. Lightning reads this attribute before the training starts.
        """
        if self._experiment is None:
            raise AttributeError("The W&B run starts with training, once its folder exists. It has not begun.")
        return self._experiment

    @rank_zero_only
    def begin_run(self, folder: Path) -> None:
        """Start the W&B run of a run folder, or resume it."""
        if self._experiment is not None and self._folder == folder:
            return
        self.close()
        self._folder = folder
        self._kept = False
        run = RunFolder(folder)
        kept = read_json(folder / ID_FILE) if (folder / ID_FILE).is_file() else {}
        given = dict(self._wandb_init)
        given["id"] = given["id"] or kept.get("id") or os.environ.get("WANDB_RUN_ID")
        if not given["id"]:
            given |= {"id": new_id(), "resume": None}  # a new id cannot exist on the server
        if not given["name"] and "WANDB_NAME" not in os.environ:
            given["name"] = f"{run.experiment}/{run.run_id}"
        self._seen = last_logged(folder) if kept else (-1, frozenset())
        write_json(folder / ID_FILE, kept | {"id": given["id"]})  # the process may be killed from here on
        self._start(given | {"dir": str(Path(self._save_dir or folder).absolute()), "config": flat_config(run.config)})
        if self._experiment.disabled:
            (folder / ID_FILE).unlink()
            return
        known = ("id", "project", "entity", *(() if self._experiment.offline else ("url",)))
        write_json(folder / ID_FILE, {name: getattr(self._experiment, name) for name in known})

    def _start(self, arguments: dict[str, Any]) -> None:
        if WandbLogger._open is not None:
            WandbLogger._open.close()  # previous run of the same process
        self._place = str(arguments["dir"])
        self._experiment, self._borrowed = start_run(arguments, self._settings)
        WandbLogger._open = self
        self._id = self._experiment.id
        self._experiment.define_metric(STEP)
        self._experiment.define_metric("*", step_metric=STEP, step_sync=True)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Log the hyper-parameters without a run folder. The columns contain the config otherwise."""
        if self._folder is None:
            self._running()
            attempt("log the hyper-parameters", super().log_hyperparams, params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log the metrics of a step, except those that were logged before a resume."""
        if self.muted:
            return
        last, names = self._seen
        if step is not None and step <= last:
            metrics = {} if step < last else {name: value for name, value in metrics.items() if name not in names}
            if not metrics.keys() - {"epoch"}:
                return
        run = self._running()
        for name in metrics:
            if name not in self._defined:
                self._defined.add(name)
                if (summary := best_of(name)) is not None:
                    run.define_metric(name, step_metric=STEP, step_sync=True, summary=summary)
        attempt("log", super().log_metrics, metrics, step)

    @rank_zero_only
    def resume(self, rows: Mapping[int, Mapping[str, float]]) -> None:
        """Log the rows that W&B had not written when the run was killed."""
        for step, metrics in rows.items():
            self.log_metrics(metrics, step)

    @rank_zero_only
    def log_evaluation(self, split: str, predictions: Any, images: Images | None) -> None:
        """Log the table, the matrix and the curves of a split."""
        run = self._running()
        with staged_in(Path(self._place) / "wandb" / "staged"):
            media = attempt("draw the evaluation", evaluation_media, predictions, images, self.table_rows)
            if media:
                attempt("log the evaluation", run.log, {f"{split}/{name}": each for name, each in media.items()})

    def _running(self) -> Any:
        if self._experiment is None and self._folder is not None:  # evaluation after the end
            self.begin_run(self._folder)
        elif self._experiment is None:  # a Trainer without a run recorder
            self._start({**self._wandb_init, "dir": str(Path(self._save_dir or ".").absolute()), "config": {}})
        return self._experiment

    @rank_zero_only
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Log the new checkpoint, if ``log_model`` is ``all``."""
        path = checkpoint_callback._last_checkpoint_saved
        if self._log_model == "all" and path:
            best = bool(checkpoint_callback.monitor) and path == checkpoint_callback.best_model_path
            attempt("log a checkpoint", log_checkpoint, self._running(), Path(path), "best" if best else "latest")

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Log the artifacts after a successful training. Otherwise finish the run as failed."""
        if self._experiment is None:
            return
        if status != "success":
            self._finish(exit_code=1)
            return
        if self._folder is not None and self._log_model and not self._kept:
            self._kept = True  # Lightning finalizes after every evaluation, too
            if self._log_model is True:
                for which, alias in (
                    ("best", "best"),
                    ("last", "latest"),
                ):  # W&B moves its alias `latest` to the last one
                    path = self._folder / "checkpoints" / f"{which}.ckpt"
                    attempt("log a checkpoint", log_checkpoint, self._experiment, path, alias)
            attempt("log the model folder", log_model_folder, self._experiment, self._folder / "model")

    @rank_zero_only
    def close(self) -> None:
        """Finish the W&B run with the summary of the run folder. A second call does nothing."""
        if self._experiment is None:
            return
        if self._folder is not None:
            attempt("write the summary", self._experiment.summary.update, self._summary(self._folder))
        self._finish(exit_code=0)

    def _finish(self, exit_code: int) -> None:
        if self._experiment is not None and not self._borrowed:
            attempt("finish", self._experiment.finish, exit_code=exit_code)
        self._experiment = None
        if WandbLogger._open is self:
            WandbLogger._open = None

    def _summary(self, folder: Path) -> dict[str, Any]:
        found = {name: value for name, value in RunFolder(folder).summary.items() if name in _SUMMARY}
        if self._seen[0] >= 0 and (folder / "metrics.csv").is_file():
            # W&B received the metrics since the resume only, metrics.csv contains the whole run
            for name, series in read_metrics(folder / "metrics.csv").items():
                if (summary := best_of(name)) is not None:
                    found[name] = {summary: float(getattr(series.values, summary)())}
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_experiment": None}


def best_of(metric: str) -> Literal["max", "min"] | None:
    """Return the direction in which a validation metric is better, or None for other metrics.

    >>> best_of("val/acc"), best_of("val/loss"), best_of("train/loss")
    ('max', 'min', None)
    """
    split, _, name = metric.partition("/")
    if split != "val":
        return None
    return known_mode(name)
