"""Depth pruning: whole residual blocks go, the simple strong baseline of structured pruning."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.compress.profiling import count_macs, count_parameters
from imgrec.compress.pruning.channel_importance import Batches
from imgrec.compress.pruning.targets import Target, cost_of, parse_target, share_of
from imgrec.compress.surgery import Step, note_step, refuse_parametrized, refuse_rounded, surgical, surgical_copy
from imgrec.errors import UserError, suggestion
from imgrec.models.utils.forward import evaluating
from imgrec.utils.vectors import unit_length

BlockCriterion = Literal["influence", "divergence", "loss"]


class Skip(nn.Identity):
    """What a removed block leaves in its place: its input, whatever else it is given."""

    def forward(self, input: Tensor, *_: Any, **__: Any) -> Tensor:
        """The input."""
        return input


@surgical("blocks", merge=lambda first, second: {"step": "blocks", "removed": [*first["removed"], *second["removed"]]})
def remove_blocks(model: nn.Module, step: Mapping[str, Any]) -> nn.Module:
    """Put a :class:`Skip` in the place of every block that a step ``blocks`` names, in place.

    Raises:
        UserError: the model has no such block.
    """
    names = step.get("removed")
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError("a step `blocks` needs `removed`, a list of names")
    modules = dict(model.named_modules())
    for name in names:
        if not name or name not in modules or isinstance(modules[name], Skip):
            raise UserError(f'the network has no block "{name}"')
    for name in names:
        _put(model, name, Skip())
    return model


@dataclass(frozen=True)
class BlockReport:
    """What depth pruning did.

    Attributes:
        step: the surgical step, as it stands in the model's record; ``None`` where nothing was to be done.
        removed: the names of the blocks that went, the first one first, with what each was found to be worth.
        blocks: how many there were.
        parameters: before and after.
        macs: of one image, before and after.
        share: what is left of the cost that the target was of.
    """

    step: Step | None
    removed: dict[str, float]
    blocks: int
    parameters: tuple[int, int]
    macs: tuple[int, int]
    share: float

    def __str__(self) -> str:
        return (
            f"{len(self.removed)} of {self.blocks} blocks removed; parameters {self.parameters[0]:,} -> "
            f"{self.parameters[1]:,}, MACs {self.macs[0]:,} -> {self.macs[1]:,} "
            f"({self.macs[0] / max(1, self.macs[1]):.2f}x fewer)"
        )


def drop_blocks(
    model: nn.Module,
    images: Tensor,
    target: Mapping[str, float],
    batches: Callable[[], Batches] | None = None,
    importance: BlockCriterion | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
    dense: float | None = None,
    start: float | None = None,
) -> BlockReport:
    """Remove the residual blocks that matter least until the model costs what ``target`` says, in place.

    A block can go where it gives its input plus something: what is left is the input. Blocks are removed one after the
    other, each chosen by what it is worth in the network that is left by then:

    - ``influence``: how far a block turns its input, 1 minus their mean cosine, over the images; one pass for all.
    - ``divergence``: how far the probabilities of the classes move without it (Kullback-Leibler); one pass a block.
    - ``loss``: how much the loss is without it; one pass a block, and targets are needed.

    Args:
        model: images in, logits out; it stays as it is where anything is refused.
        images: a batch; ``influence`` and ``divergence`` look at all of it, costs are of its first image.
        target: the share that is to be left of ``parameters``, ``macs`` or ``latency``: ``{"macs": 0.5}``.
        batches: gives batches of images and targets anew at each call, to be looked at in the place of ``images``.
        importance: see above; by default ``loss`` where there are ``batches``, else ``influence``.
        loss: of logits and targets.
        dense: what the share is of, in parameters, MACs or seconds; by default what the model costs now.
        start: the share of that which the model has now; by default it is counted, or measured.

    Raises:
        UserError: the model has no residual block, or too few for the target, and what can be reached.

    Source: Men et al., 2024, "ShortGPT: layers in large language models are more redundant than you expect", arXiv
    2403.03853 (influence); Veit et al., 2016, "Residual networks behave like ensembles of relatively shallow networks",
    arXiv 1605.06431 (blocks that go without training).
    """
    importance = importance or ("influence" if batches is None else "loss")
    refuse_rounded(model)
    refuse_parametrized(model)
    _check(importance, batches)
    wanted = parse_target(target)
    work = surgical_copy(model).eval()
    timed = wanted.kind == "latency"
    whole = dense or (1.0 if timed else cost_of(work, images, wanted.kind))
    device = next(model.parameters()).device
    found = residual_blocks(work, images[:2].to(device))
    left, removed = list(found), dict[str, float]()
    if start is None:
        start = 1.0 if dense is None else cost_of(work, images, wanted.kind) / whole
    share = start
    data: Callable[[], Batches] = batches or (lambda: [(images, torch.empty(0))])
    while share > wanted.share:
        if not left:
            raise UserError(_unreachable(wanted, share, len(found)))
        worth = _worth(work, left, importance, data, loss)
        name = min(left, key=lambda each: worth[each])
        left.remove(name)
        removed[name] = worth[name]
        remove_blocks(work, {"removed": [name]})
        share = (
            start * share_of(work, model, images, "latency") if timed else cost_of(work, images, wanted.kind) / whole
        )
    first = images[:1].to(device)
    before = count_parameters(model), count_macs(model, first)
    step: Step | None = {"step": "blocks", "removed": list(removed)} if removed else None
    if step is not None:
        remove_blocks(model, json.loads(json.dumps(step)))
        note_step(model, step)
    after = count_parameters(model), count_macs(model, first)
    return BlockReport(step, removed, len(found), (before[0], after[0]), (before[1], after[1]), share)


def residual_blocks(model: nn.Module, images: Tensor) -> list[str]:
    """The names of the blocks that give their input plus something, found by looking at what they do.

    One is found where it gives back exactly its input once all of its weights are zero; of blocks inside blocks, the
    innermost. The model stays as it is.

    Args:
        model: any network.
        images: a batch that it can take.

    >>> from imgrec.models import BACKBONES
    >>> residual_blocks(BACKBONES.build("resnet18", "", image_size=32), torch.rand(1, 3, 32, 32))[:2]
    ['network.layer1.0', 'network.layer1.1']
    """
    inputs = _single_inputs(model, images)
    modules = dict(model.named_modules())
    found: list[str] = []
    for name in sorted(inputs, key=lambda each: -each.count(".")):
        inside = any(other.startswith(f"{name}.") for other in found)
        if not inside and _is_residual(modules[name], inputs[name]):
            found.append(name)
    order = list(modules)
    return sorted(found, key=order.index)


@torch.no_grad()
def _single_inputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What every module with modules and parameters inside is given, where that is a tensor of the shape it gives."""
    inputs: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(_: nn.Module, given: tuple[Any, ...], gives: Any) -> None:
            tensors = len(given) > 0 and isinstance(given[0], Tensor) and isinstance(gives, Tensor)
            if tensors and given[0].shape == gives.shape:
                inputs[name] = given[0].detach().clone()

        return look

    composed = [
        (name, module)
        for name, module in model.named_modules()
        if name and next(module.children(), None) is not None and next(module.parameters(), None) is not None
    ]
    hooks = [module.register_forward_hook(watch(name)) for name, module in composed]
    try:
        with evaluating(model):
            model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return inputs


@torch.no_grad()
def _is_residual(module: nn.Module, given: Tensor) -> bool:
    silent = surgical_copy(module).eval()
    for parameter in silent.parameters():
        parameter.zero_()
    try:
        return torch.equal(silent(given), given)
    except Exception:  # it wants more than a tensor, and so cannot stand alone
        return False


def _worth(
    model: nn.Module,
    names: list[str],
    importance: BlockCriterion,
    batches: Callable[[], Batches],
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, float]:
    sums = dict.fromkeys(names, 0.0)
    count = 0
    device = next(model.parameters()).device
    with torch.no_grad(), evaluating(model):
        for images, targets in batches():
            images, targets = images.to(device), targets.to(device)
            count += len(images)
            if importance == "influence":
                found = _influences(model, names, images)
            else:
                whole = model(images).log_softmax(1)
                found = {}
                for name in names:
                    with _without(model, name):
                        logits = model(images)
                    apart = F.kl_div(logits.log_softmax(1), whole, reduction="batchmean", log_target=True)
                    found[name] = float(apart if importance == "divergence" else loss(logits, targets))
            for name, value in found.items():
                sums[name] += value * len(images)
    if not count:
        raise UserError("dropping blocks needs images to judge them by, and there is none")
    return {name: value / count for name, value in sums.items()}


def _influences(model: nn.Module, names: list[str], images: Tensor) -> dict[str, float]:
    found: dict[str, float] = {}

    def watch(name: str) -> Callable[..., None]:
        def look(_: nn.Module, given: tuple[Any, ...], gives: Tensor) -> None:
            cosine = (unit_length(given[0].flatten(1).float()) * unit_length(gives.flatten(1).float())).sum(1)
            found[name] = 1 - float(cosine.mean())

        return look

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(watch(name)) for name in names]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def _without(model: nn.Module, name: str) -> Any:
    block = dict(model.named_modules())[name]
    _put(model, name, Skip())
    try:
        yield
    finally:
        _put(model, name, block)


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _check(importance: str, batches: object) -> None:
    accepted = get_args(BlockCriterion)
    if importance not in accepted:
        raise UserError(
            f'importance: there is no criterion "{importance}".{suggestion(importance, accepted)} '
            f"Accepted: {', '.join(accepted)}."
        )
    if importance == "loss" and batches is None:
        raise UserError("importance: the criterion loss needs batches of images and targets")


def _unreachable(target: Target, share: float, blocks: int) -> str:
    if not blocks:
        return "this network has no residual block that could be removed: none gives its input plus something"
    return (
        f"target: {target} cannot be reached by removing blocks; the least that can be is {share:.3g}, without any of "
        f"its {blocks} blocks"
    )
