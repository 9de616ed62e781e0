"""Depth pruning: removal of whole residual blocks, a strong baseline of structured pruning."""

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
from imgrec.compress.pruning.targets import CostTarget, cost_of, parse_target, share_of
from imgrec.compress.surgery import Step, note_step, refuse_parametrized, refuse_quantized, surgical, surgical_copy
from imgrec.errors import UserError, suggestion
from imgrec.models.utils.forward import evaluating
from imgrec.utils.vectors import unit_length

BlockCriterion = Literal["influence", "divergence", "loss"]


class Skip(nn.Identity):
    """Replacement of a removed block, which returns its first argument and ignores the others."""

    def forward(self, input: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the input."""
        return input


@surgical("blocks", merge=lambda first, second: {"step": "blocks", "removed": [*first["removed"], *second["removed"]]})
def remove_blocks(model: nn.Module, step: Mapping[str, Any]) -> nn.Module:
    """Replace the blocks of a step ``blocks`` by :class:`Skip`, in place.

    Raises:
        UserError: If the model does not have one of the blocks.
    """
    names = step.get("removed")
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise UserError(f"blocks.removed: expected a list of names, got {names!r}.")
    modules = dict(model.named_modules())
    for name in names:
        if not name or name not in modules or isinstance(modules[name], Skip):
            raise UserError(f'the network has no block "{name}"')
    for name in names:
        _put(model, name, Skip())
    return model


@dataclass(frozen=True)
class BlockReport:
    """Result of depth pruning.

    Attributes:
        step: Step in the surgery record of the model, or ``None`` if no block was removed.
        removed: Importance of the removed blocks by name, in the order of removal.
        blocks: Number of blocks before.
        parameters: Number of parameters before and after.
        macs: Multiply-accumulates per image before and after.
        share: Remaining share of the cost of the target.
    """

    step: Step | None
    removed: dict[str, float]
    blocks: int
    parameters: tuple[int, int]
    macs: tuple[int, int]
    share: float

    def __str__(self) -> str:
        return (
            f"{len(self.removed)} of {self.blocks} blocks removed: parameters {self.parameters[0]:,} -> "
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
    """Remove the least important residual blocks until the model reaches a target cost, in place.

    A residual block adds a correction to its input. Its removal leaves the input. Blocks are removed one by one. The
    importance is computed again after each removal:

    - ``influence``: 1 minus the mean cosine similarity of input and output. Requires one forward pass for all blocks.
    - ``divergence``: Kullback-Leibler divergence of the probabilities without the block. Requires a pass per block.
    - ``loss``: Loss without the block. Requires a pass per block, and targets.

    Args:
        model: Classifier or any network from images to logits. It is unchanged after an error.
        images: Batch of images for ``influence`` and ``divergence``. Costs are measured on its first image.
        target: Remaining share of ``parameters``, ``macs`` or ``latency``, for example ``{"macs": 0.5}``.
        batches: Function that returns batches of images and targets, used instead of ``images``. Defaults to none.
        importance: Criterion of blocks. Defaults to ``loss`` if ``batches`` is given, otherwise to ``influence``.
        loss: Loss of logits and targets. Defaults to cross-entropy.
        dense: Reference cost in parameters, MACs or seconds. Defaults to the cost of the model.
        start: Share of the reference cost that the model has. Defaults to a measurement.

    Raises:
        UserError: If the model has no residual block, or if the target cannot be reached.

    Source: Men et al., 2024, "ShortGPT: layers in large language models are more redundant than you expect", arXiv
    2403.03853 (influence); Veit et al., 2016, "Residual networks behave like ensembles of relatively shallow networks",
    arXiv 1605.06431 (blocks that go without training).
    """
    importance = importance or ("influence" if batches is None else "loss")
    refuse_quantized(model)
    refuse_parametrized(model)
    _check(importance, batches)
    goal = parse_target(target)
    work = surgical_copy(model).eval()
    timed = goal.kind == "latency"
    whole = dense or (1.0 if timed else cost_of(work, images, goal.kind))
    device = next(model.parameters()).device
    found = residual_blocks(work, images[:2].to(device))
    left, removed = list(found), dict[str, float]()
    if start is None:
        start = 1.0 if dense is None else cost_of(work, images, goal.kind) / whole
    share = start
    data: Callable[[], Batches] = batches or (lambda: [(images, torch.empty(0))])
    while share > goal.share:
        if not left:
            raise UserError(_unreachable(goal, share, len(found)))
        scores = _importances(work, left, importance, data, loss)
        name = min(left, key=lambda each: scores[each])
        left.remove(name)
        removed[name] = scores[name]
        remove_blocks(work, {"removed": [name]})
        share = start * share_of(work, model, images, "latency") if timed else cost_of(work, images, goal.kind) / whole
    first = images[:1].to(device)
    before = count_parameters(model), count_macs(model, first)
    step: Step | None = {"step": "blocks", "removed": list(removed)} if removed else None
    if step is not None:
        remove_blocks(model, json.loads(json.dumps(step)))
        note_step(model, step)
    after = count_parameters(model), count_macs(model, first)
    return BlockReport(step, removed, len(found), (before[0], after[0]), (before[1], after[1]), share)


def residual_blocks(model: nn.Module, images: Tensor) -> list[str]:
    """Return the names of the residual blocks of a network, detected by their behavior.

    A module is a residual block if it returns its input after all its parameters are set to zero. Of nested blocks, the
    innermost one is returned. The model is not changed.

    Args:
        model: Network.
        images: Batch of valid input.

    Example:
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
    """Return the inputs of all composite modules whose first input and output are tensors of the same shape."""
    inputs: dict[str, Tensor] = {}

    def make_hook(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            are_tensors = len(args) > 0 and isinstance(args[0], Tensor) and isinstance(output, Tensor)
            if are_tensors and args[0].shape == output.shape:
                inputs[name] = args[0].detach().clone()

        return hook

    composed = [
        (name, module)
        for name, module in model.named_modules()
        if name and next(module.children(), None) is not None and next(module.parameters(), None) is not None
    ]
    hooks = [module.register_forward_hook(make_hook(name)) for name, module in composed]
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
    except Exception:  # it requires further arguments and cannot run alone
        return False


def _importances(
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
        raise UserError("batches: expected at least one batch of images, got none.")
    return {name: value / count for name, value in sums.items()}


def _influences(model: nn.Module, names: list[str], images: Tensor) -> dict[str, float]:
    found: dict[str, float] = {}

    def make_hook(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
            cosine = (unit_length(args[0].flatten(1).float()) * unit_length(output.flatten(1).float())).sum(1)
            found[name] = 1 - float(cosine.mean())

        return hook

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(make_hook(name)) for name in names]
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
        raise UserError("importance: the criterion loss requires batches of images and targets")


def _unreachable(target: CostTarget, share: float, blocks: int) -> str:
    if not blocks:
        return "this network has no residual block to remove."
    return (
        f"target: {target} cannot be reached by removing blocks. {share:.3g} remain without all of its {blocks} blocks."
    )
