"""Structured pruning: a classifier with fewer channels, really smaller and still an ordinary network."""

from __future__ import annotations

import copy
import fnmatch
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.compress.profiling import count_macs, count_parameters
from imgrec.compress.pruning.channel_importance import Batches, loss_gradients
from imgrec.compress.pruning.channel_search import LAYERS, ChannelPruning, Search
from imgrec.compress.pruning.targets import Target, cost_of, parse_target
from imgrec.compress.pruning.widths import resize, select, widths_step
from imgrec.compress.surgery import Step, note_step, rebuild, refuse_parametrized, refuse_rounded, surgical_copy
from imgrec.errors import UserError, suggestion
from imgrec.models import Classifier


@dataclass(frozen=True)
class ChannelReport:
    """What pruning did.

    Attributes:
        step: the surgical step, as it stands in the classifier's record; ``None`` where nothing was to be done.
        kept: for each parameter and buffer whose shape changed, where the values that stayed stood before: indices into
            the flattened old tensor, in the new shape. See :func:`imgrec.compress.select`.
        widths: layers whose number of outputs changed: before and after.
        parameters: before and after.
        macs: of one image, before and after.
        share: what is left of the cost that the target was of.
        skipped: layers that could not be pruned, and why.
    """

    step: Step | None
    kept: dict[str, Tensor]
    widths: dict[str, tuple[int, int]]
    parameters: tuple[int, int]
    macs: tuple[int, int]
    share: float
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return (
            f"{len(self.widths)} layers narrower; parameters {self.parameters[0]:,} -> {self.parameters[1]:,}, "
            f"MACs {self.macs[0]:,} -> {self.macs[1]:,} ({self.macs[0] / max(1, self.macs[1]):.2f}x fewer)"
        )


def prune_channels(
    classifier: Classifier,
    images: Tensor,
    target: Mapping[str, float],
    how: ChannelPruning | None = None,
    batches: Callable[[], Batches] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    rounds: int = 1,
    dense: float | None = None,
    start: float | None = None,
    gradients: Mapping[str, Tensor] | None = None,
) -> ChannelReport:
    """Remove the channels that matter least until the classifier costs what ``target`` says, in place.

    Channels that depend on one another (those of a residual stream, of a depthwise convolution and what feeds it, of
    the heads of an attention) go together. What is left is a network of the same modules, only narrower: it trains,
    exports and is saved as before, and its record of surgery builds it again without torch-pruning. Its parameters stay
    the objects that they were. The logits stay; batch norms should see data afterwards, and weights training.

    Args:
        classifier: on any device; it stays as it is where anything is refused.
        images: a batch that it can take; what is counted and measured is of its first image.
        target: the share that is to be left of ``parameters``, ``macs`` or ``latency``: ``{"macs": 0.5}``.
        how: which channels go.
        batches: gives batches of images and targets anew at each call; the criterion ``taylor`` needs them, or
            ``gradients``.
        loss: of logits and targets, for that criterion.
        rounds: choose in so many steps on the way, each by what the network is by then.
        dense: what the share is of, in parameters, MACs or seconds; by default what the classifier costs now.
        start: the share of that which the classifier has now; by default it is counted, or measured. A time is best
            measured beside another one, so give it for a latency: see :func:`imgrec.compress.share_of`.
        gradients: of the loss, by parameter, where they are known.

    Returns:
        What was done.

    Raises:
        UserError: the target cannot be reached, and what can; the network cannot be traced; a pattern that matches
            nothing, or the classifier's outputs; torch-pruning is not installed.

    Source: Fang et al., 2023, "DepGraph: towards any structural pruning", arXiv 2301.12900.
    """
    how = how or ChannelPruning()
    wanted = parse_target(target)
    if rounds < 1:
        raise UserError(f"rounds: expected 1 or more, got {rounds}")
    if how.importance == "taylor" and batches is None and gradients is None:
        raise UserError("importance: the criterion taylor needs batches of images and targets")
    refuse_rounded(classifier)
    refuse_parametrized(classifier)
    frozen = _frozen_layers(classifier, how)
    before = copy.deepcopy(classifier)
    whole = dense or (1.0 if wanted.kind == "latency" else cost_of(classifier, images, wanted.kind))
    if start is None:
        start = 1.0 if dense is None else cost_of(classifier, images, wanted.kind) / whole
    now = start
    done, skipped = surgical_copy(classifier), dict[str, str]()
    kept: dict[str, Tensor] = {}
    for at in range(1, rounds + 1):
        share = start - (start - wanted.share) * at / rounds
        if how.importance == "taylor" and batches is not None:
            gradients = loss_gradients(done, batches(), loss)
        found = Search(done, images, Target(wanted.kind, share), whole, now, how, frozen, gradients, skipped).run()
        if found is None:
            continue
        step, places, now = found
        resize(done, step, places)
        gradients = gradients and {n: select(g, places[n]) if n in places else g for n, g in gradients.items()}
        kept = {**kept, **{name: _then(kept.get(name), place) for name, place in places.items()}}
    step = widths_step(classifier, done)
    if not step["shapes"]:
        return ChannelReport(None, {}, {}, *_sizes(before, before, images), now, skipped)
    kept = {name: kept[name] for name in step["shapes"]}
    _check_record(before, done, step, images)
    resize(classifier, step, kept)
    note_step(classifier, step)
    return ChannelReport(step, kept, _widths(before, classifier), *_sizes(before, classifier, images), now, skipped)


def _frozen_layers(classifier: Classifier, how: ChannelPruning) -> list[str]:
    """The layers whose outputs the patterns keep; a pattern that matches nothing, or only the outputs, is refused."""
    layers = [name for name, module in classifier.named_modules() if isinstance(module, LAYERS)]
    for place, patterns in (("include", how.include), ("exclude", how.exclude)):
        for pattern in patterns:
            matched = fnmatch.filter(layers, pattern)
            if not matched:
                raise UserError(f'{place}: no layer matches "{pattern}".{suggestion(pattern, layers)}')
            if place == "include" and all(name.split(".")[0] == "head" for name in matched):
                raise UserError(
                    f'include: "{pattern}" is the classifier\'s output, one channel a class, which cannot be pruned'
                )
    return [name for name in layers if any(fnmatch.fnmatch(name, pattern) for pattern in how.exclude)]


def _check_record(before: Classifier, after: nn.Module, step: Step, images: Tensor) -> None:
    """Refuse a network that its record does not build again, before anything is changed."""
    fresh = surgical_copy(before)
    fresh.surgery = []
    again = rebuild(fresh, [json.loads(json.dumps(step))]).cpu().double().eval()
    done = copy.deepcopy(after).cpu().double().eval()
    again.load_state_dict(done.state_dict())
    found = images[:2].cpu()
    with torch.no_grad():
        one, other = again(found), done(found)
        if not torch.allclose(one, other, rtol=1e-6, atol=1e-8, equal_nan=True):
            raise UserError(
                "this network cannot be pruned: it could not be built again from a record of its widths "
                f"(logits differ by {float((one - other).abs().max()):.2g})"
            )
        try:
            with torch.random.fork_rng(devices=[]):  # dropout draws
                done.train()(torch.cat([found, found]))
        except Exception as error:
            raise UserError(
                "this network cannot be pruned: what it does in training alone does not fit any more "
                f"({str(error).partition(chr(10))[0][:200]}); auxiliary classifiers are left out by `auxiliary: false`"
            ) from error


def _then(first: Tensor | None, second: Tensor) -> Tensor:
    return second if first is None else first.flatten()[second]


def _widths(before: nn.Module, after: nn.Module) -> dict[str, tuple[int, int]]:
    ours, theirs = _outputs(before), _outputs(after)
    return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}


def _outputs(model: nn.Module) -> dict[str, int]:
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found[name] = module.out_features
        elif isinstance(module, nn.modules.conv._ConvNd):
            found[name] = module.out_channels
    return found


def _sizes(before: nn.Module, after: nn.Module, images: Tensor) -> tuple[tuple[int, int], tuple[int, int]]:
    first = images[:1].to(next(after.parameters()).device)
    return (
        (count_parameters(before), count_parameters(after)),
        (count_macs(before, first), count_macs(after, first)),
    )
