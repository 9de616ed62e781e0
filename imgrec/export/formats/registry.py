"""Lookup of export formats by name, suffix and runtime."""

from __future__ import annotations

from imgrec.errors import UserError, suggestion
from imgrec.export.formats import FORMATS, Format
from imgrec.export.runtimes.registry import runtime_class, runtimes_for_suffix


def find_format(name: str, where: str = "format") -> Format:
    """Return a registered format.

    Args:
        name: Registered name or entry point. A dotted path is refused, because names are read from received files.
        where: Key or option for the message.

    Raises:
        UserError: If the name is unknown.

    Example:
        >>> find_format("openvino").files
        ('model.xml', 'model.bin')
    """
    if name not in FORMATS:
        known = FORMATS.names()
        raise UserError(f'{where}: there is no "{name}".{suggestion(name, known)} Accepted: {", ".join(known)}.')
    return FORMATS.build(name)


def format_names(runtime: str) -> tuple[str, ...]:
    """Return the formats that a runtime opens, its own format first.

    Example:
        >>> format_names("openvino")
        ('openvino', 'onnx')
    """
    by_suffix = {find_format(name).suffix: name for name in FORMATS.names()}
    return tuple(by_suffix[suffix] for suffix in runtime_class(runtime).suffixes if suffix in by_suffix)


def format_of_suffix(suffix: str) -> Format:
    """Return the format of files with a suffix.

    Raises:
        UserError: If there is none.
    """
    for name in FORMATS.names():
        if (found := find_format(name)).suffix == suffix:
            return found
    expected = " or ".join(find_format(name).suffix for name in FORMATS.names())
    raise UserError(f"file: expected the suffix {expected}, got {suffix}")


def default_runtime(name: str) -> str:
    """Return the runtime that verifies and runs exports of a format.

    It is the first runtime, in the order of :func:`imgrec.export.runtimes.registry.runtime_names`, that opens the files
    of the format.

    Raises:
        UserError: If no runtime opens it.

    Example:
        >>> default_runtime("onnx")
        'onnxruntime'
    """
    suffix = find_format(name).suffix
    found = runtimes_for_suffix(suffix)
    if not found:
        raise UserError(f"format: no runtime opens {suffix} files")
    return found[0]


def export_runtimes() -> list[str]:
    """Return the runtimes that a network can be exported for."""
    from imgrec.export.runtimes.registry import runtime_names

    return [name for name in runtime_names() if runtime_class(name).suffixes and format_names(name)]
