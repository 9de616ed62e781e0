"""Steps that remove channels, blocks or single weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import ClassVar

from imgrec.compress.pruning.blocks import BlockCriterion
from imgrec.compress.pruning.channel_importance import ChannelCriterion
from imgrec.compress.pruning.channel_search import ChannelPruning, RoundTo
from imgrec.compress.pruning.dependency_graph import Attention
from imgrec.compress.pruning.mask_config import MaskConfig
from imgrec.compress.pruning.masks import Scope
from imgrec.compress.pruning.schedule import Shape
from imgrec.compress.pruning.targets import parse_target
from imgrec.compress.pruning.weight_importance import Criterion
from imgrec.compress.steps.base import STEPS, CompressionStep
from imgrec.utils.ranges import OpenUnitInterval


@STEPS.register("prune")
@dataclass(frozen=True)
class Prune(CompressionStep):
    """Structured pruning: removal of whole channels and attention heads.

    Args:
        target: Cost (``macs``, ``parameters`` or ``latency``) and the remaining share of the cost of the run's
            network, for example ``{macs: 0.5}``.
        importance: Criterion of channels: ``group_l2``, ``l1``, ``l2``, ``taylor``, ``bn_scale`` or ``random``.
        scope: ``global`` compares the channels of all layers, ``layer`` prunes each by the same share.
        round_to: Divisor of the number of channels of each layer, because processors are slow with other numbers.
            ``auto`` selects 8, or less for a layer with fewer than 32 channels.
        keep: Smallest share of channels that remains in each layer.
        attention: ``dims`` removes dimensions of every head, ``heads`` removes whole heads.
        include: Patterns of the layers to prune. Defaults to all.
        exclude: Patterns of the layers that are not pruned.

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
        super().__post_init__()
        parse_target(self.target)
        _ = self.config

    @property
    def config(self) -> ChannelPruning:
        """Selection of the channels to remove."""
        given = {k: v for k, v in asdict(self).items() if k != "target"}
        return ChannelPruning(**given)

    @property
    def label(self) -> str:  # noqa: D102
        kind, share = parse_target(self.target)
        return f"{kind}{share:g}"

    @property
    def description(self) -> str:  # noqa: D102
        return f"prune channels to {parse_target(self.target)} ({self.importance}, {self.scope})"


@STEPS.register("drop_blocks")
@dataclass(frozen=True)
class DropResidualBlocks(CompressionStep):
    """Removal of the residual blocks with the lowest importance.

    Args:
        target: Cost (``macs``, ``parameters`` or ``latency``) and the remaining share of the cost of the run's
            network.
        importance: Criterion of blocks: the ``loss`` without the block, the ``divergence`` of the probabilities
            without it, or its ``influence`` on its input.

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
    def description(self) -> str:  # noqa: D102
        return f"drop residual blocks down to {parse_target(self.target)}"


@STEPS.register("mask")
@dataclass(frozen=True)
class Mask(CompressionStep):
    """Unstructured pruning: single weights are set to zero and stay zero in later training steps.

    Args:
        sparsity: Share of the weights that become zero, in (0, 1).
        criterion: Criterion of weights: ``magnitude``, ``taylor``, ``snip``, ``movement`` or ``random``. Without a
            later training step, ``magnitude`` or ``random``.
        scope: ``global`` compares the weights of all layers, ``layer`` prunes each by the same share.
        pattern: N:M sparsity instead of ``sparsity``, for example ``2:4``: N of every M weights remain.
        schedule: Rise of the sparsity in the next training step: ``cubic`` or ``linear`` during its first half, or
            ``one_shot`` at its start. A pattern is always ``one_shot``.

    Example::

        steps: [{name: mask, sparsity: 0.9}, finetune]
    """

    name: ClassVar[str] = "mask"

    sparsity: OpenUnitInterval = 0.9
    criterion: Criterion = "magnitude"
    scope: Scope = "global"
    pattern: str | None = None
    schedule: Shape = "cubic"

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.config

    @property
    def config(self) -> MaskConfig:
        """Configuration of the masks."""
        share = self.sparsity if self.pattern is None else None
        return MaskConfig(share, self.criterion, self.scope, self.pattern, where="mask")

    @property
    def label(self) -> str:  # noqa: D102
        return f"sparse{self.pattern.replace(':', 'of')}" if self.pattern else f"sparse{self.sparsity:g}"

    @property
    def description(self) -> str:  # noqa: D102
        share = f"{self.pattern} weights stay" if self.pattern else f"{100 * self.sparsity:g} % of the weights are zero"
        return f"mask until {share} ({self.criterion})"
