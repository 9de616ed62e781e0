"""Checkpoints and model folders as W&B artifacts with aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def log_checkpoint(run: Any, path: Path, alias: str) -> None:
    """Log a checkpoint as a version of the artifact ``checkpoint-<run id>``, under the file name ``model.ckpt``.

    The file is not copied, W&B reads it during the upload. A missing file is skipped.

    Args:
        run: ``wandb.Run``.
        path: Checkpoint file.
        alias: ``best`` or ``latest``.
    """
    if path.is_file():
        _log(run, f"checkpoint-{run.id}", "checkpoint", path, alias, {"file": path.name})


def log_model_folder(run: Any, folder: Path) -> None:
    """Log a model folder with the best weights as the artifact ``model-<run id>``, if it exists."""
    if folder.is_dir():
        _log(run, f"model-{run.id}", "model", folder, "best", {"format": "timm model folder"})


def _log(run: Any, name: str, kind: str, path: Path, alias: str, metadata: dict[str, Any]) -> None:
    import wandb

    artifact = wandb.Artifact(name, type=kind, metadata=metadata)
    where = str(path.absolute())
    if path.is_dir():
        artifact.add_dir(where, policy="immutable")
    else:
        artifact.add_file(where, name="model.ckpt", policy="immutable")
    run.log_artifact(artifact, aliases=[alias])
