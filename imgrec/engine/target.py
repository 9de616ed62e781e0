"""What a command is pointed at: a run folder, or a checkpoint inside or outside of one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from imgrec.engine.config import Config, read_config
from imgrec.errors import UserError
from imgrec.runs.folder import CONFIG, RunFolder, is_run_folder
from imgrec.utils.paths import inside


@dataclass(frozen=True)
class Target:
    """The config and the checkpoint of a trained model.

    Attributes:
        run: the run folder, if the figures in it are those of this checkpoint.
        trained: the run folder that the checkpoint is in, if it is in one.
    """

    config: Config
    checkpoint: str
    run: RunFolder | None
    trained: RunFolder | None = None


def find_target(path: str | Path) -> Target:
    """The target that ``path`` names.

    Raises:
        UserError: it is neither a run folder nor a checkpoint that says what it was made with.
    """
    path = Path(path)
    if not path.is_file():
        run = RunFolder(path)
        own = run.summary.get("export") is None  # the figures of one that was quantized are those of its export
        return Target(read_config(run.path / CONFIG), str(run.trained_checkpoint()), run if own else None, run)
    around = path.absolute().parent.parent
    if is_run_folder(around):
        run = RunFolder(around)
        named = run.summary.get("checkpoint") or "checkpoints/best.ckpt"
        named = inside(run.path, str(named), "summary.json: checkpoint")
        same = named.is_file() and path.samefile(named)  # another checkpoint's figures are not the run's
        own = same and run.summary.get("export") is None
        return Target(read_config(around / CONFIG), str(path), run if own else None, run)
    from imgrec.runs.load import read_checkpoint

    checkpoint = read_checkpoint(path)
    model, data = checkpoint.get("hyper_parameters"), checkpoint.get("datamodule_hyper_parameters")
    made_by = checkpoint.get("imgrec")
    if not (model and data and made_by):
        raise UserError(f"{path} is a checkpoint that does not say its data and its task: name the config by --config")
    model = {k: v for k, v in model.items() if k not in ("facts", "load_weights")}
    config = {
        "model": {"class_path": made_by["task"], "init_args": model},
        "data": {"class_path": made_by["data"], "init_args": dict(data)},
    }
    return Target(config, str(path), None)
