"""Packages that only some of the techniques need, and what to install where one is missing."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from imgrec.errors import UserError


def require(module: str, extra: str, purpose: str = "") -> Any:
    """The imported module ``module``, which the extra ``extra`` of pyproject.toml brings.

    Args:
        module: the name to import: ``"torch_pruning"``, ``"onnxruntime.quantization"``.
        extra: the name of the extra: ``"compress"``.
        purpose: what needs it, as the message begins: ``"structured pruning"``.

    Raises:
        UserError: it, or something that it imports itself, is not installed; it says what to install.

    >>> require("json", "compress").loads("[1]")
    [1]
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        lacking = (error.name or package).partition(".")[0]
        why = "" if lacking == package else f" ({lacking} is missing, which it imports)"
        raise UserError(
            f"{purpose or 'this'} needs the package {package.replace('_', '-')}{why}: pip install 'imgrec[{extra}]'"
        ) from error
