"""The export that a run stands for, if its network is to run in another runtime than PyTorch."""

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

KEY = "export"
"""Key of summary.json that names the export whose figures are those of the run."""


def measured_export(run: RunFolder) -> Path | None:
    """Return the export whose predictions and figures are those of the run, or ``None`` if they are its network's.

    Raises:
        UserError: If summary.json names a folder that is missing, no export, or outside the run folder.
    """
    named = run.summary.get(KEY)
    if named is None:
        return None
    folder = inside(run.path, str(named), f"summary.json: {KEY}")
    if not is_export(folder):
        raise UserError(
            f"the run {run.path} stands for its export {named}, which is missing. "
            f"Give {run.model_folder} to use its network in floating point."
        )
    return folder


def shipped_export(run: RunFolder) -> Path | None:
    """Return the export that predicts for a run, or ``None`` if its network in PyTorch does.

    It is the export that the figures of the run are of. A run that was trained quantization-aware ships the int8 file
    that training ended in.

    Raises:
        UserError: See :func:`measured_export`.
    """
    found = measured_export(run)
    trained = run.exports / NAME
    return found if found is not None else trained if is_export(trained) else None


def find_export(path: Path) -> Path | None:
    """Return the folder of the export that a path means, or ``None`` if it means a network in PyTorch.

    Args:
        path: a run folder, the folder of an export, or its network file, for example ``model.onnx``.

    Raises:
        UserError: If a file has no export.json beside it, which describes its images and classes.
    """
    if path.suffix in network_suffixes() and path.is_file():
        if is_export(path.parent) and read_export(path.parent).file.name == path.name:
            return path.parent
        raise UserError(
            f"{path}: expected a file with export.json beside it, which describes its images and classes. "
            "imgrec bench measures other files."
        )
    if is_export(path):
        return path
    return shipped_export(RunFolder(path)) if is_run_folder(path) else None


def open_export(folder: Path, device: str = "auto", threads: int = 1) -> tuple[Runtime, Export]:
    """Open the folder of an export in the runtime of its format.

    Args:
        folder: the folder of an export.
        device: ``cpu``, or ``cuda`` for an ONNX Runtime that was built with it. ``auto`` selects the CPU.
        threads: number of threads, 1 or more.

    Raises:
        UserError: If the runtime is not installed, cannot open the file, or does not have the device.
    """
    export = read_export(folder)
    runtime = default_runtime(export.format)
    return open_runtime(folder, runtime, threads, "cpu" if device == "auto" else device), export
