"""Parameter groups: which parameters decay, how much slower the early layers learn, and what a pattern asks for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import Any, TypeVar, cast

from torch import nn
from torch.nn import Parameter

from imgrec.errors import UserError
from imgrec.optim.rules import GroupRule, ruled
from imgrec.regularizers import norm_and_bias_names

T = TypeVar("T")


def parameter_groups(
    model: nn.Module,
    weight_decay: float = 0.0,
    *,
    decay_norm_and_bias: bool = False,
    lr: float | None = None,
    layer_decay: float | None = None,
    rules: Sequence[GroupRule] = (),
) -> list[dict[str, Any]]:
    """The trainable parameters of a model, grouped as an optimizer takes them.

    Weight decay leaves out biases, normalization layers and other parameters of fewer than two dimensions, and what the
    network's own ``no_weight_decay()`` names or matches (``pos_embed.*``, for example). The rule is that of timm's
    ``param_groups_weight_decay`` and ``param_groups_layer_decay``, wherever in the model the timm network stands.

    Args:
        model: any module; for layer decay one that holds a timm network.
        weight_decay: the weight decay of the parameters that decay.
        decay_norm_and_bias: biases and normalization layers decay too.
        lr: the learning rate of the last layer, which layer decay and rules scale; needed with them only.
        layer_decay: from each layer to the one before it, the learning rate is multiplied by this. The head is the last
            layer.
        rules: what patterns of parameter names ask for; of several that say the same thing, the last one counts.

    Returns:
        Groups with ``params``, ``weight_decay`` and, where there are several, a ``name``: ``decay`` and ``no_decay``,
        with layer decay ``layer_3_decay`` and so on, under a rule ``head:decay``, and each group's own ``lr``. Groups
        that no rule is about come first.

    Raises:
        UserError: no trainable parameter; layer decay on a model without a timm network that says what its layers are;
            a rule whose pattern means nothing.

    Source: layer decay: Clark et al., ELECTRA, 2020, arXiv:2003.10555.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> [(g["name"], len(g["params"]), g["weight_decay"]) for g in parameter_groups(net, 0.05)]
    [('decay', 1, 0.05), ('no_decay', 3, 0.0)]
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise UserError("the model has no trainable parameter: is all of it frozen?")
    layers = layer_numbers(model) if layer_decay is not None else {}
    last = max(layers.values(), default=0)
    kept = set(_network_exemptions(model))
    small = norm_and_bias_names(model)
    asked = ruled(model, rules)
    sorted_in: dict[tuple[tuple[int, ...], int, float], list[Parameter]] = defaultdict(list)
    for name, parameter in trainable.items():
        applied = asked.get(name, ())
        decay = _last([rules[i].weight_decay for i in applied], weight_decay)
        everything = _last([rules[i].decay_norm_and_bias for i in applied], decay_norm_and_bias)
        exempt = name in kept or (name in small and not everything)
        sorted_in[applied, layers.get(name, last), 0.0 if exempt else decay].append(parameter)
    groups: list[dict[str, Any]] = []
    for (applied, layer, decay), parameters in sorted(sorted_in.items(), key=lambda i: (i[0][0], i[0][1], -i[0][2])):
        group: dict[str, Any] = {"params": parameters, "weight_decay": decay}
        if len(sorted_in) > 1:
            kind = "decay" if decay else "no_decay"
            name = kind if layer_decay is None else f"layer_{layer}_{kind}" if weight_decay else f"layer_{layer}"
            group["name"] = ":".join([*(rules[i].label for i in applied), name])
        factor = _last([rules[i].lr_factor for i in applied], 1.0)
        if lr is not None and (layer_decay is not None or factor != 1.0):
            group["lr"] = lr * (1.0 if layer_decay is None else layer_decay ** (last - layer)) * factor
        for i in applied:
            group |= rules[i].options
        groups.append(group)
    return groups


def _last(asked: Sequence[T | None], otherwise: T) -> T:
    """What the last rule says that says anything."""
    return next((each for each in reversed(asked) if each is not None), otherwise)


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """For each parameter the number of its layer, counted from the input as the timm network inside counts them.

    What stands outside the timm network, the head, belongs to the last layer, where timm puts its own classifier.

    Raises:
        UserError: there is no timm network inside that says what its layers are.
    """
    from timm.models import group_parameters

    found = next(((n, m) for n, m in model.named_modules() if callable(getattr(m, "group_matcher", None))), None)
    if found is None:
        raise UserError(
            "`layer_decay` needs a backbone that says what its layers are, as timm's do (`group_matcher`); "
            "this one does not."
        )
    prefix, network = (f"{found[0]}." if found[0] else ""), found[1]
    classifier = (getattr(network, "pretrained_cfg", None) or {}).get("classifier") or "head"
    classifier = classifier if isinstance(classifier, str) else classifier[0]
    inside = {
        (name.removeprefix(prefix) if name.startswith(prefix) else f"{classifier}.{name}"): name
        for name, _ in model.named_parameters()
    }
    matcher: Any = network.group_matcher
    numbers = group_parameters(cast(Any, _Named(inside)), matcher(coarse=False), reverse=True)
    return {inside[name]: int(number) for name, number in numbers.items()}


class _Named:
    """What timm asks of a module here: names of parameters. The parameters themselves do not matter."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def named_parameters(self) -> Iterator[tuple[str, None]]:
        return ((name, None) for name in self.names)


def _network_exemptions(model: nn.Module) -> Iterator[str]:
    """Yield the parameters that match a pattern of ``no_weight_decay()`` of the outermost modules that have it.

    timm asks the network alone and matches with wildcards: ``pos_embed.*`` of XCiT. A block inside a network may have
    the method, too, as the cross-covariance attention of XCiT does for its temperature; timm does not ask it.
    """
    names = [name for name, _ in model.named_parameters()]
    found: list[str] = []
    for path, module in model.named_modules():
        exempt = getattr(module, "no_weight_decay", None)
        if callable(exempt) and not any(path.startswith(outer) for outer in found):
            prefix = f"{path}." if path else ""
            found.append(prefix)
            patterns = list(exempt())
            inside = (name for name in names if name.startswith(prefix))
            yield from (n for n in inside if any(fnmatch(n.removeprefix(prefix), pattern) for pattern in patterns))
