"""The steps that a plan of compression is made of, as specs: what each takes, and what it is called in a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from imgrec.compress.scores import Criterion
from imgrec.errors import UserError, suggestion
from imgrec.losses.base import in_range
from imgrec.registry import Registry

Measure = Literal["macs", "parameters", "latency"]
MEASURES: dict[Measure, str] = {"macs": "MACs", "parameters": "parameters", "latency": "latency"}
"""What a network can be made smaller by, and how a sentence calls it."""


@dataclass(frozen=True)
class Step:
    """What all steps have: plain arguments, and words for people."""

    name: ClassVar[str]
    trains: ClassVar[bool] = False
    """Whether weights are trained in it."""

    @property
    def label(self) -> str:
        """A few letters that stand for it in the name of a variant."""
        raise NotImplementedError

    @property
    def said(self) -> str:
        """What it does, as a line of a plan says it."""
        raise NotImplementedError

    def to_spec(self) -> dict[str, Any]:
        """The spec that gives this step again: its name and all its arguments."""
        return {"name": self.name, **asdict(self)}


STEPS: Registry[Step] = Registry("step", "steps")


def _target(target: Mapping[str, float]) -> tuple[Measure, float]:
    """The one measure of a target and the part of it that is to stay."""
    if len(target) != 1:
        raise UserError(f"`target` names one measure, {' or '.join(MEASURES)}, and the part that stays, got {target!r}")
    measure, part = next(iter(target.items()))
    if measure not in MEASURES:
        raise UserError(f'`target`: no measure is called "{measure}".{suggestion(str(measure), MEASURES)}')
    in_range(f"target.{measure}", part, high=1.0, open_low=True, open_high=True)
    return measure, float(part)


@STEPS.register("prune")
@dataclass(frozen=True)
class Prune(Step):
    """Takes out whole channels and heads, so that the network is really smaller.

    Args:
        target: the measure (``macs``, ``parameters`` or ``latency``) and the part of the run's own network that stays:
            ``{macs: 0.5}``.
        importance: what makes a channel matter: ``l1``, ``l2``, ``taylor``, ``bn_scale``, ``group``, ``random``.
        scope: ``global`` compares the channels of all layers, ``layer`` prunes each by the same share.
        round_to: the channels of each layer are a multiple of this.
        include: patterns of the layers to prune; by default all.
        exclude: patterns of the layers to leave alone.
    """

    name: ClassVar[str] = "prune"

    target: dict[str, float] = field(default_factory=lambda: {"macs": 0.5})
    importance: str = "l2"
    scope: Literal["global", "layer"] = "global"
    round_to: int = 1
    include: list[str] | None = None
    exclude: list[str] | None = None

    def __post_init__(self) -> None:
        _target(self.target)
        in_range("round_to", self.round_to, low=1)

    @property
    def label(self) -> str:  # noqa: D102
        measure, part = _target(self.target)
        return f"{measure}{part:g}"

    @property
    def said(self) -> str:  # noqa: D102
        measure, part = _target(self.target)
        return f"prune channels to {100 * part:g} % of the {MEASURES[measure]} ({self.importance}, {self.scope})"


@STEPS.register("drop_blocks")
@dataclass(frozen=True)
class DropBlocks(Step):
    """Drops the residual blocks that matter least.

    Args:
        target: the measure (``macs``, ``parameters`` or ``latency``) and the part of the run's own network that stays.
    """

    name: ClassVar[str] = "drop_blocks"

    target: dict[str, float] = field(default_factory=lambda: {"macs": 0.75})

    def __post_init__(self) -> None:
        _target(self.target)

    @property
    def label(self) -> str:  # noqa: D102
        measure, part = _target(self.target)
        return f"blocks-{measure}{part:g}"

    @property
    def said(self) -> str:  # noqa: D102
        measure, part = _target(self.target)
        return f"drop blocks down to {100 * part:g} % of the {MEASURES[measure]}"


@STEPS.register("mask")
@dataclass(frozen=True)
class Mask(Step):
    """Sets single weights to zero, and holds them there in all training that follows.

    Args:
        sparsity: the part of the weights that become zero.
        criterion: what makes a weight matter: ``magnitude``, ``taylor``, ``snip``, ``movement``, ``random``. Without
            training after it, ``magnitude`` or ``random``.
        scope: ``global`` compares the weights of all layers, ``layer`` prunes each by the same share.
        pattern: N of every M weights stay, ``2:4`` say, in the place of a sparsity.
        schedule: how the sparsity rises in the training that follows: ``one_shot`` at its start, ``linear``, ``cubic``.
    """

    name: ClassVar[str] = "mask"

    sparsity: float = 0.9
    criterion: Criterion = "magnitude"
    scope: Literal["global", "layer"] = "global"
    pattern: str | None = None
    schedule: Literal["one_shot", "linear", "cubic"] = "cubic"

    def __post_init__(self) -> None:
        in_range("sparsity", self.sparsity, high=1.0, open_low=True, open_high=True)

    @property
    def label(self) -> str:  # noqa: D102
        return f"sparse{self.pattern.replace(':', 'of')}" if self.pattern else f"sparse{self.sparsity:g}"

    @property
    def said(self) -> str:  # noqa: D102
        share = f"{self.pattern} weights stay" if self.pattern else f"{100 * self.sparsity:g} % of the weights are zero"
        return f"mask until {share} ({self.criterion})"


@dataclass(frozen=True)
class Training(Step):
    """What the steps have that train."""

    trains: ClassVar[bool] = True

    epochs: int = 3
    lr: float | None = None
    distill: bool = False
    ema: float | None = None

    def __post_init__(self) -> None:
        in_range("epochs", self.epochs, low=1)
        if self.lr is not None:
            in_range("lr", self.lr, open_low=True)
        if self.ema is not None:
            in_range("ema", self.ema, high=1.0, open_low=True, open_high=True)

    def _said(self, what: str) -> str:
        beside = [f"learning rate {self.lr:g}" if self.lr is not None else ""]
        beside += ["distilled from the run itself" if self.distill else ""]
        beside += [f"EMA {self.ema:g}" if self.ema is not None else ""]
        some = ", ".join(each for each in beside if each)
        return f"{what} for {self.epochs} epoch{'s' if self.epochs > 1 else ''}{f' ({some})' if some else ''}"


@STEPS.register("finetune")
@dataclass(frozen=True)
class Finetune(Training):
    """Trains on, with the run's own recipe, from what the steps before left.

    Args:
        epochs: how many.
        lr: the highest learning rate; by default a tenth of the run's.
        distill: whether it learns from the run's dense network, too.
        ema: the decay of averaged weights; by default as the run has it.
    """

    name: ClassVar[str] = "finetune"

    @property
    def label(self) -> str:  # noqa: D102
        return f"{'distill' if self.distill else 'finetune'}{self.epochs}"

    @property
    def said(self) -> str:  # noqa: D102
        return self._said("fine-tune")


@STEPS.register("qat")
@dataclass(frozen=True)
class Qat(Training):
    """Trains with the rounding of int8 in the forward pass, and ends in an int8 ONNX file.

    Args:
        epochs: how many.
        lr: the highest learning rate; by default a hundredth of the run's.
        distill: whether it learns from the run's dense network, too.
        ema: the decay of averaged weights; by default as the run has it.
    """

    name: ClassVar[str] = "qat"

    epochs: int = 2

    @property
    def label(self) -> str:  # noqa: D102
        return f"qat{self.epochs}"

    @property
    def said(self) -> str:  # noqa: D102
        return self._said("train quantization-aware")


@STEPS.register("quantize")
@dataclass(frozen=True)
class Quantize(Step):
    """Exports the network in a lower precision for a runtime, calibrated on training images.

    Args:
        to: the precision.
        runtime: what will run it.
        max_drop: how many points of validation accuracy it may lose; where it loses more, the most sensitive layers
            stay in floating point. By default it is measured, and nothing follows from it.
        calibration: how many images the ranges of int8 are read from.
    """

    name: ClassVar[str] = "quantize"

    to: Literal["int8", "fp16", "bf16"] = "int8"
    runtime: Literal["onnxruntime", "openvino"] = "onnxruntime"
    max_drop: float | None = None
    calibration: int = 256

    def __post_init__(self) -> None:
        if self.max_drop is not None:
            in_range("max_drop", self.max_drop)
        in_range("calibration", self.calibration, low=1)

    @property
    def label(self) -> str:  # noqa: D102
        return self.to if self.runtime == "onnxruntime" else f"{self.runtime}-{self.to}"

    @property
    def said(self) -> str:  # noqa: D102
        budget = f", at most {self.max_drop:g} points lost" if self.max_drop is not None else ""
        return f"{self.to} for {self.runtime}{budget}"
