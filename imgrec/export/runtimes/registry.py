"""Lookup of runtimes by name and by file, and the function that opens a network in one of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from imgrec.errors import UserError, suggestion
from imgrec.export.runtimes import RUNTIMES, OpenOptions, Runtime
from imgrec.utils.ranges import PositiveInt, check_ranges

if TYPE_CHECKING:
    from imgrec.models import Classifier
    from imgrec.types import DataFacts


@check_ranges
def open_runtime(
    source: str | Path | Classifier,
    runtime: str = "torch",
    threads: PositiveInt = 1,
    device: str = "cpu",
    precision: str | None = None,
    facts: DataFacts | None = None,
) -> Runtime:
    """Open a network in a runtime.

    Args:
        source: Classifier, run folder, checkpoint or model folder for ``torch`` and ``compile``. Folder of an export,
            or file of any origin with one input of images, for the other runtimes.
        runtime: Name in :data:`imgrec.RUNTIMES`. Defaults to ``torch``.
        threads: Number of threads, 1 or more. In PyTorch it is a setting of the process. Defaults to 1.
        device: ``cpu`` or ``cuda``, if the runtime supports it. Defaults to ``cpu``.
        precision: Precision to compute in, one of the ``precisions`` of the runtime. Defaults to the precision of the
            network, ``fp32`` for a file without export.json.
        facts: Facts of the data, if ``source`` is a classifier.

    Raises:
        UserError: If the runtime, precision or device is unknown, the package of the runtime is missing, or the source
            cannot be opened by the runtime.
    """
    cls = runtime_class(runtime, "runtime")

    check_device(runtime, device)
    is_classifier = not isinstance(source, str | Path)
    if not cls.suffixes:
        accepted = check_precision(runtime, precision)
        classifier, known = (source, facts) if is_classifier else _read_classifier(cast("str | Path", source), cls)
        return _named(cls(classifier, OpenOptions("fp32", accepted, threads, device, known)), runtime)
    if is_classifier:
        raise UserError(f"source: expected an exported file for {runtime}, got a classifier. Export it first.")
    file, stored = network_file(cast("str | Path", source))
    if file.suffix not in cls.suffixes:
        others = ", ".join(runtimes_for_suffix(file.suffix))
        raise UserError(
            f"{file}: expected a file {' or '.join(cls.suffixes)} for {runtime}. Runtimes for it: {others}."
        )
    if not cls.precisions and precision is not None and precision != stored:
        raise UserError(
            f"precision: expected {stored}, the precision of the file, got {precision}. "
            f"{runtime} computes in the precision of the file."
        )
    accepted = check_precision(runtime, precision) if cls.precisions else None
    return _named(cls(file, OpenOptions(stored, accepted, threads, device)), runtime)


def runtime_names() -> list[str]:
    """Return the names of all runtimes, in the order of lists and tables.

    Example:
        >>> runtime_names()[:4]
        ['torch', 'compile', 'onnxruntime', 'openvino']
    """
    return sorted(RUNTIMES.names(), key=lambda name: (runtime_class(name).order, name))


def runtime_class(name: str, where: str = "runtime") -> type[Runtime]:
    """Return the class of a registered runtime.

    Args:
        name: Registered name or entry point. A dotted path is refused, because names are read from received files.
        where: Key or option for the message.

    Raises:
        UserError: If the name is unknown.
    """
    if name not in RUNTIMES:
        known = runtime_names()
        raise UserError(f'{where}: there is no "{name}".{suggestion(name, known)} Accepted: {", ".join(known)}.')
    return cast("type[Runtime]", RUNTIMES.entry(name).factory)


def runtime_title(name: str, short: bool = False) -> str:
    """Return the title of a runtime, or the name itself for a runtime that is not installed here.

    Example:
        >>> runtime_title("onnxruntime"), runtime_title("onnxruntime", short=True)
        ('ONNX Runtime', 'ORT')
    """
    if name not in RUNTIMES:
        return name
    return runtime_class(name).short_title if short else runtime_class(name).title


def runtimes_for_suffix(suffix: str) -> tuple[str, ...]:
    """Return the runtimes that open files with a suffix, the default runtime of the format first.

    Example:
        >>> runtimes_for_suffix(".xml")
        ('openvino',)
    """
    return tuple(name for name in runtime_names() if suffix in runtime_class(name).suffixes)


def runtimes_of(source: str | Path) -> tuple[str, ...]:
    """Return the runtimes that open a file or a folder without an export."""
    path = Path(source)
    if path.suffix == ".ckpt" or (path.is_dir() and not is_export(path)):
        return tuple(name for name in runtime_names() if not runtime_class(name).suffixes)
    return runtimes_for_suffix(network_file(path)[0].suffix)


def network_suffixes() -> tuple[str, ...]:
    """Return the suffixes of all files that a runtime opens."""
    return tuple(dict.fromkeys(each for name in runtime_names() for each in runtime_class(name).suffixes))


def check_precision(runtime: str, precision: str | None) -> str | None:
    """Return the precision if a runtime can compute in it.

    Raises:
        UserError: If it cannot.
    """
    accepted = runtime_class(runtime).precisions
    if precision is not None and precision not in accepted:
        expected = f"expected {', '.join(accepted)}" if accepted else "expected none"
        hint = "" if accepted else f" {runtime} computes in the precision of the file."
        raise UserError(f"precision ({runtime}): {expected}, got {precision}.{hint}")
    return precision


def check_device(runtime: str, device: str, where: str = "device") -> None:
    """Raise if a runtime does not run on a device.

    Raises:
        UserError: If it does not.
    """
    accepted = runtime_class(runtime).devices
    if device.partition(":")[0] not in accepted:
        raise UserError(f'{where}: expected {" or ".join(accepted)} for {runtime}, got "{device}".')


def network_file(source: str | Path) -> tuple[Path, str]:
    """Return the network file of an export, or a network file itself, and its precision.

    Raises:
        UserError: If there is none.
    """
    path = Path(source)
    if path.is_dir():
        from imgrec.export.export_folder import read_export

        export = read_export(path)
        return export.file, export.precision
    if not path.is_file():
        raise UserError(f"{path}: no such file or folder")
    if path.suffix not in network_suffixes():
        raise UserError(f"{path}: expected a file {' or '.join(network_suffixes())}, or a folder with export.json")
    return path, "fp32"


def is_export(path: str | Path) -> bool:
    """Return True if a path is the folder of an export."""
    return (Path(path) / "export.json").is_file()


def network_bytes(source: str | Path) -> int:
    """Return the size in bytes of an export, or of a network file and its weight files."""
    from imgrec.export.export_folder import files_of, read_export
    from imgrec.export.formats.registry import format_of_suffix

    path = Path(source)
    if path.is_dir():
        files = [path / name for name in files_of(read_export(path).format)]
    else:
        files = [path, *format_of_suffix(path.suffix).weight_files(path)]
    return sum(each.stat().st_size for each in files if each.is_file())


def require_runtime(runtime: str) -> None:
    """Raise if the package of a runtime is not installed.

    Raises:
        UserError: If it is not. The message names the extra.
    """
    runtime_class(runtime).require()


def _named(network: Runtime, name: str) -> Runtime:
    network.kind = name
    return network


def _read_classifier(source: str | Path, cls: type[Runtime]) -> tuple[Classifier, DataFacts | None]:
    from imgrec.export.trained_model import read_origin

    path = Path(source)
    if path.suffix in network_suffixes() or is_export(path):
        raise UserError(f"{path}: expected a run or a model folder for {cls.title}, got an export.")
    loaded = read_origin(path, "source")
    return loaded.classifier, loaded.facts
