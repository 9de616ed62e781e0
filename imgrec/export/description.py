"""Description of an exported network for programs without imgrec: input, preprocessing and output."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgrec.registry import Spec
from imgrec.types import DataFacts

VERSION = 1
"""Version of the description as plain data."""

_OFFSET = "round((length - size) / 2), halves to the even number"
_LONG_EDGE = "floor(size * long / short)"


@dataclass(frozen=True)
class ModelDescription:
    """Input, preprocessing and output of an exported network.

    It is sufficient to use the network with ONNX Runtime or OpenVINO, NumPy and Pillow. The metadata of an ONNX file,
    ``rt_info`` of an OpenVINO file, export.json and the model card are written from it.

    Args:
        facts: Facts of the data that the network was built for.
        mean: Mean of the normalization in the network, per channel, in units of [0, 1].
        std: Standard deviation of the normalization, per channel, in units of [0, 1].
    """

    facts: DataFacts
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def color_order(self) -> str:
        """``RGB``, or ``gray`` for one channel."""
        return "gray" if self.facts.channels == 1 else "RGB"

    @property
    def steps(self) -> list[dict[str, Any]]:
        """Operations from an image file to the input of the network, in order, as plain data."""
        decode = {
            "operation": "decode",
            "color": self.color_order,
            "bits": 8,
            "orientation": "turned upright as EXIF states",
            "transparency": "dropped",
        }
        own = [_step(spec, self.facts.image_size) for spec in self.facts.eval_transforms]
        return [decode, *own, {"operation": "divide", "by": 255}]

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain data, for JSON."""
        side, facts = self.facts.image_size, self.facts
        return {
            "version": VERSION,
            "input": {
                "name": "images",
                "dtype": "float32",
                "layout": "NCHW",
                "shape": ["batch", facts.channels, side, side],
                "range": [0.0, 1.0],
                "color_order": self.color_order,
            },
            "preprocessing": self.steps,
            "included": {
                "normalization": {"mean": list(self.mean), "std": list(self.std), "apply_again": False},
                "softmax": False,
            },
            "output": {
                "name": "logits",
                "dtype": "float32",
                "shape": ["batch", facts.num_classes],
                "probabilities": "sigmoid of each logit" if facts.multi_label else "softmax over the classes",
            },
            "class_names": list(facts.class_names),
        }

    def to_text(self) -> str:
        """Return the description as Markdown, with one sentence per line."""
        side, facts = self.facts.image_size, self.facts
        steps = [_sentence(step) for step in self.steps]
        lines = [f"{number}. {sentence}" for number, sentence in enumerate(steps, 1)]
        shape = f"(batch, {facts.channels}, {side}, {side})"
        found = self.to_dict()["output"]["probabilities"]
        return "\n".join(
            [
                f"Input `images`: float32 in [0, 1], shape {shape}, channels first, color order {self.color_order}.",
                "",
                *lines,
                "",
                "The normalization is a part of the network: do not subtract a mean or divide by a standard deviation. "
                f"It uses the mean {_numbers(self.mean)} and the standard deviation {_numbers(self.std)}.",
                "",
                f"Output `logits`: float32, shape (batch, {facts.num_classes}), in the order of the class names. No "
                f"softmax is in the network. The probabilities are the {found}.",
            ]
        )


def describe_network(facts: DataFacts, mean: Iterable[Any], std: Iterable[Any]) -> ModelDescription:
    """Return the description of a network.

    Args:
        facts: Facts of the data that the network was built for.
        mean: Mean of its normalization, per channel. Float32 values are rounded to their shortest decimals.
        std: Standard deviation of its normalization, per channel, rounded in the same way.

    Example:
        >>> facts = DataFacts(("cat", "dog"), (1, 1), 32, 3, ("resize", "center_crop"))
        >>> found = describe_network(facts, (0.5,) * 3, (0.5,) * 3)
        >>> found.to_dict()["input"]["range"], found.to_dict()["included"]["softmax"]
        ([0.0, 1.0], False)
        >>> print(found.to_text().splitlines()[3].partition(",")[0])
        2. Resize the short edge to 32 pixels and the long edge to floor(size * long / short)
    """
    return ModelDescription(facts, _shortest(mean), _shortest(std))


def _shortest(values: Iterable[Any]) -> tuple[float, ...]:
    return tuple(float(str(np.float32(float(value)))) for value in values)


def _step(spec: Spec, side: int) -> dict[str, Any]:
    """Return a transform as an operation in general terms, or its spec if no general term exists."""
    name, given = (spec, {}) if isinstance(spec, str) else (spec["name"], spec)
    filtered = {"filter": given.get("interpolation", "bilinear"), "antialias": given.get("antialias", True)}
    if filtered["filter"] == "nearest":
        filtered = {"filter": "nearest", "antialias": False}
    if name == "resize":
        size = max(1, round(side * given.get("scale", 1.0)))
        return {"operation": "resize", "edge": "short", "size": size, "long_edge": _LONG_EDGE, **filtered}
    if name == "squash":
        return {"operation": "resize", "edge": "both", "size": side, **filtered}
    if name == "center_crop":
        return {"operation": "center_crop", "size": side, "offset": _OFFSET, "border": 0}
    return {"operation": "imgrec", "spec": spec if isinstance(spec, str) else dict(spec)}


def _sentence(step: Mapping[str, Any]) -> str:
    operation = step["operation"]
    if operation == "decode":
        gray = " (ITU-R 601: 0.299 R + 0.587 G + 0.114 B)" if step["color"] == "gray" else ""
        return f"Decode to {step['color']} with 8 bits a channel{gray}, {step['orientation']}. Transparency is dropped."
    if operation == "resize":
        interpolation = f"{step['filter']} {'with' if step['antialias'] else 'without'} antialiasing"
        if step["edge"] == "both":
            return f"Resize both edges to {step['size']} pixels, {interpolation}."
        return (
            f"Resize the short edge to {step['size']} pixels and the long edge to {step['long_edge']}, {interpolation}."
        )
    if operation == "center_crop":
        return (
            f"Crop the central {step['size']} x {step['size']} pixels, from {step['offset']}. "
            "A smaller image gets a black border."
        )
    if operation == "divide":
        return f"Divide by {step['by']}."
    return f"Apply the transform `{step['spec']}` of imgrec."


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"
