"""Several YAML files and dotted overrides, merged into one config: later over earlier."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from imgrec import yaml12
from imgrec.errors import UserError

Config = dict[str, Any]


def parse_value(text: str) -> Any:
    """A value as YAML reads it; text that is no YAML stays text.

    >>> parse_value("1e-3"), parse_value("12"), parse_value("focal"), parse_value("{name: focal}")
    (0.001, 12, 'focal', {'name': 'focal'})
    """
    try:
        return yaml12.load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: an explicit tag that does not fit, `!!int x`
        return text


def read_config(path: str | Path) -> Config:
    """One YAML file, as a mapping in normal form.

    Raises:
        UserError: there is no such file, it is no YAML, or no mapping; the message names the line.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"config {path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    try:
        values = yaml12.load(text)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"config {path}{line}: not YAML ({error.problem})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"config {path}: not YAML ({error})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"config {path}: expected a mapping such as `model: ...`, got {type(values).__name__}")
    return normal_form(values)


def normal_form(config: Mapping[str, Any]) -> Config:
    """``model`` and ``data`` with their arguments under ``init_args``, as LightningCLI has it.

    A YAML may leave ``class_path`` out, and may write the arguments beside it.

    >>> normal_form({"model": {"loss": "focal"}})
    {'model': {'init_args': {'loss': 'focal'}}}
    """
    result = dict(config)
    for key in ("model", "data"):
        value = result.get(key)
        if isinstance(value, str):
            result[key] = {"class_path": value}
        elif isinstance(value, Mapping):
            own = {k: v for k, v in value.items() if k in ("class_path", "init_args")}
            beside = {k: v for k, v in value.items() if k not in own}
            result[key] = own | ({"init_args": {**(own.get("init_args") or {}), **beside}} if beside else {})
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Config:
    """The config ``over`` laid over the config ``base``.

    Mappings are merged key by key, everything else is replaced; ``key+`` appends to a list. Something of another class
    (``class_path``) or, under ``model`` and ``data``, another spec (``name``) replaces the old one whole, arguments and
    all; a mapping without a ``name`` changes arguments of the spec that stands. The arguments of ``model`` and ``data``
    stay where a class is named alone, or where none was named before: a subclass takes its base's.

    >>> merge({"model": {"loss": {"name": "focal", "gamma": 2}}}, {"model": {"loss": {"gamma": 3}}})
    {'model': {'loss': {'name': 'focal', 'gamma': 3}}}
    >>> merge({"model": {"init_args": {"loss": "focal"}}}, {"model": {"class_path": "my.Task"}})
    {'model': {'init_args': {'loss': 'focal'}, 'class_path': 'my.Task'}}
    >>> merge({"trainer": {"callbacks": ["A"]}}, {"trainer": {"callbacks+": "B"}})
    {'trainer': {'callbacks': ['A', 'B']}}
    """
    result = dict(base)
    for key, value in over.items():
        result[key] = _merged(result.get(key), value, specs=key in ("model", "data"))
    return result


def _merged(old: Any, new: Any, specs: bool) -> Any:
    if not isinstance(new, Mapping):
        return new
    if specs and isinstance(old, str) and not {"name", "class_path", "init_args"} & new.keys():
        old = {"name": old}
    elif isinstance(old, str) and "init_args" in new:
        old = {"class_path": old}
    if not isinstance(old, Mapping) or _replaces(old, new, specs):
        old = {}
    result = dict(old)
    for key, value in new.items():
        if isinstance(key, str) and key.endswith("+"):  # a key may be a number: the class "3"
            key = key[:-1]
            here = result.get(key)
            here = here if isinstance(here, list) else [] if here is None or isinstance(here, bool) else [here]
            result[key] = [*here, *(value if isinstance(value, list) else [value])]
        else:
            result[key] = _merged(result.get(key), value, specs)
    return result


def _replaces(old: Mapping[str, Any], new: Mapping[str, Any], specs: bool) -> bool:
    if specs and _another("name", old, new):
        return True
    keeps = specs and ("class_path" not in old or "init_args" not in new)
    return _another("class_path", old, new) and not keeps


def _another(identity: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return identity in new and new[identity] != old.get(identity)


def override(config: Mapping[str, Any], key: str, value: Any) -> Config:
    """``config`` with the value at a dotted key replaced.

    >>> override({}, "model.loss", "focal")
    {'model': {'init_args': {'loss': 'focal'}}}
    """
    parts = key.split(".")
    if parts[0] in ("model", "data") and len(parts) > 1 and parts[1] not in ("class_path", "init_args"):
        parts.insert(1, "init_args")
    for part in reversed(parts):
        value = {part: value}
    return merge(config, normal_form(value))


def experiment_name(configs: list[str]) -> str:
    """The name that the first config gives: its path below a folder ``experiments``, else its own name.

    >>> experiment_name(["experiments/digits/quickstart.yaml", "more.yaml"])
    'digits/quickstart'
    """
    for config in configs:
        path = Path(config).absolute().with_suffix("")
        if "experiments" in path.parts[:-1]:
            at = len(path.parts) - 1 - path.parts[::-1].index("experiments")
            inside = path.parts[at + 1 :]
            if inside[0] != "_parts":
                return "/".join(inside)
        else:
            return path.name
    return "experiment"
