"""Checks that a loss matches the head of the model and the targets of the data, before training."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from imgrec.augment import Mix
from imgrec.errors import SpecError, UserError
from imgrec.losses import LOSSES, WeightedSum, build_loss
from imgrec.models import BACKBONES, HEADS, CosineHead
from imgrec.registry import Spec, Specs


def check_head_of_loss(losses: Specs, head: Spec, backbone: Spec, where: str = "model") -> None:
    """Check that the head is the one that each loss requires in its attribute ``needs_head``.

    A loss with this attribute may have a static method ``check_head(**arguments)``, which raises UserError for wrong
    arguments of the head.

    Args:
        losses: Specs of one loss or several.
        head: Spec of the head.
        backbone: Spec of the backbone, whose auxiliary classifiers have separate heads.
        where: Location of the specs in the config. Defaults to ``model``.

    Raises:
        SpecError: If a loss requires another head.
    """
    where, head_where = f"{where}.loss", f"{where}.head"
    for place, spec in [(where, losses)] if not isinstance(losses, list) else _numbered(losses, where):
        name, _ = LOSSES.parse(spec, place)
        factory: Any = LOSSES.entry(name, place).factory
        needed = getattr(factory, "needs_head", None)
        if needed is None:
            continue
        head_name, arguments = HEADS.parse(head, head_where)
        given = HEADS.entry(head_name, head_where).factory
        if not (isinstance(given, type) and issubclass(given, _class_of(needed))):
            raise SpecError(
                f'{place}: {name} requires the head "{needed}", and {head_where} is {head_name}. '
                f"Use `head: {needed}` or another loss."
            )
        trunk, options = BACKBONES.parse(backbone)
        auxiliary = BACKBONES.entry(trunk).parameters.get("auxiliary")
        if auxiliary is not None and options.get("auxiliary", auxiliary.default):
            raise SpecError(
                f'{place}: {name} requires the head "{needed}", and the auxiliary classifiers of {trunk} have '
                "others. Set `auxiliary: false` in the backbone."
            )
        check = getattr(factory, "check_head", None)
        if check is not None:
            try:
                check(**arguments)
            except UserError as error:
                raise SpecError(f"{head_where}: {name}: {error}") from error


def check_cosine_scale(loss: nn.Module, network: nn.Module, head_where: str = "model.head") -> None:
    """Check that initial weights did not change the fixed scale of a cosine head for a margin loss.

    The loss has the scale of the spec, also when a checkpoint is loaded later.

    Raises:
        UserError: If the scale of the head differs from the scale of its spec.
    """
    head = getattr(network, "head", None)
    margins = [each for _, each in loss_parts(loss) if getattr(each, "needs_head", None) == "cosine"]
    if margins and isinstance(head, CosineHead):
        found = math.exp(float(head.log_scale))
        if not math.isclose(found, head.scale, rel_tol=1e-4):
            raise UserError(
                f"{head_where}.scale: expected {found:g}, the scale of the initial weights, got {head.scale:g}. "
                f"Set `scale: {found:g}`."
            )


def check_mixed_targets(
    loss: nn.Module, mix: Mix | None, num_classes: int, device: torch.device, where: str = "model.loss"
) -> None:
    """Check that a loss accepts class probabilities if the data mixes images, by a call of a copy of the loss.

    Every registered loss accepts class probabilities. Others, such as those of ``torch.nn``, may not.

    Args:
        loss: Loss.
        mix: Augmentation that mixes the images of a batch, or None.
        num_classes: Number of classes.
        device: Device of the loss.
        where: Location of the loss in the config, for the message. Defaults to ``model.loss``.

    Raises:
        UserError: If the loss raises an error for class probabilities.
    """
    if mix is None:
        return
    registered = tuple(entry.factory for entry in LOSSES if isinstance(entry.factory, type))
    for name, part in loss_parts(loss):
        if type(part) in registered:
            continue
        logits = torch.zeros(2, num_classes, device=device)
        shares = torch.full_like(logits, 1 / num_classes)
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                copy.deepcopy(part)(logits, shares)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"{where}: {name or type(part).__name__} does not accept class probabilities ({reason}), and "
                f"data.train_transforms mixes images ({type(mix).__name__}). Remove the mixing, or use a loss of "
                "`imgrec list losses`."
            ) from error


def check_mixing(specs: Specs, mix: Mix | None, where: str = "model.loss") -> None:
    """Check that a loss accepts the targets of mixed images before the data is available.

    The loss is built and called for two classes. A loss that requires more facts of the data is checked later by
    :func:`check_mixed_targets`.

    Args:
        specs: Specs of one loss or several.
        mix: Augmentation that mixes the images of a batch, or None.
        where: Location in the config, for the message. Defaults to ``model.loss``.

    Raises:
        UserError: If the loss accepts class indices only.
    """
    if mix is None:
        return
    facts = {"num_classes": 2, "class_counts": (1, 1), "class_names": ("0", "1"), "feature_dim": 2}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            loss = build_loss(specs, where, **facts)
            copy.deepcopy(loss)(torch.zeros(2, 2), torch.tensor([0, 1]))
    except Exception:  # a loss may raise any error for other data
        return
    check_mixed_targets(loss, mix, 2, torch.device("cpu"), where)


def loss_parts(loss: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield name and loss of each term of a sum, or the single loss with an empty name."""
    if isinstance(loss, WeightedSum):
        yield from zip(loss.names, loss.losses, strict=True)
    else:
        yield "", loss


def _numbered(specs: list[Spec], where: str) -> list[tuple[str, Spec]]:
    return [(f"{where}[{i}]", spec) for i, spec in enumerate(specs)]


def _class_of(head: str) -> type:
    found = HEADS.entry(head).factory
    assert isinstance(found, type)
    return found
