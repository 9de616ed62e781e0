"""Steps that train the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from imgrec.compress.steps.base import STEPS, CompressionStep
from imgrec.utils.ranges import OpenUnitInterval, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class Training(CompressionStep):
    """Base class of the steps that train."""

    trains: ClassVar[bool] = True

    epochs: PositiveInt = 3
    lr: PositiveFloat | None = None
    distill: bool = False
    ema: OpenUnitInterval | None = None

    def _describe(self, verb: str) -> str:
        parts = [f"learning rate {self.lr:g}" if self.lr is not None else ""]
        parts += ["distilled from the run itself" if self.distill else ""]
        parts += [f"EMA {self.ema:g}" if self.ema is not None else ""]
        settings = ", ".join(each for each in parts if each)
        return f"{verb} for {self.epochs} epoch{'s' if self.epochs > 1 else ''}{f' ({settings})' if settings else ''}"


@STEPS.register("finetune")
@dataclass(frozen=True)
class Finetune(Training):
    """Fine-tuning with the recipe of the run.

    Args:
        epochs: Number of epochs, 1 or more. Defaults to 3.
        lr: Peak learning rate. Defaults to a tenth of the learning rate of the run.
        distill: If True, also distill from the dense network of the run. Defaults to False.
        ema: Decay of the averaged weights, in (0, 1). Defaults to the setting of the run.

    Example::

        steps: [prune, {name: finetune, epochs: 5, distill: true}]
    """

    name: ClassVar[str] = "finetune"

    @property
    def label(self) -> str:  # noqa: D102
        return f"{'distill' if self.distill else 'finetune'}{self.epochs}"

    @property
    def description(self) -> str:  # noqa: D102
        return self._describe("fine-tune")


@STEPS.register("qat")
@dataclass(frozen=True)
class Qat(Training):
    """Quantization-aware training, exported to an int8 ONNX file.

    Args:
        epochs: Number of epochs, 1 or more. Defaults to 2.
        lr: Peak learning rate. Defaults to a hundredth of the learning rate of the run.
        distill: If True, also distill from the dense network of the run. Defaults to False.
        ema: Decay of the averaged weights, in (0, 1). Defaults to the setting of the run.

    Example::

        steps: [{name: qat, epochs: 2}]
    """

    name: ClassVar[str] = "qat"

    epochs: PositiveInt = 2

    @property
    def label(self) -> str:  # noqa: D102
        return f"qat{self.epochs}"

    @property
    def description(self) -> str:  # noqa: D102
        return self._describe("train quantization-aware")
