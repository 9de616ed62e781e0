"""Export of a run that predicts in its own runtime instead of PyTorch."""

from __future__ import annotations

from pathlib import Path

from imgrec.errors import UserError
from imgrec.export.export_folder import Export, read_export
from imgrec.export.formats.registry import default_runtime
from imgrec.export.qat_onnx import NAME
from imgrec.export.runtimes.base import Runtime
from imgrec.export.runtimes.registry import is_export, network_suffixes, open_runtime
from imgrec.runs.folder import RunFolder, is_run_folder
from imgrec.utils.paths import inside

EXPORT_KEY = "export"
"""Key of summary.json with the export whose metrics are those of the run."""


def measured_export(run: RunFolder) -> Path | None:
    """Return the export whose predictions and metrics are those of the run, or ``None`` if they are its model's.

    Raises:
        UserError: If the folder in summary.json is missing, no export, or outside the run folder.
    """
    named = run.summary.get(EXPORT_KEY)
    if named is None:
        return None
    folder = inside(run.path, str(named), f"summary.json: {EXPORT_KEY}")
    if not is_export(folder):
        raise UserError(
            f"the export {named} of the run {run.path} is missing. "
            f"Use {run.model_folder} for its model in floating point."
        )
    return folder


def shipped_export(run: RunFolder) -> Path | None:
    """Return the export that predicts for a run, or ``None`` if its model in PyTorch does.

    It is the export whose metrics are those of the run. For a run with quantization-aware training, it is the int8
    file of the end of training.

    Raises:
        UserError: If summary.json is wrong, as in :func:`measured_export`.
    """
    found = measured_export(run)
    trained = run.exports / NAME
    return found if found is not None else trained if is_export(trained) else None


def find_export(path: Path) -> Path | None:
    """Return the folder of the export at a path, or ``None`` for a model in PyTorch.

    Args:
        path: Run folder, folder of an export, or its model file, for example ``model.onnx``.

    Raises:
        UserError: If there is no export.json next to a file, which describes its images and classes.
    """
    if path.suffix in network_suffixes() and path.is_file():
        if is_export(path.parent) and read_export(path.parent).file.name == path.name:
            return path.parent
        raise UserError(
            f"{path}: expected a file with export.json next to it, which describes its images and classes. "
            "imgrec bench measures other files."
        )
    if is_export(path):
        return path
    return shipped_export(RunFolder(path)) if is_run_folder(path) else None


def open_export(folder: Path, device: str = "auto", threads: int = 1) -> tuple[Runtime, Export]:
    """Open the folder of an export in the runtime of its format.

    Args:
        folder: Folder of an export.
        device: ``cpu``, or ``cuda`` for an ONNX Runtime with CUDA. ``auto`` selects the CPU. Defaults to ``auto``.
        threads: Number of threads, at least 1. Defaults to 1.

    Raises:
        UserError: If the runtime is not installed, cannot open the file, or does not have the device.
    """
    export = read_export(folder)
    runtime = default_runtime(export.format)
    return open_runtime(folder, runtime, threads, "cpu" if device == "auto" else device), export
