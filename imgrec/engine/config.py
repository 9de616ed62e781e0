"""Merge of YAML files and dotted overrides into one config, later over earlier."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from imgrec.errors import UserError
from imgrec.utils import yaml

Config = dict[str, Any]

FREE_MAPPINGS = frozenset(
    ("alpha", "class_weights", "classes", "compile", "flips", "layers", "options", "rename", "settings", "splits")
)
"""Arguments whose value is a mapping with free keys, such as class names. A test compares them with the annotations."""

_FOREIGN_ARGUMENT = re.compile(r"trainer\.\w+\+?(\[\d+\])?\.(init_args\.)?(?!init_args$|class_path$)\w+")
"""Dotted key of an argument of a callback, logger or plugin of Lightning, whose mapping may have numbers as keys."""

_RULES_OR_CLASSES = frozenset(("alpha", "class_weights"))
"""Free mappings of class weights, which may instead be a rule with arguments: ``{name: effective, beta: 0.999}``."""


def parse_value(text: str) -> Any:
    """Return the YAML value of a text, or the text itself if it is not YAML.

    Raises:
        YAMLKeyError: If a mapping has a key twice, or a key that comes from a decimal comma.

    >>> parse_value("1e-3"), parse_value("12"), parse_value("focal"), parse_value("{name: focal}")
    (0.001, 12, 'focal', {'name': 'focal'})
    """
    return yaml.parse_scalar(text)


def read_config(path: str | Path) -> Config:
    """Return one YAML file as a mapping in normal form.

    Raises:
        UserError: If there is no such file, it is not YAML or not a mapping, or a key is duplicate or not text.
    """
    values = yaml.read(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"config {path}: expected a mapping such as `model: ...`, got {type(values).__name__}")
    check_keys(values, f"config {path}: ")
    return normal_form(values)


def check_keys(values: Any, place: str = "", prefix: str = "") -> None:
    """Raise an error for a key that is not text, except in a free mapping and in an argument of a Lightning class.

    A class may have the name ``1``, and ``GradientAccumulationScheduler`` has ``scheduling: {1: 2}``.

    Args:
        values: Config or part of a config.
        place: Start of the message: the file or the option. Defaults to none.
        prefix: Dotted key of ``values``. Defaults to none.

    Raises:
        UserError: If a key is a number, a boolean or null.
    """
    if isinstance(values, list):
        for i, each in enumerate(values):
            check_keys(each, place, f"{prefix}[{i}]")
    if not isinstance(values, Mapping) or prefix.rpartition(".")[2] in FREE_MAPPINGS:
        return
    numbers = _FOREIGN_ARGUMENT.fullmatch(prefix) is not None
    for key, value in values.items():
        if not isinstance(key, str) and not (numbers and type(key) is int):
            written = "null" if key is None else str(key).lower()
            where = f"{prefix}: " if prefix else ""
            raise UserError(f'{place}{where}expected text as a key, got {written}. Quote a text: "{written}".')
        check_keys(value, place, f"{prefix}.{key}" if prefix else str(key))


def normal_form(config: Mapping[str, Any]) -> Config:
    """Return a config with the arguments of ``model`` and ``data`` under ``init_args``, as in LightningCLI.

    A YAML may omit ``class_path``, and may contain the arguments next to it.

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
    """Return the config ``base`` overridden by ``over``.

    Mappings are merged key by key. Everything else is replaced. ``key+`` appends to a list. A mapping with another
    ``name`` or ``class_path`` replaces the old one with its arguments.

    Under ``model`` and ``data``, a spec with another name keeps the arguments with the same meaning
    (:func:`imgrec.engine.spec_overrides.carried`), and one line on stderr names each dropped argument. A mapping
    without a ``name`` changes arguments of the present spec. The arguments of ``model`` and ``data`` are kept if the
    new value names only a class, because a subclass has the arguments of its base. They are also kept if the old value
    names no class.

    In a free mapping (:data:`FREE_MAPPINGS`) every key is data: no key is a name, and no key appends.

    >>> merge({"model": {"loss": {"name": "focal", "gamma": 2}}}, {"model": {"loss": {"gamma": 3}}})
    {'model': {'loss': {'name': 'focal', 'gamma': 3}}}
    >>> merge({"model": {"init_args": {"loss": "focal"}}}, {"model": {"class_path": "my.Task"}})
    {'model': {'init_args': {'loss': 'focal'}, 'class_path': 'my.Task'}}
    >>> merge({"trainer": {"callbacks": ["A"]}}, {"trainer": {"callbacks+": "B"}})
    {'trainer': {'callbacks': ['A', 'B']}}
    >>> merge({}, {"data": {"init_args": {"classes": {"CD4+": "CD4"}}}})
    {'data': {'init_args': {'classes': {'CD4+': 'CD4'}}}}
    """
    result = dict(base)
    for key, value in over.items():
        result[key] = _merged(result.get(key), value, (key,), base)
    return result


def _merged(old: Any, new: Any, path: tuple[str, ...], base: Mapping[str, Any]) -> Any:
    specs = path[0] in ("model", "data")
    if specs and isinstance(new, str) and isinstance(old, Mapping) and "name" in old and new != old["name"]:
        kept = _carried(path, base, old, {"name": new})
        return {"name": new, **kept} if kept else new
    if not isinstance(new, Mapping):
        return new
    if specs and isinstance(old, str) and not {"name", "class_path", "init_args"} & new.keys():
        old = {"name": old}
    elif isinstance(old, str) and "init_args" in new:
        old = {"class_path": old}
    if not isinstance(old, Mapping):
        old = {}
    elif specs and path[1:] != ("init_args",) and _another("name", old, new):
        old = _carried(path, base, old, new)
    elif _replaces(old, new, specs):
        old = {}
    result = dict(old)
    for key, value in new.items():
        if key.endswith("+"):
            key = key[:-1]
            here = result.get(key)
            here = here if isinstance(here, list) else [] if here is None or isinstance(here, bool) else [here]
            result[key] = [*here, *(value if isinstance(value, list) else [value])]
        else:
            free = _merged_free(key, result.get(key), value)
            result[key] = _merged(result.get(key), value, (*path, key), base) if free is None else free
    return {"name": result["name"], **result} if "name" in result and "name" in new else result


def _carried(path: tuple[str, ...], base: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]) -> Config:
    if not old.keys() - {"name"}:
        return {}
    from imgrec.engine.spec_overrides import carried  # it imports the registries, which take seconds

    return carried(path, base, old, new)


def _merged_free(key: str, old: Any, new: Any) -> Config | None:
    """Return two free mappings merged key by key, or ``None`` if ``key`` is not a free mapping."""
    if key not in FREE_MAPPINGS or not isinstance(new, Mapping):
        return None
    rule = key in _RULES_OR_CLASSES
    if rule and isinstance(old, str):
        old = {"name": old}
    return dict(new) if not isinstance(old, Mapping) or (rule and _another("name", old, new)) else {**old, **new}


def _replaces(old: Mapping[str, Any], new: Mapping[str, Any], specs: bool) -> bool:
    keeps = specs and ("class_path" not in old or "init_args" not in new)
    return _another("class_path", old, new) and not keeps


def _another(identity: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return identity in new and new[identity] != old.get(identity)


def override(config: Mapping[str, Any], key: str, value: Any) -> Config:
    """Return a config with the value at a dotted key replaced.

    >>> override({}, "model.loss", "focal")
    {'model': {'init_args': {'loss': 'focal'}}}
    """
    parts = key.split(".")
    if parts[0] in ("model", "data") and len(parts) > 1 and parts[1] not in ("class_path", "init_args"):
        parts.insert(1, "init_args")
    for part in reversed(parts):
        value = {part: value}
    check_keys(value, f"--{key}: ")
    return merge(config, normal_form(value))


def experiment_name(configs: list[str]) -> str:
    """Return the name of the experiment of configs.

    It is the path of the first config below a folder ``experiments``, or the file name of a config outside of it.

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
