"""The steps that a plan of compression is made of, as specs: what each takes, and what it is called in a name."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from imgrec.compress.pruning.blocks import BlockCriterion
from imgrec.compress.pruning.channel_importance import ChannelCriterion
from imgrec.compress.pruning.channel_search import ChannelPruning, RoundTo
from imgrec.compress.pruning.dependency_graph import Attention
from imgrec.compress.pruning.mask_config import MaskPlan
from imgrec.compress.pruning.masks import Scope
from imgrec.compress.pruning.schedule import Shape
from imgrec.compress.pruning.targets import parse_target
from imgrec.compress.pruning.weight_importance import Criterion
from imgrec.losses.base import in_range
from imgrec.registry import Registry


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


STEPS: Registry[Step] = Registry("step", "steps", specific=("importance", "scope"))


@STEPS.register("prune")
@dataclass(frozen=True)
class Prune(Step):
    """Takes out whole channels and heads, so that the network is really smaller.

    Args:
        target: a cost (``macs``, ``parameters`` or ``latency``) and the share of the run's own network that stays:
            ``{macs: 0.5}``.
        importance: what makes a channel matter: ``group_l2``, ``l1``, ``l2``, ``taylor``, ``bn_scale``, ``random``.
        scope: ``global`` compares the channels of all layers, ``layer`` prunes each by the same share.
        round_to: the channels of each layer are a multiple of this; processors are slow with odd numbers of them.
            ``auto``: of 8, and of less where a layer has fewer than 32.
        keep: the share of channels that each layer keeps at least.
        attention: what attention loses: ``dims`` of every head, or whole ``heads``.
        include: patterns of the layers to prune; by default all.
        exclude: patterns of the layers to leave alone.

    Example::

        steps: [{name: prune, target: {macs: 0.5}}, finetune]
    """

    name: ClassVar[str] = "prune"

    target: dict[str, float] = field(default_factory=lambda: {"macs": 0.5})
    importance: ChannelCriterion = "group_l2"
    scope: Scope = "global"
    round_to: RoundTo = "auto"
    keep: float = 0.1
    attention: Attention = "dims"
    include: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        parse_target(self.target)
        _ = self.how

    @property
    def how(self) -> ChannelPruning:
        """Which channels go."""
        given = {k: v for k, v in asdict(self).items() if k != "target"}
        return ChannelPruning(**given)

    @property
    def label(self) -> str:  # noqa: D102
        kind, share = parse_target(self.target)
        return f"{kind}{share:g}"

    @property
    def said(self) -> str:  # noqa: D102
        return f"prune channels to {parse_target(self.target)} ({self.importance}, {self.scope})"


@STEPS.register("drop_blocks")
@dataclass(frozen=True)
class DropBlocks(Step):
    """Drops the residual blocks that matter least.

    Args:
        target: a cost (``macs``, ``parameters`` or ``latency``) and the share of the run's own network that stays.
        importance: what makes a block matter: the ``loss`` without it, the ``divergence`` of the probabilities without
            it, or its ``influence`` on what passes through it.

    Example::

        steps: [{name: drop_blocks, target: {latency: 0.7}}, finetune]
    """

    name: ClassVar[str] = "drop_blocks"

    target: dict[str, float] = field(default_factory=lambda: {"macs": 0.75})
    importance: BlockCriterion = "loss"

    def __post_init__(self) -> None:
        parse_target(self.target)

    @property
    def label(self) -> str:  # noqa: D102
        kind, share = parse_target(self.target)
        return f"blocks-{kind}{share:g}"

    @property
    def said(self) -> str:  # noqa: D102
        return f"drop residual blocks down to {parse_target(self.target)}"


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
        schedule: how the sparsity rises in the training that follows: ``cubic`` or ``linear`` during its first half, or
            ``one_shot`` at its start, as a pattern does.

    Example::

        steps: [{name: mask, sparsity: 0.9}, finetune]
    """

    name: ClassVar[str] = "mask"

    sparsity: float = 0.9
    criterion: Criterion = "magnitude"
    scope: Scope = "global"
    pattern: str | None = None
    schedule: Shape = "cubic"

    def __post_init__(self) -> None:
        in_range("sparsity", self.sparsity, high=1.0, open_low=True, open_high=True)
        _ = self.how

    @property
    def how(self) -> MaskPlan:
        """Which weights are masked."""
        share = self.sparsity if self.pattern is None else None
        return MaskPlan(share, self.criterion, self.scope, self.pattern, where="mask")

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

    Example::

        steps: [prune, {name: finetune, epochs: 5, distill: true}]
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

    Example::

        steps: [{name: qat, epochs: 2}]
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
        sure: hold the upper end of the 95 % interval of what is lost against ``max_drop``, not the loss itself.
        max_kept: the part of the layers that may stay in floating point at most.
        calibration: how many images the ranges of int8 are read from.
        method: ``static``; for transformers in ONNX Runtime ``dynamic`` or ``weights``.
        biases: how OpenVINO's int8 corrects them: ``fast``, ``accurate``, which takes long, ``none``; ``auto`` tries.
        exclude: patterns of the layers that stay in floating point in any case.

    Example::

        steps: [{name: quantize, to: int8, max_drop: 0.5}]
    """

    name: ClassVar[str] = "quantize"

    to: Literal["int8", "fp16", "bf16", "fp32"] = "int8"
    runtime: str = "onnxruntime"
    max_drop: float | None = None
    sure: bool = False
    max_kept: float = 0.5
    calibration: int = 256
    method: Literal["static", "dynamic", "weights"] = "static"
    biases: Literal["auto", "fast", "accurate", "none"] = "auto"
    exclude: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.max_drop is not None:
            in_range("max_drop", self.max_drop)
        in_range("max_kept", self.max_kept, high=1.0)
        in_range("calibration", self.calibration, low=1)

    @property
    def label(self) -> str:  # noqa: D102
        return self.to if self.runtime == Quantize.runtime else f"{self.runtime}-{self.to}"

    @property
    def said(self) -> str:  # noqa: D102
        budget = f", at most {self.max_drop:g} points lost" if self.max_drop is not None else ""
        return f"{self.to} for {self.runtime}{budget}"
