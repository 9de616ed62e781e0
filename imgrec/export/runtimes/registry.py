"""One way to call a network in every runtime: an array of images in, an array of logits out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from imgrec.errors import UserError, suggestion
from imgrec.export.export_folder import DESCRIPTION, files_of, read_export
from imgrec.export.runtimes.base import Runtime
from imgrec.models import Classifier
from imgrec.types import DataFacts
from imgrec.utils.optional import require

RUNTIMES = ("torch", "compile", "onnxruntime", "openvino")
"""PyTorch as it is, PyTorch after ``torch.compile``, ONNX Runtime, OpenVINO."""

_PRECISIONS = {
    "torch": ("fp32", "bf16", "fp16"),
    "compile": ("fp32", "bf16", "fp16"),
    "openvino": ("fp32", "bf16", "fp16"),
}


def open_runtime(
    source: str | Path | Classifier,
    runtime: str = "torch",
    threads: int = 1,
    device: str = "cpu",
    precision: str | None = None,
    facts: DataFacts | None = None,
) -> Runtime:
    """Open a network in a runtime.

    Args:
        source: a classifier; a run folder, a checkpoint or a model folder; the folder of an export; a file ``.onnx`` or
            ``.xml`` of any origin with one input of images.
        runtime: one of :data:`RUNTIMES`; a classifier of PyTorch opens in the first two, ``.onnx`` in
            ``onnxruntime`` and ``openvino``, ``.xml`` in ``openvino``.
        threads: how many compute; for PyTorch, this is a setting of the whole process.
        device: ``cpu``, or ``cuda`` for PyTorch and for an ONNX Runtime that was built with it.
        precision: by default the network's own, which is ``fp32`` where a file does not say another. PyTorch and
            OpenVINO can be told ``bf16`` or ``fp16``; OpenVINO would otherwise take bf16 by itself where a processor is
            fast in it, and is told not to.
        facts: the data of a classifier that is given as such.

    Raises:
        UserError: there is no such runtime, precision or device, its package is missing (it says what to install), or
            the source cannot be read, or not by this runtime.
    """
    if runtime not in RUNTIMES:
        raise UserError(
            f'runtime: there is no "{runtime}".{suggestion(runtime, RUNTIMES)} Accepted: {", ".join(RUNTIMES)}.'
        )
    if threads < 1:
        raise UserError(f"threads: expected 1 or more, got {threads}")
    if device.partition(":")[0] not in ("cpu", "cuda"):
        raise UserError(f'device: accepted are cpu and cuda, got "{device}"')
    if runtime == "openvino" and device != "cpu":
        raise UserError("openvino computes on the processor here; device: cpu")
    if runtime in ("torch", "compile"):
        from imgrec.export.runtimes.torch import TorchRuntime

        classifier, known = _classifier(source, facts)
        accepted = check_precision(runtime, precision) or "fp32"
        return TorchRuntime(classifier, known, runtime, threads, device, accepted)
    if isinstance(source, Classifier):
        raise UserError(f"a classifier of PyTorch does not open in {runtime}: export it first")
    file, own = network_file(source)
    _refuse_other_format(file, runtime)
    if runtime == "onnxruntime":
        from imgrec.export.runtimes.onnxruntime import OnnxRuntime

        if precision not in (None, own):
            raise UserError(f"onnxruntime computes in what the file says, {own}, and cannot be told {precision}")
        return OnnxRuntime(file, own, threads, device)
    from imgrec.export.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(file, own, check_precision(runtime, precision), threads)


def check_precision(runtime: str, precision: str | None) -> str | None:
    """The precision that a runtime is to be told, or ``None``.

    Raises:
        UserError: it cannot compute in it.
    """
    accepted = _PRECISIONS.get(runtime, ())
    if precision is not None and precision not in accepted:
        can = f"accepted are {', '.join(accepted)}" if accepted else "it computes in what the file says"
        raise UserError(f"{runtime}: precision {precision}: {can}")
    return precision


def runtimes_of(source: str | Path) -> Sequence[str]:
    """The runtimes that open a file or a folder as it is."""
    path = Path(source)
    if path.suffix == ".ckpt" or (path.is_dir() and not is_export(path)):
        return RUNTIMES[:2]
    return RUNTIMES[2:] if network_file(path)[0].suffix == ".onnx" else RUNTIMES[3:]


def network_file(source: str | Path) -> tuple[Path, str]:
    """The ``.onnx`` or ``.xml`` file of an export, and its precision.

    Raises:
        UserError: there is none.
    """
    path = Path(source)
    if path.is_dir():
        export = read_export(path)
        return export.file, export.precision
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix not in (".onnx", ".xml"):
        raise UserError(f"{path}: expected a file .onnx or .xml, or a folder with {DESCRIPTION}")
    return path, "fp32"


def is_export(path: str | Path) -> bool:
    """Whether a path is the folder of an export."""
    return (Path(path) / DESCRIPTION).is_file()


def network_bytes(source: str | Path) -> int:
    """The size of what a runtime needs to open an export, or a file with the weights that lie beside it."""
    path = Path(source)
    if path.is_dir():
        files = [path / name for name in files_of(read_export(path).format)]
    else:
        beside = [f"{path.stem}.bin"] if path.suffix == ".xml" else [f"{path.name}.data", f"{path.name}_data"]
        files = [path, *(path.with_name(name) for name in beside)]
    return sum(each.stat().st_size for each in files if each.is_file())


def require_runtime(runtime: str) -> None:
    """Raise where the package of a runtime is not installed.

    Raises:
        UserError: it says what to install.
    """
    if runtime == "onnxruntime":
        require("onnxruntime", "export", "ONNX Runtime")
    elif runtime == "openvino":
        require("openvino", "openvino", "OpenVINO")


def _refuse_other_format(file: Path, runtime: str) -> None:
    if file.suffix == ".xml" and runtime != "openvino":
        raise UserError(f"{file} is a network for OpenVINO; {runtime} does not open it")


def _classifier(source: str | Path | Classifier, facts: DataFacts | None) -> tuple[Classifier, DataFacts | None]:
    if isinstance(source, Classifier):
        return source, facts
    from imgrec.export.trained_model import read_origin

    path = Path(source)
    if path.suffix in (".onnx", ".xml") or is_export(path):
        raise UserError(f"{path} is an export and does not open in PyTorch; give its run or its model folder")
    loaded = read_origin(path, "source")
    return loaded.classifier, loaded.facts
