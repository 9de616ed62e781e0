"""What a pattern of parameter names asks of the optimizer: another learning rate, another weight decay."""

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

_OURS: dict[str, Any] = {"lr_factor": float, "weight_decay": float, "decay_norm_and_bias": bool}


@dataclass(frozen=True)
class GroupRule:
    """What is asked of the parameters that a scope means; ``None`` leaves a thing as it is.

    Args:
        scope: names of parameters or of modules that hold them, or patterns; see :func:`imgrec.models.scope_names`.
        lr_factor: what the learning rate is multiplied by; the schedule and ``layer_decay`` multiply it further.
        weight_decay: theirs. It leaves out what the optimizer's own leaves out: biases and normalization layers.
        decay_norm_and_bias: they decay too.
        options: further arguments of the optimizer, which a group may have of its own, such as ``momentum``.
        where: the place in the spec, for messages.
    """

    scope: Scope
    lr_factor: float | None = None
    weight_decay: float | None = None
    decay_norm_and_bias: bool | None = None
    options: dict[str, Any] = field(default_factory=dict)
    where: str = "groups"

    @property
    def label(self) -> str:
        """What it is called in the name of a group."""
        return self.scope if isinstance(self.scope, str) else "|".join(self.scope or ["*"])


def read_rules(
    given: Sequence[Mapping[str, Any]] | None, options: Mapping[str, Any], where: str = "groups"
) -> list[GroupRule]:
    """The rules that a spec lists under ``groups``.

    Args:
        given: mappings with ``scope``, and ``lr_factor``, ``weight_decay``, ``decay_norm_and_bias`` or options.
        options: the optimizer's arguments that a group may have of its own, with their types.
        where: the place in the spec, for messages.

    Raises:
        UserError: a rule without a scope or one that asks for nothing, a word that is unknown, a value that is refused.

    >>> read_rules([{"scope": "head", "lr_factor": 10}], {})[0].lr_factor
    10.0
    """
    rules = []
    for i, rule in enumerate(given or ()):
        place = f"{where}[{i}]"
        accepted = {**_OURS, **options}
        if not isinstance(rule, Mapping) or not _is_scope(rule.get("scope")):
            raise UserError(
                f"{place}: expected a mapping with the key `scope`, a pattern or a list of them, got {rule}."
            )
        asked = {key: value for key, value in rule.items() if key != "scope"}
        _refuse_unknown(asked, accepted, place)
        try:
            values = {key: check_type(value, accepted[key], f"{place}.{key}") for key, value in asked.items()}
        except SpecError as error:  # whoever builds the optimizer knows where in the config that is
            raise UserError(str(error)) from error
        for key in ("lr_factor", "weight_decay"):
            if values.get(key) is not None:
                in_range(f"{place}.{key}", values[key])
        own = {key: values.pop(key) for key in list(values) if key not in _OURS}
        rules.append(GroupRule(rule["scope"], **values, options=own, where=place))
    return rules


def _is_scope(value: object) -> bool:
    several = isinstance(value, list) and bool(value) and all(isinstance(each, str) for each in value)
    return several or isinstance(value, str)


def _refuse_unknown(asked: Mapping[str, Any], accepted: Collection[str], place: str) -> None:
    words = ", ".join(accepted)
    for key in asked:
        if key not in accepted:
            raise UserError(f'{place}: there is no "{key}" to ask for.{suggestion(key, accepted)} Accepted: {words}.')
    if not asked:
        raise UserError(f"{place}: it asks for nothing. Accepted beside `scope`: {words}.")


def ruled(model: nn.Module, rules: Sequence[GroupRule]) -> dict[str, tuple[int, ...]]:
    """For each parameter that a rule is about, by its name, the numbers of the rules, in their order.

    Names are those of the network: in a task, ``head`` means ``model.head`` too, and ``loss`` what the loss owns.

    Raises:
        UserError: a pattern that means nothing.
    """
    network = getattr(model, "model", None)
    found: dict[str, tuple[int, ...]] = defaultdict(tuple)
    for i, rule in enumerate(rules):
        for name in _meant(model, network if isinstance(network, nn.Module) else None, rule):
            found[name] += (i,)
    return dict(found)


def _meant(model: nn.Module, network: nn.Module | None, rule: GroupRule) -> list[str]:
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
    meant = set(inside)
    return [name for name in outside if name in meant]
