"""Config and checkpoint of a trained model: a run folder, or a checkpoint inside or outside of a run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgrec.engine.config import Config, read_config
from imgrec.errors import UserError
from imgrec.runs.folder import CONFIG, RunFolder, is_run_folder
from imgrec.utils.paths import inside


@dataclass(frozen=True)
class EvaluationTarget:
    """Config and checkpoint of a trained model.

    Attributes:
        config: Config of the training.
        checkpoint: Path of the checkpoint.
        run: Run folder whose metrics are those of this checkpoint, or ``None``.
        trained: Run folder that contains the checkpoint, or ``None``. Defaults to ``None``.
    """

    config: Config
    checkpoint: str
    run: RunFolder | None
    trained: RunFolder | None = None


def find_target(path: str | Path) -> EvaluationTarget:
    """Return the config and the checkpoint of a run folder or a checkpoint.

    Raises:
        UserError: If the path is neither a run folder nor a checkpoint that contains its config.
    """
    path = Path(path)
    if not path.is_file():
        run = RunFolder(path)
        own = run.summary.get("export") is None  # the metrics of a quantized variant are those of its export
        return EvaluationTarget(
            read_config(run.path / CONFIG), str(run.trained_checkpoint()), run if own else None, run
        )
    around = path.absolute().parent.parent
    if is_run_folder(around):
        run = RunFolder(around)
        named = run.summary.get("checkpoint") or "checkpoints/best.ckpt"
        named = inside(run.path, str(named), "summary.json: checkpoint")
        same = named.is_file() and path.samefile(named)  # the metrics of the run are not those of another checkpoint
        own = same and run.summary.get("export") is None
        return EvaluationTarget(read_config(around / CONFIG), str(path), run if own else None, run)
    from imgrec.runs.load import read_checkpoint

    checkpoint = read_checkpoint(path)
    model, data = checkpoint.get("hyper_parameters"), checkpoint.get("datamodule_hyper_parameters")
    made_by = checkpoint.get("imgrec")
    if not (model and data and made_by):
        raise UserError(
            f"{path}: expected a checkpoint with the config of its data and its task, got none. "
            "Give the config by --config."
        )
    model = {k: v for k, v in model.items() if k not in ("facts", "load_weights")}
    config = {
        "model": {"class_path": made_by["task"], "init_args": model},
        "data": {"class_path": made_by["data"], "init_args": dict(data)},
    }
    return EvaluationTarget(config, str(path), None)
