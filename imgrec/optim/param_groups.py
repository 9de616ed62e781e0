"""Parameter groups: weight decay exemptions, layer-wise learning-rate decay and rules of patterns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from typing import Any, TypeVar, cast

from torch import nn
from torch.nn import Parameter

from imgrec.errors import UserError
from imgrec.optim.rules import GroupRule, rules_by_parameter
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
    """Return the trainable parameters of a model as groups for an optimizer.

    Weight decay excludes biases, normalization layers and other parameters of fewer than two dimensions. It also
    excludes the names and patterns of the network's ``no_weight_decay()``, for example ``pos_embed.*``. The rule is
    that of ``param_groups_weight_decay`` and ``param_groups_layer_decay`` in timm, for a timm network at any depth of
    the model.

    Args:
        model: Module. Layer decay requires one that contains a timm network.
        weight_decay: Weight decay of the parameters that are not excluded. Defaults to 0.
        decay_norm_and_bias: ``True`` applies weight decay to biases and normalization layers, too. Defaults to
            ``False``.
        lr: Learning rate of the last layer, which layer decay and rules scale. Required with them.
        layer_decay: Factor of the learning rate from each layer to the previous one. The head is the last layer.
        rules: Settings by patterns of parameter names. The last rule with a setting takes precedence.

    Returns:
        Groups with ``params``, ``weight_decay`` and, if there are several, a ``name``. Names are ``decay`` and
        ``no_decay``, with layer decay ``layer_3_decay``, and with a rule ``head:decay``. Layer decay and rules add the
        ``lr`` of the group. Groups without a rule come first.

    Raises:
        UserError: If no parameter is trainable, no timm network defines the layers for layer decay, or the pattern of a
            rule has no match.

    Source: layer decay: Clark et al., ELECTRA, 2020, arXiv:2003.10555.

    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    >>> [(g["name"], len(g["params"]), g["weight_decay"]) for g in parameter_groups(net, 0.05)]
    [('decay', 1, 0.05), ('no_decay', 3, 0.0)]
    """
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trainable:
        raise UserError("the model has no trainable parameter. Is the whole model frozen?")
    layers = layer_numbers(model) if layer_decay is not None else {}
    last = max(layers.values(), default=0)
    exempted = set(_network_exemptions(model))
    small = norm_and_bias_names(model)
    matching = rules_by_parameter(model, rules)
    sorted_in: dict[tuple[tuple[int, ...], int, float], list[Parameter]] = defaultdict(list)
    for name, parameter in trainable.items():
        applied = matching.get(name, ())
        decay = _last([rules[i].weight_decay for i in applied], weight_decay)
        everything = _last([rules[i].decay_norm_and_bias for i in applied], decay_norm_and_bias)
        exempt = name in exempted or (name in small and not everything)
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


def _last(settings: Sequence[T | None], default: T) -> T:
    """Return the last setting that is not ``None``, or the default."""
    return next((each for each in reversed(settings) if each is not None), default)


def layer_numbers(model: nn.Module) -> dict[str, int]:
    """Return the layer number of each parameter, counted from the input as in the timm network of the model.

    Parameters outside the timm network, that is the head, belong to the last layer, as the classifier in timm does.

    Raises:
        UserError: If the model contains no timm network that defines its layers.
    """
    from timm.models import group_parameters

    found = next(((n, m) for n, m in model.named_modules() if callable(getattr(m, "group_matcher", None))), None)
    if found is None:
        raise UserError(
            "layer_decay: requires a backbone that defines its layers (`group_matcher`), for example one of timm."
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
    """Minimal module for timm, which reads only the names of the parameters."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = names

    def named_parameters(self) -> Iterator[tuple[str, None]]:
        return ((name, None) for name in self.names)


def _network_exemptions(model: nn.Module) -> Iterator[str]:
    """Yield the parameters that match a pattern of ``no_weight_decay()`` of the outermost modules that have it.

    timm calls the method of the network only, and supports wildcards such as ``pos_embed.*`` of XCiT. A block inside a
    network may have the method, too, as the cross-covariance attention of XCiT does. timm does not call it.
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
