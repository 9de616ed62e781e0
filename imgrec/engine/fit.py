"""Training from a config: ``imgrec.fit`` and ``imgrec fit``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec import trust as policy
from imgrec.engine.config import Config, check_keys, experiment_name, merge, normal_form, override, read_config
from imgrec.errors import UserError
from imgrec.trust import Trust

if TYPE_CHECKING:
    from imgrec.engine.training import TrainingResult
    from imgrec.runs.folder import RunFolder

Configs = str | Path | Mapping[str, Any] | Sequence[str | Path | Mapping[str, Any]]
"""A YAML file or a mapping, or several, later over earlier."""


def fit(
    config: Configs,
    overrides: Mapping[str, Any] | None = None,
    *,
    checkpoint: str | Path | None = None,
    trust: Trust = None,
) -> RunFolder:
    """Train a config, evaluate the best checkpoint, write the report and return the run folder.

    The command ``imgrec fit`` calls the same function.

    Args:
        config: YAML file or mapping, or several of them, later over earlier.
        overrides: Values by dotted key, for example ``{"model.optimizer.lr": 0.1}``. Defaults to none.
        checkpoint: Checkpoint to continue from in a new run folder. Defaults to none.
        trust: Names of classes and modules that a teacher, initial weights or the checkpoint may contain in addition
            to the registries. ``True`` allows every name. Defaults to none.

    Raises:
        UserError: If the config, the data or the checkpoint is invalid.
        TrainingFailedError: If the loss becomes NaN or infinite, or diverges.
        ResourceError: If the disk is full or a worker process is killed.

    Example:
        >>> import tempfile
        >>> config = {
        ...     "model": {"backbone": {"name": "cifar_resnet", "depth": 8, "widths": [4, 4, 4]}},
        ...     "data": {"source": "digits", "channels": 1, "image_size": 16},
        ...     "trainer": {"max_epochs": 1, "limit_train_batches": 2, "enable_progress_bar": False},
        ... }
        >>> run = fit(config, {"runs": tempfile.mkdtemp(), "experiment": "example"})  # doctest: +ELLIPSIS
        run ...
        >>> run.summary["status"], run.report.name
        ('finished', 'report.html')

    See also: :func:`imgrec.engine.resume.resume` continues an interrupted run in its own folder.
    """
    with policy.granted(trust):
        return fit_config(load_config(config, overrides), checkpoint).folder()


def load_config(config: Configs, overrides: Mapping[str, Any] | None = None) -> Config:
    """Merge configs and overrides into one config with the name of its experiment.

    Raises:
        UserError: If a file cannot be read, or a key is invalid.
    """
    given = [config] if isinstance(config, str | Path | Mapping) else list(config)
    merged = merge_configs(given)
    merged.setdefault("experiment", experiment_name([str(each) for each in given if not isinstance(each, Mapping)]))
    for key, value in (overrides or {}).items():
        merged = override(merged, key, value)
    return merged


def merge_configs(configs: Sequence[str | Path | Mapping[str, Any]]) -> Config:
    """Merge files and mappings into one config, later over earlier.

    Raises:
        UserError: If a file cannot be read, or a key is invalid.
    """
    merged: Config = {}
    for each in configs:
        if isinstance(each, Mapping):
            check_keys(each)
        merged = merge(merged, normal_form(each) if isinstance(each, Mapping) else read_config(each))
    return merged


def fit_config(config: Config, checkpoint: str | Path | None = None) -> TrainingResult:
    """Train a merged config in a new run folder.

    Args:
        config: Config of :func:`load_config`.
        checkpoint: Checkpoint to continue from. Defaults to none.

    Raises:
        UserError: If the config, the data or the checkpoint is invalid.
    """
    from imgrec.engine.experiment import Experiment
    from imgrec.engine.training import train
    from imgrec.runs.folder import check_writable
    from imgrec.runs.load import read_checkpoint

    existing_checkpoint(checkpoint)
    experiment = Experiment(config)
    if not experiment.trainer.fast_dev_run:
        check_writable(experiment.config["runs"], experiment.config["experiment"])
    if checkpoint is not None:
        read_checkpoint(Path(checkpoint))
    return train(experiment, checkpoint)


def existing_checkpoint(path: str | Path | None) -> str | None:
    """Return the path of a checkpoint, or ``None`` if no checkpoint is given.

    Raises:
        UserError: If the file does not exist.
    """
    if path is not None and not Path(path).is_file():
        raise UserError(f"checkpoint not found: {path}")
    return None if path is None else str(path)
