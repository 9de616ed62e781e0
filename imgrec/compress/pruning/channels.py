"""Structured pruning: removal of whole channels."""

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
from imgrec.compress.pruning.channel_search import LAYERS, ChannelPruning, ChannelSearch
from imgrec.compress.pruning.targets import CostTarget, cost_of, parse_target
from imgrec.compress.pruning.widths import resize, select, widths_step
from imgrec.compress.surgery import Step, note_step, rebuild, refuse_parametrized, refuse_quantized, surgical_copy
from imgrec.errors import UserError, suggestion
from imgrec.models import Classifier
from imgrec.utils.ranges import PositiveInt, check_ranges


@dataclass(frozen=True)
class ChannelReport:
    """Result of structured pruning.

    Attributes:
        step: Step in the surgery record of the classifier, or ``None`` if no channel was removed.
        kept: Indices of the remaining values of each parameter and buffer that was pruned. They are indices into the
            flattened old tensor, in the new shape. See :func:`imgrec.compress.select`.
        widths: Number of outputs before and after of each layer that was pruned.
        parameters: Number of parameters before and after.
        macs: Multiply-accumulates per image before and after.
        share: Remaining share of the cost of the target.
        skipped: Layers that could not be pruned, each with the reason.
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
            f"{len(self.widths)} layers narrower: parameters {self.parameters[0]:,} -> {self.parameters[1]:,}, "
            f"MACs {self.macs[0]:,} -> {self.macs[1]:,} ({self.macs[0] / max(1, self.macs[1]):.2f}x fewer)"
        )


@check_ranges
def prune_channels(
    classifier: Classifier,
    images: Tensor,
    target: Mapping[str, float],
    config: ChannelPruning | None = None,
    batches: Callable[[], Batches] | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    rounds: PositiveInt = 1,
    dense: float | None = None,
    start: float | None = None,
    gradients: Mapping[str, Tensor] | None = None,
) -> ChannelReport:
    """Remove the least important channels until the classifier reaches a target cost, in place.

    Channels that depend on each other are removed together. Examples are those of a residual stream, of a depthwise
    convolution and its input, or of attention heads. The result has the same modules with smaller widths. Training,
    export and saving work as before. Its surgery record rebuilds it without torch-pruning, and its parameters remain
    the same objects. Update the statistics of batch normalization and fine-tune the weights afterwards.

    Args:
        classifier: Classifier on any device. It is unchanged after an error.
        images: Batch of valid input. Costs are measured on its first image.
        target: Remaining share of ``parameters``, ``macs`` or ``latency``, for example ``{"macs": 0.5}``.
        config: Selection of the channels. Defaults to :class:`ChannelPruning` with its defaults.
        batches: Function that returns batches of images and targets. The criterion ``taylor`` requires it or
            ``gradients``.
        loss: Loss of logits and targets for ``taylor``. Defaults to cross-entropy.
        rounds: Number of rounds, 1 or more. The importance is computed again in each round. Defaults to 1.
        dense: Reference cost in parameters, MACs or seconds. Defaults to the cost of the classifier.
        start: Share of the reference cost that the classifier has. Defaults to a measurement. For a latency, give a
            paired measurement, see :func:`imgrec.compress.share_of`.
        gradients: Gradients of the loss by parameter name, if available.

    Returns:
        Report of the removed channels and the costs before and after.

    Raises:
        UserError: If the target cannot be reached, the network cannot be traced, a pattern is invalid, or torch-pruning
            is not installed.

    Source: Fang et al., 2023, "DepGraph: towards any structural pruning", arXiv 2301.12900.
    """
    config = config or ChannelPruning()
    final = parse_target(target)
    if config.importance == "taylor" and batches is None and gradients is None:
        raise UserError("importance: the criterion taylor requires batches of images and targets")
    refuse_quantized(classifier)
    refuse_parametrized(classifier)
    frozen = _frozen_layers(classifier, config)
    before = copy.deepcopy(classifier)
    whole = dense or (1.0 if final.kind == "latency" else cost_of(classifier, images, final.kind))
    if start is None:
        start = 1.0 if dense is None else cost_of(classifier, images, final.kind) / whole
    now = start
    done, skipped = surgical_copy(classifier), dict[str, str]()
    kept: dict[str, Tensor] = {}
    for at in range(1, rounds + 1):
        share = start - (start - final.share) * at / rounds
        if config.importance == "taylor" and batches is not None:
            gradients = loss_gradients(done, batches(), loss)
        goal = CostTarget(final.kind, share)
        found = ChannelSearch(done, images, goal, whole, now, config, frozen, gradients, skipped).run()
        if found is None:
            continue
        step, places, now = found
        resize(done, step, places)
        gradients = gradients and {n: select(g, places[n]) if n in places else g for n, g in gradients.items()}
        kept = {**kept, **{name: _compose(kept.get(name), place) for name, place in places.items()}}
    step = widths_step(classifier, done)
    if not step["shapes"]:
        return ChannelReport(None, {}, {}, *_sizes(before, before, images), now, skipped)
    kept = {name: kept[name] for name in step["shapes"]}
    _check_record(before, done, step, images)
    resize(classifier, step, kept)
    note_step(classifier, step)
    return ChannelReport(step, kept, _widths(before, classifier), *_sizes(before, classifier, images), now, skipped)


def _frozen_layers(classifier: Classifier, config: ChannelPruning) -> list[str]:
    """Return the layers whose outputs are not pruned.

    Raises:
        UserError: If a pattern matches no layer or only the output layer.
    """
    layers = [name for name, module in classifier.named_modules() if isinstance(module, LAYERS)]
    for place, patterns in (("include", config.include), ("exclude", config.exclude)):
        for pattern in patterns:
            matched = fnmatch.filter(layers, pattern)
            if not matched:
                raise UserError(f'{place}: no layer matches "{pattern}".{suggestion(pattern, layers)}')
            if place == "include" and all(name.split(".")[0] == "head" for name in matched):
                raise UserError(f'include: "{pattern}" is the output layer of the classifier, which cannot be pruned.')
    return [name for name in layers if any(fnmatch.fnmatch(name, pattern) for pattern in config.exclude)]


def _check_record(before: Classifier, after: nn.Module, step: Step, images: Tensor) -> None:
    """Raise if the record does not rebuild the pruned network, before anything is changed.

    Raises:
        UserError: If it does not, or if the pruned network fails in training mode.
    """
    fresh = surgical_copy(before)
    fresh.surgery = []
    rebuilt = rebuild(fresh, [json.loads(json.dumps(step))]).cpu().double().eval()
    done = copy.deepcopy(after).cpu().double().eval()
    rebuilt.load_state_dict(done.state_dict())
    found = images[:2].cpu()
    with torch.no_grad():
        one, other = rebuilt(found), done(found)
        if not torch.allclose(one, other, rtol=1e-6, atol=1e-8, equal_nan=True):
            raise UserError(
                "this network cannot be pruned: it cannot be rebuilt from a record of its widths "
                f"(logits differ by {float((one - other).abs().max()):.2g})"
            )
        try:
            with torch.random.fork_rng(devices=[]):  # dropout draws
                done.train()(torch.cat([found, found]))
        except Exception as error:
            raise UserError(
                "this network cannot be pruned: it raises an error in training mode "
                f"({str(error).partition(chr(10))[0][:200]}). Disable auxiliary classifiers with `auxiliary: false`."
            ) from error


def _compose(first: Tensor | None, second: Tensor) -> Tensor:
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
