"""Interface of the quantizers of network files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from imgrec.compress.quantization.calibration import Images


class Quantizer(ABC):
    """Float network from which int8 files are written, each with a choice of layers left in floating point.

    Attributes:
        settings: Options of the quantization as plain data, stored in export.json.
        layers: Names of the layers that can be quantized, in the order of the network.
    """

    suffix: ClassVar[str] = ".onnx"
    """Suffix of the files that :meth:`write` writes."""

    settings: dict[str, Any]
    layers: tuple[str, ...]

    @abstractmethod
    def write(self, target: Path, keep: Collection[str] = ()) -> Path:
        """Write the quantized network.

        Args:
            target: File to write, in an existing folder.
            keep: Names or patterns of layers that stay in floating point.
        """

    def for_sensitivity(self, images: Images) -> Quantizer:
        """Return the quantizer that measures the sensitivity of single layers.

        Args:
            images: Calibration images, for a quantizer that calibrates on fewer images.
        """
        return self
