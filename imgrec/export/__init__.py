"""The shareable model folder, the predictor that applies one to image files, and other runtimes.

Each name is loaded when it is first used, so that what only opens an ONNX file needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_WHERE = {
    "FORMATS": "formats",
    "Loaded": "model_folder.load",
    "Prediction": "predictor",
    "Predictor": "predictor",
    "RUNTIMES": "runtimes",
    "find_origin": "trained_model",
    "load_model_folder": "model_folder.load",
    "open_runtime": "runtimes.registry",
    "read_model_folder": "model_folder.load",
    "read_origin": "trained_model",
    "read_specs": "trained_model",
    "save_model_folder": "model_folder.save",
}

__all__ = [
    "FORMATS",
    "RUNTIMES",
    "Loaded",
    "Prediction",
    "Predictor",
    "find_origin",
    "load_model_folder",
    "open_runtime",
    "read_model_folder",
    "read_origin",
    "read_specs",
    "save_model_folder",
]

if TYPE_CHECKING:
    from imgrec.export.formats import FORMATS
    from imgrec.export.model_folder.load import Loaded, load_model_folder, read_model_folder
    from imgrec.export.model_folder.save import save_model_folder
    from imgrec.export.predictor import Prediction, Predictor
    from imgrec.export.runtimes import RUNTIMES
    from imgrec.export.runtimes.registry import open_runtime
    from imgrec.export.trained_model import find_origin, read_origin, read_specs


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
