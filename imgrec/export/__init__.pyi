"""Public names of the package."""

from .formats import FORMATS
from .model_folder.load import Loaded, load_model_folder, read_model_folder
from .model_folder.save import save_model_folder
from .predictor import Prediction, Predictor
from .runtimes import RUNTIMES
from .runtimes.registry import open_runtime
from .trained_model import find_origin, read_origin, read_specs

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
