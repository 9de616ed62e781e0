"""Step that exports the network in a lower precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from imgrec.compress.steps.base import STEPS, CompressionStep
from imgrec.utils.ranges import ClosedUnitInterval, NonNegativeFloat, PositiveInt


@STEPS.register("quantize")
@dataclass(frozen=True)
class Quantize(CompressionStep):
    """Export in a lower precision for a runtime, calibrated on training images.

    Args:
        to: Precision of the export. Defaults to ``int8``.
        runtime: Runtime of the export, a name in :data:`imgrec.RUNTIMES`. Defaults to ``onnxruntime``.
        max_drop: Largest drop of validation accuracy in points. If int8 in all layers loses more, the most sensitive
            layers stay in floating point. Defaults to no limit.
        sure: If True, compare the upper end of the 95 % interval of the drop with ``max_drop``. Defaults to False.
        max_kept: Largest share of layers that stay in floating point, in [0, 1]. Defaults to 0.5.
        calibration: Number of calibration images. Defaults to 256.
        method: ``static``, or for transformers in ONNX Runtime ``dynamic`` or ``weights``. Defaults to ``static``.
        biases: Bias correction of OpenVINO: ``fast``, ``accurate`` (slow), ``none``, or ``auto``, which selects the
            better one of ``fast`` and ``none``. Defaults to ``auto``.
        exclude: Patterns of the layers that stay in floating point.

    Example::

        steps: [{name: quantize, to: int8, max_drop: 0.5}]
    """

    name: ClassVar[str] = "quantize"

    to: Literal["int8", "fp16", "bf16", "fp32"] = "int8"
    runtime: str = "onnxruntime"
    max_drop: NonNegativeFloat | None = None
    sure: bool = False
    max_kept: ClosedUnitInterval = 0.5
    calibration: PositiveInt = 256
    method: Literal["static", "dynamic", "weights"] = "static"
    biases: Literal["auto", "fast", "accurate", "none"] = "auto"
    exclude: list[str] = field(default_factory=list)

    @property
    def label(self) -> str:  # noqa: D102
        return self.to if self.runtime == Quantize.runtime else f"{self.runtime}-{self.to}"

    @property
    def description(self) -> str:  # noqa: D102
        budget = f", at most {self.max_drop:g} points lost" if self.max_drop is not None else ""
        return f"{self.to} for {self.runtime}{budget}"
