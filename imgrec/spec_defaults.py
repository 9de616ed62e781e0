"""Completion of specs with their defaults, so that equal specs are equal data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgrec.errors import SpecError
from imgrec.registry import Registry, nested_registry

FACTS = frozenset(
    (
        *("num_classes", "class_names", "class_counts", "image_size", "in_channels", "feature_dim", "logit_scale"),
        *("map_channels", "map_sizes", "val_fraction", "test_fraction", "split_seed", "load_weights", "model"),
        *("effective_batch", "weight"),
    )
)
"""Arguments with values from the data or the model. They are written only if the spec contains them."""


def complete_spec(registry: Registry[Any], value: Any, imports: bool = True) -> Any:
    """Return a spec or a list of specs with defaults. A spec that the registry cannot resolve is returned unchanged."""
    if isinstance(value, list):
        return [complete_spec(registry, each, imports) for each in value]
    name = value.get("name") if isinstance(value, Mapping) else value
    if not isinstance(name, str) or not (imports or name in registry):
        return value
    try:
        entry = registry.entry(name)
    except SpecError:  # a preset, or a class that is not installed
        return value
    given = {k: v for k, v in value.items() if k != "name"} if isinstance(value, Mapping) else {}
    defaults = {n: p.default for n, p in entry.parameters.items() if n not in FACTS and n not in given}
    plain = {n: _plain(default) for n, default in defaults.items() if _is_plain(default)}
    done = {}
    for key, each in (plain | given).items():
        nested = nested_registry(entry.hints.get(key))
        done[key] = each if nested is None else complete_spec(nested, each, imports)
    ordered = [key for key in entry.parameters if key in done]
    return {"name": name, **{key: done[key] for key in (*ordered, *(k for k in done if k not in ordered))}}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    return value is None or type(value) in (bool, int, float, str)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return {key: _plain(each) for key, each in value.items()} if isinstance(value, Mapping) else value
