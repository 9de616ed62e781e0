"""Search for the channels to remove so that a classifier reaches a target cost."""

from __future__ import annotations

import fnmatch
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imgrec.compress.pruning.channel_importance import ChannelCriterion, channel_importance, check_criterion
from imgrec.compress.pruning.dependency_graph import Attention, ChannelGraph, ChannelGroup
from imgrec.compress.pruning.targets import CostTarget, cost_of, share_of
from imgrec.compress.pruning.widths import resize, widths_step
from imgrec.compress.surgery import Step, surgical_copy
from imgrec.errors import UserError
from imgrec.models import Classifier

logger = logging.getLogger(__name__)

Scope = Literal["global", "layer"]
RoundTo = int | Literal["auto"]

_FINEST = 0.004  # smallest share of channels removed in one step of the search
_CLOSE = {"parameters": 0.02, "macs": 0.02, "latency": 0.08}  # accepted distance below the target, relative to it
_TRIES = 6
LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)
"""Types of layers with channels that can be removed."""


@dataclass(frozen=True)
class ChannelPruning:
    """Checked configuration of :func:`imgrec.compress.prune_channels`.

    Args:
        importance: Criterion, see :func:`imgrec.compress.channel_importance`. Defaults to ``group_l2``.
        scope: ``global`` compares the channels of all layers, ``layer`` prunes each layer by the same share. Defaults
            to ``global``.
        round_to: Divisor of the number of channels of each layer, because processors are slow with other numbers.
            ``auto`` selects 8, or less for a layer with fewer than 32 channels. Defaults to 1.
        keep: Smallest share of channels that remains in each layer, in (0, 1). Defaults to 0.1.
        attention: ``dims`` removes dimensions of every head, ``heads`` removes whole heads. Defaults to ``dims``.
        include: Patterns of layer names, for example ``backbone.network.layer4.*``. A channel is removed only if all of
            its layers match. Defaults to all layers.
        exclude: Patterns of the layers that are not pruned. Defaults to none.
        seed: Seed of the criterion ``random``. Defaults to 0.

    Raises:
        UserError: If an argument is invalid.
    """

    importance: ChannelCriterion = "group_l2"
    scope: Scope = "global"
    round_to: RoundTo = 1
    keep: float = 0.1
    attention: Attention = "dims"
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_criterion(self.importance)
        for name, accepted in (("scope", ("global", "layer")), ("attention", ("dims", "heads"))):
            if getattr(self, name) not in accepted:
                raise UserError(f"{name}: expected {' or '.join(accepted)}, got {getattr(self, name)!r}")
        if self.round_to != "auto" and not (type(self.round_to) is int and self.round_to >= 1):
            raise UserError(f"round_to: expected 1 or more, or auto, got {self.round_to}")
        if not 0 < self.keep < 1:
            raise UserError(f"keep: expected a share above 0 and below 1, got {self.keep}")
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                raise UserError(f"{name}: expected a list of patterns, got {getattr(self, name)!r}")


class ChannelSearch:
    """Search along one ranking of the channels for the number to remove.

    Args:
        classifier: Classifier. It is not changed.
        images: Batch of images for tracing and for the cost.
        target: Target cost.
        whole: Reference cost of the target.
        now: Share of the reference cost that the classifier has.
        config: Configuration of the selection.
        frozen: Names of layers whose outputs are not pruned.
        gradients: Gradients of the loss by parameter name, for ``taylor``.
        skipped: Layers that cannot be pruned, each with the reason. Further layers are added.
    """

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        target: CostTarget,
        whole: float,
        now: float,
        config: ChannelPruning,
        frozen: Collection[str],
        gradients: Mapping[str, Tensor] | None,
        skipped: dict[str, str],
    ) -> None:
        self.classifier, self.images, self.target, self.whole = classifier, images, target, whole
        self.now = now
        self.config, self.frozen, self.skipped = config, frozen, skipped
        self.weights, self.gradients = dict(classifier.named_parameters()), gradients

    def run(self) -> tuple[Step, dict[str, Tensor], float] | None:
        """Return the step, the indices of the remaining values and the remaining share, or ``None`` if none is needed.

        Raises:
            UserError: If the target cannot be reached or no channel can be pruned.
        """
        share = self.now
        if share <= self.target.share:
            return None
        while True:
            try:
                return self._narrow(share)
            except _BrokenError as error:
                selected = self._select(self._ranked(self._graph()), error.removed)
                broken = self._find_broken(selected)
                if not broken:
                    raise UserError(f"the pruned network raises an error: {error}") from error
                for name in broken:
                    self.skipped[name] = f"the pruned layer raises an error: {error}"
                logger.warning("not pruned, torch-pruning cannot follow them: %s", ", ".join(broken))

    def _graph(self) -> ChannelGraph:
        return ChannelGraph(self.classifier, self.images, self.config.attention, self.frozen)

    def _ranked(self, graph: ChannelGraph) -> dict[str, tuple[ChannelGroup, Tensor]]:
        generator = torch.Generator().manual_seed(self.config.seed)
        ranked = {}
        for group in graph.groups:
            if group.name in self.skipped or not self._included(group):
                continue
            try:
                scores = channel_importance(group, self.config.importance, self.weights, self.gradients, generator)
            except (IndexError, RuntimeError, ValueError) as error:  # the graph has wrong channel indices
                self.skipped[group.name] = f"torch-pruning cannot follow its channels ({error})"
                continue
            if scores is None:
                self.skipped[group.name] = f"the criterion {self.config.importance} does not apply to it"
            elif len(scores) > 1:
                ranked[group.name] = group, scores
        if not ranked:
            reason = f" ({next(iter(self.skipped.values()))})" if self.skipped else ""
            raise UserError(f"no channel of this network can be pruned by {self.config.importance}{reason}")
        return ranked

    def _included(self, group: ChannelGroup) -> bool:
        if not self.config.include:
            return True
        layers = [m.name for m in group.members if m.output and isinstance(m.layer, LAYERS)]
        return all(any(fnmatch.fnmatch(name, pattern) for pattern in self.config.include) for name in layers)

    def _narrow(self, share: float) -> tuple[Step, dict[str, Tensor], float]:
        """Remove channels in steps proportional to the remaining distance until the target is met, then bisect."""
        graph = self._graph()
        ranked = self._ranked(graph)
        removed, slope, below = 0.0, -2.0, 0.0
        while share > self.target.share:
            if removed >= 1.0:
                raise UserError(self._unreachable(share))
            ahead = max(0.8 * (self.target.share - share) / slope, _FINEST)
            below, removed, before = removed, min(1.0, removed + ahead), share
            step, kept, share = self._measured(graph, ranked, removed)
            slope = min(-0.2, (share - before) / ahead)
        found, tries = (step, kept), 0
        while share < (1 - _CLOSE[self.target.kind]) * self.target.share and tries < _TRIES:
            tries += 1
            middle = (below + removed) / 2
            graph = self._graph()  # channels cannot be restored in a pruned graph
            ranked = self._ranked(graph)
            step, kept, now = self._measured(graph, ranked, middle)
            if now <= self.target.share:
                found, removed, share = (step, kept), middle, now
            else:
                below = middle
        return *found, share

    def _measured(
        self, graph: ChannelGraph, ranked: Mapping[str, tuple[ChannelGroup, Tensor]], removed: float
    ) -> tuple[Step, dict[str, Tensor], float]:
        for name, units in self._select(ranked, removed).items():
            graph.remove(ranked[name][0], units)
        candidate, step, kept = self._candidate(graph, removed)
        if self.target.kind == "latency":
            return step, kept, self.now * share_of(candidate, self.classifier, self.images, "latency")
        return step, kept, cost_of(candidate, self.images, self.target.kind) / self.whole

    def _unreachable(self, share: float) -> str:
        names = ", ".join([*self.skipped][:5])
        skipped = f" {len(self.skipped)} layers cannot be pruned: {names}." if self.skipped else ""
        return (
            f"target: {self.target} cannot be reached. {share:.3g} remain if every layer keeps {self.config.keep:.3g} "
            f"of its channels.{skipped}"
        )

    def _select(self, ranked: Mapping[str, tuple[ChannelGroup, Tensor]], removed: float) -> dict[str, list[int]]:
        """Return the least important units by group, for a removed share of all units."""
        if self.config.scope == "layer":
            counts = {name: math.floor(removed * len(scores)) for name, (_, scores) in ranked.items()}
        else:
            every = torch.cat([scores for _, scores in ranked.values()])
            low = every.argsort(stable=True)[: math.floor(removed * len(every))]
            mask = torch.zeros(len(every), dtype=torch.bool)
            mask[low] = True
            parts = torch.split(mask, [len(scores) for _, scores in ranked.values()])
            counts = {name: int(part.sum()) for name, part in zip(ranked, parts, strict=True)}
        return {
            name: ranked[name][1].argsort(stable=True)[: self._allowed(ranked[name][0], count)].tolist()
            for name, count in counts.items()
        }

    def _allowed(self, group: ChannelGroup, count: int) -> int:
        """Return the number of units to remove, at most ``count``, so that a valid number of units remains."""
        total = len(group.units)
        divisor = self.config.round_to
        multiple = max(1, min(8, 2 ** int(math.log2(total) - 2))) if divisor == "auto" else divisor
        if group.heads:
            multiple = 1
        left = max(total - count, math.ceil(self.config.keep * total), 1)
        return max(0, total - math.ceil(left / multiple) * multiple)

    def _candidate(self, graph: ChannelGraph, removed: float = 1.0) -> tuple[nn.Module, Step, dict[str, Tensor]]:
        work, kept = graph.pruned()
        _update_feature_dim(work, self.classifier)
        step = widths_step(self.classifier, work)
        kept = {name: kept[name] for name in step["shapes"]}
        try:
            candidate = resize(surgical_copy(self.classifier), step, kept)
            with torch.no_grad():
                candidate.eval()(self.images[:1].to(next(candidate.parameters()).device))
        except Exception as error:  # networks with inconsistent widths raise exceptions of many classes
            raise _BrokenError(str(error).partition("\n")[0][:200], removed) from error
        return candidate, step, kept

    def _find_broken(self, selected: Mapping[str, list[int]]) -> list[str]:
        """Return the groups that cause an error, by bisection."""
        graph = self._graph()
        for group in graph.groups:
            if selected.get(group.name):
                graph.remove(group, selected[group.name])
        try:
            self._candidate(graph)
        except _BrokenError:
            names = [name for name, units in selected.items() if units]
            if len(names) == 1:
                return names
            half = len(names) // 2
            parts = ({name: selected[name] for name in part} for part in (names[:half], names[half:]))
            return [name for part in parts for name in self._find_broken(part)]
        return []


class _BrokenError(Exception):
    """Error of a pruned network whose layers have inconsistent widths.

    Args:
        message: Message of the network.
        removed: Share of channels that was removed.
    """

    def __init__(self, message: str, removed: float) -> None:
        super().__init__(message)
        self.removed = removed


def _update_feature_dim(work: Any, classifier: Classifier) -> None:
    """Update attributes that store the length of the feature vector."""
    before, head = classifier.feature_dim, work.head
    linear = next((m for m in head.modules() if isinstance(m, nn.Linear)), None)
    after = linear.in_features if linear is not None else head.weight.shape[1]
    for module, names in (
        (work.backbone, ["feature_dim"]),
        (work.pooling, ["feature_dim"]),
        (work.backbone.network, ["num_features", "head_hidden_size"]),
    ):
        for name in names:
            if getattr(module, name, None) == before:
                setattr(module, name, after)
