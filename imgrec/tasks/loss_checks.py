"""What a loss needs of the network and of the data, refused before anything is trained."""

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
    """Refuse a loss that is made for another head: its class names one in ``needs_head``.

    Such a class may also have a static method ``check_head``, which is given the head's arguments and raises UserError.

    Args:
        losses: the specs of one loss or several.
        head: the spec of the head.
        backbone: the spec of the backbone, whose auxiliary classifiers have heads of their own.
        where: the place in the config that holds them.

    Raises:
        SpecError: it names the loss, the head that it needs, and the one that is there.
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
                f'{place}: {name} is made for the head "{needed}", and {head_where} is {head_name}: '
                f"give `head: {needed}`, or another loss."
            )
        trunk, options = BACKBONES.parse(backbone)
        auxiliary = BACKBONES.entry(trunk).parameters.get("auxiliary")
        if auxiliary is not None and options.get("auxiliary", auxiliary.default):
            raise SpecError(
                f'{place}: {name} is made for the head "{needed}", and the auxiliary classifiers of {trunk} have '
                "others: give the backbone `auxiliary: false`."
            )
        check = getattr(factory, "check_head", None)
        if check is not None:
            try:
                check(**arguments)
            except UserError as error:
                raise SpecError(f"{head_where}: {name}: {error}") from error


def refuse_other_scale(loss: nn.Module, network: nn.Module, head_where: str = "model.head") -> None:
    """Refuse a cosine head that was given another fixed scale by the weights it started from than by its spec.

    A checkpoint would be loaded into a loss of the spec's scale later.
    """
    head = getattr(network, "head", None)
    margins = [each for _, each in parts_of(loss) if getattr(each, "needs_head", None) == "cosine"]
    if margins and isinstance(head, CosineHead):
        found = math.exp(float(head.log_scale))
        if not math.isclose(found, head.scale, rel_tol=1e-4):
            raise UserError(
                f"{head_where}: the weights to start from bring a scale of {found:g}, and the margin would be measured "
                f"by {head.scale:g}: give `scale: {found:g}`."
            )


def refuse_mixed_targets(
    loss: nn.Module, mix: Mix | None, num_classes: int, device: torch.device, where: str = "model.loss"
) -> None:
    """Refuse a loss that takes class indices only where the data mixes images; it is tried out on a copy.

    Every registered loss takes class probabilities; others, such as those of ``torch.nn``, may not.

    Raises:
        UserError: it names the loss and what mixes.
    """
    if mix is None:
        return
    registered = tuple(entry.factory for entry in LOSSES if isinstance(entry.factory, type))
    for name, part in parts_of(loss):
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
                f"{where}: {name or type(part).__name__} does not take class probabilities ({reason}), and "
                f"data.train_transforms mixes images ({type(mix).__name__}): leave the mixing away, or take a loss of "
                "`imgrec list losses`, each of which takes them."
            ) from error


def refuse_mixing(specs: Specs, mix: Mix | None, where: str = "model.loss") -> None:
    """Refuse a loss that takes class indices only together with mixing, before the data is known.

    The loss is built and tried out for two classes. One that needs more of the data than that is left to
    :func:`refuse_mixed_targets`.

    Args:
        specs: The specs of one loss or several.
        mix: What mixes the images of a batch, if anything does.
        where: The place in the config, for the message.

    Raises:
        UserError: If the loss takes class indices and no class probabilities.
    """
    if mix is None:
        return
    facts = {"num_classes": 2, "class_counts": (1, 1), "class_names": ("0", "1"), "feature_dim": 2}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            loss = build_loss(specs, where, **facts)
            copy.deepcopy(loss)(torch.zeros(2, 2), torch.tensor([0, 1]))
    except Exception:  # whatever a loss raises for data of another kind
        return
    refuse_mixed_targets(loss, mix, 2, torch.device("cpu"), where)


def parts_of(loss: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The losses of a sum by their names, or the one loss without a name."""
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
