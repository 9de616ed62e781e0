"""Files that a run writes when it starts or resumes: config, environment, note of the resume."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from imgrec.callbacks.recording.outputs import config_of
from imgrec.runs.checkpoints import remove_partial_files
from imgrec.runs.data import store_splits
from imgrec.runs.environment import describe_environment
from imgrec.runs.folder import CONFIG, ENVIRONMENT, SPLITS_FILE
from imgrec.runs.resume import Resumption, check_fingerprint, environment_changes, record_resumption
from imgrec.runs.summary import SUMMARY, read_json, update_summary, write_json
from imgrec.utils.paths import write_text
from imgrec.utils.seeding import run_seed
from imgrec.utils.terminal import print

logger = logging.getLogger(__name__)


def write_origin(
    folder: Path, trainer: pl.Trainer, pl_module: pl.LightningModule, experiment: str, config: str | None
) -> None:
    """Write the config, the environment and the start weights of a new run.

    Args:
        folder: Run folder. Entries of an existing environment.json stay.
        trainer: Trainer of the run.
        pl_module: Module of the run.
        experiment: Name of the experiment.
        config: Resolved config as YAML. Defaults to a config made from the module and the data module.
    """
    write_text(folder / CONFIG, config or config_of(trainer, pl_module))
    if (taken := getattr(pl_module, "loaded_weights", None)) is not None:  # weights of another architecture
        write_json(folder / "init_from.json", taken.to_dict())
    file = folder / ENVIRONMENT
    write_json(file, (read_json(file) if file.is_file() else {}) | _environment(trainer, experiment))


def check_stored_data(folder: Path, trainer: pl.Trainer, resumption: Resumption) -> None:
    """Compare the fingerprint of the data with that of the run, if the run folder has no table of splits.

    Raises:
        UserError: If the data changed.
    """
    if not (folder / SPLITS_FILE).is_file():
        check_fingerprint(folder, _fingerprint(trainer), resumption.allowed)


def write_resumption(
    folder: Path, trainer: pl.Trainer, resumption: Resumption, experiment: str, config: str | None
) -> None:
    """Write the changes of config and environment, and the step of the resume.

    Args:
        folder: Run folder.
        trainer: Trainer of the run.
        resumption: Checkpoint and changes of the resumed run.
        experiment: Name of the experiment.
        config: Resolved config as YAML.
    """
    remove_partial_files(folder)
    environment = _environment(trainer, experiment)
    if changed := environment_changes(read_json(folder / ENVIRONMENT), environment):
        logger.warning("the environment changed, and the run may end with other weights: %s", ", ".join(changed))
    if resumption.changed and config is not None:
        write_text(folder / CONFIG, config)
    record_resumption(folder, environment, resumption, trainer.world_size)
    store_splits(folder, trainer.datamodule, again=resumption.changes_data)  # type: ignore[attr-defined]
    summary = read_json(folder / SUMMARY) if (folder / SUMMARY).is_file() else {}
    reset = {"error": None} if "error" in summary else {}
    update_summary(folder, {"resumed": [*summary.get("resumed", []), resumption.step], **reset})
    start = resumption.start
    position = "from the beginning" if start is None else f"from {start.path.name}: epoch {start.epoch + 1}"
    print(f"run {folder}\n{position}, step {resumption.step}", flush=True)


def _environment(trainer: pl.Trainer, experiment: str) -> dict[str, Any]:
    return describe_environment(
        command=[Path(sys.argv[0]).name, *sys.argv[1:]],
        seed=run_seed(),
        fingerprint=_fingerprint(trainer),
        experiment=experiment,
        started=datetime.now(UTC),
    )


def _fingerprint(trainer: pl.Trainer) -> str | None:
    return getattr(trainer.datamodule, "fingerprint", None)  # type: ignore[attr-defined]
