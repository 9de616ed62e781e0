"""The shareable model folder, and the predictor that applies one to image files."""

from imgrec.export.load import Loaded, load_model_folder, read_model_folder
from imgrec.export.origin import find_origin, read_origin, read_specs
from imgrec.export.predictor import Prediction, Predictor
from imgrec.export.save import save_model_folder

__all__ = [
    "Loaded",
    "Prediction",
    "Predictor",
    "find_origin",
    "load_model_folder",
    "read_model_folder",
    "read_origin",
    "read_specs",
    "save_model_folder",
]
