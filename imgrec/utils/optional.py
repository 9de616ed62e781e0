"""Import of optional packages, with an error that names the extra to install."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from imgrec.errors import UserError


def require(module: str, extra: str, purpose: str = "") -> Any:
    """Import and return a module of an optional package.

    Args:
        module: Name of the module, for example ``"torch_pruning"`` or ``"onnxruntime.quantization"``.
        extra: Extra of pyproject.toml that contains the package, for example ``"compress"``.
        purpose: Feature that needs the package, for the message, for example ``"structured pruning"``.

    Raises:
        UserError: If the package or one of its dependencies is not installed.

    Example:
        >>> require("json", "compress").loads("[1]")
        [1]
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        lacking = (error.name or package).partition(".")[0]
        why = "" if lacking == package else f" (its dependency {lacking} is missing)"
        raise UserError(
            f"{purpose or 'this'} needs the package {package.replace('_', '-')}{why}: pip install 'imgrec[{extra}]'"
        ) from error
