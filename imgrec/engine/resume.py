"""Continuation of a run in its own folder: ``imgrec.resume`` and ``imgrec resume``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec import trust as policy
from imgrec.engine.config import Config, override, read_config
from imgrec.errors import UserError
from imgrec.runs.folder import CONFIG, RunFolder, find_runs
from imgrec.trust import Trust
from imgrec.utils.paths import refuse_links

if TYPE_CHECKING:
    from imgrec.engine.training import TrainingResult


@dataclass(frozen=True)
class ResumePlan:
    """Checked continuation of a run.

    Args:
        run: Run folder.
        config: Resolved config of the continuation.
        changed: Keys whose values differ from the config of the run.
        allowed: Keys that are allowed to differ.
        is_finished: True if the run is complete and nothing changed.
    """

    run: RunFolder
    config: Config
    changed: Any
    allowed: Any
    is_finished: bool


def resume(
    run: RunFolder | str | Path,
    overrides: Mapping[str, Any] | None = None,
    *,
    allow_changed: Sequence[str] = (),
    trust: Trust = None,
) -> RunFolder:
    """Continue a run from its last checkpoint, in its own folder, and return the folder.

    The result is bit-equal to that of an uninterrupted run on a CPU with the same number of threads. A finished run is
    returned unchanged. The command ``imgrec resume`` calls the same function.

    Args:
        run: Run folder.
        overrides: Values by dotted key that differ from the config of the run. Each key must be in ``allow_changed``.
            Defaults to none.
        allow_changed: Keys that are allowed to differ, for example ``["trainer.max_epochs"]``. Defaults to none.
        trust: Names of classes and modules that the run may contain in addition to the registries. ``True`` allows
            every name. Defaults to none.

    Raises:
        UserError: If a key differs that is not in ``allow_changed``, if another process trains in the folder, or
            if the checkpoint cannot be used.

    Example::

        run = imgrec.resume("runs/digits/quickstart/20261121-143005")
        print(run.summary["status"])
    """
    found = run if isinstance(run, RunFolder) else RunFolder(run)
    with policy.opening(found.path, trust):
        config = read_config(found.path / CONFIG)
        for key, value in (overrides or {}).items():
            config = override(config, key, policy.allow(value))
        plan = plan_resume(found, config, allow_changed)
        return found if plan.is_finished else resume_config(plan).folder()


def plan_resume(run: RunFolder, config: Config, allowed: Sequence[str] = ()) -> ResumePlan:
    """Check that a run can be continued with a config.

    Raises:
        UserError: If a key differs from the config of the run and is not allowed to.
    """
    from imgrec.engine.library_output import quiet_libraries
    from imgrec.engine.resolve import resolve
    from imgrec.runs.resume import check_config_changes

    quiet_libraries()
    if config.get("seed_everything") is True:
        config = {**config, "seed_everything": run.config["seed_everything"]}
    now = resolve(config)
    refuse_links(run.path)
    with policy.opening(run.path):
        before = resolve(read_config(run.path / CONFIG))
    _copy_measured_values(now, before)
    changed, accepted = check_config_changes(run.path, before, now, allowed)
    return ResumePlan(run, now, changed, accepted, is_complete(run, before) and not changed)


def resume_config(plan: ResumePlan) -> TrainingResult:
    """Continue a run as planned.

    Raises:
        UserError: If another process trains in the folder, no checkpoint can be read, or the data has changed.
    """
    from lightning_utilities.core.rank_zero import rank_zero_only

    from imgrec.engine.experiment import Experiment
    from imgrec.engine.training import train
    from imgrec.runs.checkpoints import find_resumable
    from imgrec.runs.lock import RunLock
    from imgrec.runs.resume import Resumption

    path = plan.run.path
    if getattr(rank_zero_only, "rank", 0) == 0:
        RunLock(path).release()
    start = find_resumable(path)
    experiment = Experiment(plan.config if start is None else _without_weights(plan.config))
    experiment.config["model"]["init_args"].pop("load_weights", None)
    if experiment.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run: expected false to resume a run, got true. It writes no checkpoint.")
    return train(experiment, start.path if start else None, path, Resumption(start, plan.changed, plan.allowed))


def find_run(word: str, config: Config) -> RunFolder | None:
    """Return the run that ``--ckpt_path`` names: a folder, or the newest unfinished run of the experiment for ``last``.

    Runs with another seed are other runs.
    """
    if word != "last":
        return RunFolder(word)
    root = Path(config.get("runs", "runs")).expanduser() / str(config["experiment"])
    seed = config.get("seed_everything", 0)
    unfinished = []
    for path in find_runs(root, depth=1):
        found = RunFolder(path)
        same_seed = seed is True or found.config.get("seed_everything") == seed
        if same_seed and not is_complete(found, found.config):
            unfinished.append((str(found.environment.get("started")), path.name, found))
    return max(unfinished, key=lambda each: each[:2])[2] if unfinished else None


def is_complete(run: RunFolder, config: Config) -> bool:
    """Return True if a run was trained, and evaluated unless ``evaluate_after_fit`` is false."""
    evaluated = run.report.is_file() or not config.get("evaluate_after_fit", True)
    return run.summary.get("status") == "finished" and evaluated


def train_in(folder: Path, config: Config) -> bool:
    """Train a config in a given folder, or continue the run in it. Return True if the run is complete.

    Raises:
        ResourceError: If a result cannot be written.
    """
    from imgrec.engine.experiment import Experiment
    from imgrec.engine.training import train
    from imgrec.runs.folder import is_run_folder

    if is_run_folder(folder) and "status" in RunFolder(folder).summary:
        found = RunFolder(folder)
        plan = plan_resume(found, config)
        if not plan.is_finished:
            resume_config(plan).folder()
    else:
        train(Experiment(config), None, folder).folder()
    found = RunFolder(folder)
    return is_complete(found, found.config)


def _without_weights(config: Config) -> Config:
    """Return the config of a task that loads no initial weights, if the task supports that."""
    from imgrec.engine.instantiate import find_class
    from imgrec.tasks import BaseTask

    task = find_class(config["model"]["class_path"], object, "model")
    return override(config, "model.load_weights", False) if issubclass(task, BaseTask) else config


def _copy_measured_values(now: Config, before: Config) -> None:
    """Replace ``auto`` in ``now`` by the value that the run measured."""
    for place in (["trainer", "precision"], ["model", "init_args", "channels_last"]):
        ours, theirs = now, before
        for key in place[:-1]:
            ours, theirs = ours[key], theirs[key]
        if ours.get(place[-1]) == "auto":
            ours[place[-1]] = theirs.get(place[-1])
