"""Metrics of predictions: the registry METRICS and its functions, NumPy in, NumPy out."""

from imgrec.metrics.classification import classification_scores, scores_of
from imgrec.metrics.registry import METRICS, Metric

__all__ = ["METRICS", "Metric", "classification_scores", "scores_of"]
