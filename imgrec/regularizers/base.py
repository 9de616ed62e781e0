"""The registry of regularizers."""

from __future__ import annotations

from torch import nn

from imgrec.registry import Registry

REGULARIZERS: Registry[nn.Module] = Registry("regularizer", "regularizers", specific=("alpha", "steps", "weight"))
"""Regularizers by name: modules whose ``forward(output, model)`` returns a scalar with a gradient.

``output`` is the :class:`imgrec.types.StepOutput` of the training step. ``model`` is the network that computed it.
"""
