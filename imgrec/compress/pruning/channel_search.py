"""The way from what a classifier costs to what it should, along one ranking of its channels."""

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
from imgrec.compress.pruning.targets import Target, cost_of, share_of
from imgrec.compress.pruning.widths import resize, widths_step
from imgrec.compress.surgery import Step, surgical_copy
from imgrec.errors import UserError
from imgrec.models import Classifier

logger = logging.getLogger(__name__)

Scope = Literal["global", "layer"]
RoundTo = int | Literal["auto"]

_FINEST = 0.004  # of all channels: less is not removed at a time
_CLOSE = {"parameters": 0.02, "macs": 0.02, "latency": 0.08}  # of the target: so near from below is near enough
_TRIES = 6
LAYERS = (nn.modules.conv._ConvNd, nn.Linear, nn.MultiheadAttention)
"""What has channels that can go."""


@dataclass(frozen=True)
class ChannelPruning:
    """How channels are chosen: what :func:`prune_channels` takes, checked.

    Args:
        importance: see :func:`imgrec.compress.channel_importance`.
        scope: ``global`` compares the channels of all layers with one another; ``layer`` takes the same share of each.
        round_to: widths become multiples of this, where they are large enough; processors are slow with odd ones.
            ``auto``: of 8, and of less where a layer has fewer than 32.
        keep: the share of channels that each layer keeps at least.
        attention: what attention loses: ``dims`` of every head, or whole ``heads``.
        include: patterns of layer names (``backbone.network.layer4.*``); only channels all of whose layers match one
            are removed. None means every layer.
        exclude: patterns of layers whose channels stay.
        seed: of the criterion ``random``.

    Raises:
        UserError: a value that is not accepted.
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
                raise UserError(f"{name}: accepted are {' and '.join(accepted)}, got {getattr(self, name)!r}")
        if self.round_to != "auto" and not (type(self.round_to) is int and self.round_to >= 1):
            raise UserError(f"round_to: expected 1 or more, or auto, got {self.round_to}")
        if not 0 < self.keep < 1:
            raise UserError(f"keep: expected a share above 0 and below 1, got {self.keep}")
        for name in ("include", "exclude"):
            if isinstance(getattr(self, name), str):
                raise UserError(f"{name}: expected a list of patterns, got {getattr(self, name)!r}")


class Search:
    """One way from what a classifier costs to what it should, along one ranking of its channels."""

    def __init__(
        self,
        classifier: Classifier,
        images: Tensor,
        target: Target,
        whole: float,
        now: float,
        how: ChannelPruning,
        frozen: Collection[str],
        gradients: Mapping[str, Tensor] | None,
        skipped: dict[str, str],
    ) -> None:
        self.classifier, self.images, self.target, self.whole = classifier, images, target, whole
        self.now = now
        self.how, self.frozen, self.skipped = how, frozen, skipped
        self.weights, self.gradients = dict(classifier.named_parameters()), gradients

    def run(self) -> tuple[Step, dict[str, Tensor], float] | None:
        """The step, what it keeps, and the share that is left; ``None`` where the cost is low enough already."""
        share = self.now
        if share <= self.target.share:
            return None
        while True:
            try:
                return self._narrow(share)
            except _BrokenError as error:
                chosen = self._chosen(self._ranked(self._graph()), error.removed)
                broken = self._find_broken(chosen)
                if not broken:
                    raise UserError(f"the network does not work any more once it is pruned: {error}") from error
                for name in broken:
                    self.skipped[name] = f"what is left does not work: {error}"
                logger.warning("not pruned, torch-pruning cannot follow them: %s", ", ".join(broken))

    def _graph(self) -> ChannelGraph:
        return ChannelGraph(self.classifier, self.images, self.how.attention, self.frozen)

    def _ranked(self, graph: ChannelGraph) -> dict[str, tuple[ChannelGroup, Tensor]]:
        generator = torch.Generator().manual_seed(self.how.seed)
        ranked = {}
        for group in graph.groups:
            if group.name in self.skipped or not self._included(group):
                continue
            try:
                scores = channel_importance(group, self.how.importance, self.weights, self.gradients, generator)
            except (IndexError, RuntimeError, ValueError) as error:  # channels that the graph put in the wrong places
                self.skipped[group.name] = f"torch-pruning cannot follow its channels ({error})"
                continue
            if scores is None:
                self.skipped[group.name] = f"the criterion {self.how.importance} says nothing of it"
            elif len(scores) > 1:
                ranked[group.name] = group, scores
        if not ranked:
            why = f" ({next(iter(self.skipped.values()))})" if self.skipped else ""
            raise UserError(f"no channel of this network can be pruned by {self.how.importance}{why}")
        return ranked

    def _included(self, group: ChannelGroup) -> bool:
        if not self.how.include:
            return True
        layers = [m.name for m in group.members if m.output and isinstance(m.layer, LAYERS)]
        return all(any(fnmatch.fnmatch(name, pattern) for pattern in self.how.include) for name in layers)

    def _narrow(self, share: float) -> tuple[Step, dict[str, Tensor], float]:
        """Remove more and more, in steps as long as the way to go, until the target is met; then meet it closely."""
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
            graph = self._graph()  # there is no way back in the one that was cut
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
        for name, units in self._chosen(ranked, removed).items():
            graph.remove(ranked[name][0], units)
        candidate, step, kept = self._candidate(graph, removed)
        if self.target.kind == "latency":
            return step, kept, self.now * share_of(candidate, self.classifier, self.images, "latency")
        return step, kept, cost_of(candidate, self.images, self.target.kind) / self.whole

    def _unreachable(self, share: float) -> str:
        left = f" ({len(self.skipped)} layers could not be: {', '.join([*self.skipped][:5])})" if self.skipped else ""
        return (
            f"target: {self.target} cannot be reached; the least that can be is {share:.3g}, where every layer that "
            f"may be pruned keeps {self.how.keep:.3g} of its channels{left}"
        )

    def _chosen(self, ranked: Mapping[str, tuple[ChannelGroup, Tensor]], removed: float) -> dict[str, list[int]]:
        """Units by group that have gone once a share of all is removed; more with more."""
        if self.how.scope == "layer":
            counts = {name: math.floor(removed * len(scores)) for name, (_, scores) in ranked.items()}
        else:
            every = torch.cat([scores for _, scores in ranked.values()])
            low = every.argsort(stable=True)[: math.floor(removed * len(every))]
            gone = torch.zeros(len(every), dtype=torch.bool)
            gone[low] = True
            parts = torch.split(gone, [len(scores) for _, scores in ranked.values()])
            counts = {name: int(part.sum()) for name, part in zip(ranked, parts, strict=True)}
        return {
            name: ranked[name][1].argsort(stable=True)[: self._allowed(ranked[name][0], count)].tolist()
            for name, count in counts.items()
        }

    def _allowed(self, group: ChannelGroup, count: int) -> int:
        """At most ``count`` units, so that enough are left, in multiples."""
        total = len(group.units)
        asked = self.how.round_to
        multiple = max(1, min(8, 2 ** int(math.log2(total) - 2))) if asked == "auto" else asked
        if group.heads:
            multiple = 1
        left = max(total - count, math.ceil(self.how.keep * total), 1)
        return max(0, total - math.ceil(left / multiple) * multiple)

    def _candidate(self, graph: ChannelGraph, removed: float = 1.0) -> tuple[nn.Module, Step, dict[str, Tensor]]:
        work, kept = graph.pruned()
        _settle_features(work, self.classifier)
        step = widths_step(self.classifier, work)
        kept = {name: kept[name] for name in step["shapes"]}
        try:
            candidate = resize(surgical_copy(self.classifier), step, kept)
            with torch.no_grad():
                candidate.eval()(self.images[:1].to(next(candidate.parameters()).device))
        except Exception as error:  # whatever a network raises whose layers do not fit one another
            raise _BrokenError(str(error).partition("\n")[0][:200], removed) from error
        return candidate, step, kept

    def _find_broken(self, chosen: Mapping[str, list[int]]) -> list[str]:
        """The groups, out of some that do not work together, that do not work alone."""
        graph = self._graph()
        for group in graph.groups:
            if chosen.get(group.name):
                graph.remove(group, chosen[group.name])
        try:
            self._candidate(graph)
        except _BrokenError:
            names = [name for name, units in chosen.items() if units]
            if len(names) == 1:
                return names
            half = len(names) // 2
            parts = ({name: chosen[name] for name in part} for part in (names[:half], names[half:]))
            return [name for part in parts for name in self._find_broken(part)]
        return []


class _BrokenError(Exception):
    """The layers of a pruned network do not fit one another; ``removed`` is the share of channels that was to go."""

    def __init__(self, message: str, removed: float) -> None:
        super().__init__(message)
        self.removed = removed


def _settle_features(work: Any, classifier: Classifier) -> None:
    """The length of the feature vector, where it is kept beside the layers."""
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
