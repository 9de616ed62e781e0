"""Rules that give parameter groups their own learning rate, weight decay or options."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from imgrec.errors import SpecError, UserError, suggestion
from imgrec.losses.base import in_range
from imgrec.models.utils.patterns import Scope, in_scope, scope_names
from imgrec.utils.signature import check_type

_RULE_KEYS: dict[str, Any] = {"lr_factor": float, "weight_decay": float, "decay_norm_and_bias": bool}


@dataclass(frozen=True)
class GroupRule:
    """Settings for the parameters in a scope. ``None`` keeps the setting of the optimizer.

    Args:
        scope: Names or patterns of parameters, or of modules that contain them, see :func:`imgrec.models.scope_names`.
        lr_factor: Factor of the learning rate, in addition to the schedule and ``layer_decay``.
        weight_decay: Weight decay. Biases and normalization layers are excluded as for the optimizer.
        decay_norm_and_bias: ``True`` applies weight decay to biases and normalization layers, too.
        options: Further arguments of the optimizer that a group may set, such as ``momentum``.
        where: Key in the spec for messages.
    """

    scope: Scope
    lr_factor: float | None = None
    weight_decay: float | None = None
    decay_norm_and_bias: bool | None = None
    options: dict[str, Any] = field(default_factory=dict)
    where: str = "groups"

    @property
    def label(self) -> str:
        """Label in the name of a group."""
        return self.scope if isinstance(self.scope, str) else "|".join(self.scope or ["*"])


def read_rules(
    groups: Sequence[Mapping[str, Any]] | None, options: Mapping[str, Any], where: str = "groups"
) -> list[GroupRule]:
    """Return the rules that a spec lists under ``groups``.

    Args:
        groups: Mappings with ``scope``, and ``lr_factor``, ``weight_decay``, ``decay_norm_and_bias`` or options.
        options: Arguments of the optimizer that a group may set, with their types.
        where: Key in the spec for messages.

    Raises:
        UserError: If a rule has no scope or no setting, if a key is unknown, or if a value is invalid.

    >>> read_rules([{"scope": "head", "lr_factor": 10}], {})[0].lr_factor
    10.0
    """
    rules = []
    for i, rule in enumerate(groups or ()):
        place = f"{where}[{i}]"
        accepted = {**_RULE_KEYS, **options}
        if not isinstance(rule, Mapping) or not _is_scope(rule.get("scope")):
            raise UserError(
                f"{place}: expected a mapping with the key `scope`, a pattern or a list of them, got {rule}."
            )
        settings = {key: value for key, value in rule.items() if key != "scope"}
        _check_keys(settings, accepted, place)
        try:
            values = {key: check_type(value, accepted[key], f"{place}.{key}") for key, value in settings.items()}
        except SpecError as error:  # the caller adds the key of the optimizer in the config
            raise UserError(str(error)) from error
        for key in ("lr_factor", "weight_decay"):
            if values.get(key) is not None:
                in_range(f"{place}.{key}", values[key])
        extra = {key: values.pop(key) for key in list(values) if key not in _RULE_KEYS}
        rules.append(GroupRule(rule["scope"], **values, options=extra, where=place))
    return rules


def _is_scope(value: object) -> bool:
    several = isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)
    return several or isinstance(value, str)


def _check_keys(settings: Mapping[str, Any], accepted: Collection[str], place: str) -> None:
    words = ", ".join(accepted)
    for key in settings:
        if key not in accepted:
            raise UserError(f'{place}: unknown key "{key}".{suggestion(key, accepted)} Accepted: {words}.')
    if not settings:
        raise UserError(f"{place}: expected a setting in addition to `scope`, got none. Accepted: {words}.")


def rules_by_parameter(model: nn.Module, rules: Sequence[GroupRule]) -> dict[str, tuple[int, ...]]:
    """Return the indices of the matching rules for each parameter name, in their order.

    Names are those of the network. In a task, ``head`` also matches ``model.head``, and ``loss`` matches the parameters
    of the loss.

    Raises:
        UserError: If a pattern matches no parameter.
    """
    network = getattr(model, "model", None)
    found: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for i, rule in enumerate(rules):
        for name in _matches(model, network if isinstance(network, nn.Module) else None, rule):
            found[name] += (i,)
    return dict(found)


def _matches(model: nn.Module, network: nn.Module | None, rule: GroupRule) -> list[str]:
    where = f"{rule.where}.scope"
    if network is None:
        return scope_names(model, rule.scope, where)
    patterns = [rule.scope] if isinstance(rule.scope, str) else rule.scope or ["*"]
    outside = [name for name, _ in model.named_parameters()]
    inside: list[str] = []
    for pattern in patterns:
        around = [name for name in outside if in_scope(name, pattern)]
        inside += around or [f"model.{name}" for name in scope_names(network, pattern, where)]
        inside += [f"model.{name}" for name, _ in network.named_parameters() if around and in_scope(name, pattern)]
    matched = set(inside)
    return [name for name in outside if name in matched]
