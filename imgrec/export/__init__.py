"""The shareable model folder, and the predictor that applies one to image files."""

from imgrec.export.load import load_model_folder
from imgrec.export.predictor import Prediction, Predictor
from imgrec.export.save import save_model_folder

__all__ = ["Prediction", "Predictor", "load_model_folder", "save_model_folder"]
