"""Config of a run: as one flat row, and with the defaults of all specs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from imgrec.spec_defaults import complete_spec

if TYPE_CHECKING:
    from imgrec.registry import Registry
    from imgrec.runs.folder import RunFolder

Config = dict[str, Any]

_REGISTRIES: dict[tuple[str, str], tuple[str, str]] = {
    ("model", "backbone"): ("imgrec.models", "BACKBONES"),
    ("model", "edits"): ("imgrec.models", "EDITS"),
    ("model", "neck"): ("imgrec.models", "NECKS"),
    ("model", "pooling"): ("imgrec.models", "POOLINGS"),
    ("model", "head"): ("imgrec.models", "HEADS"),
    ("model", "init"): ("imgrec.models", "INITIALIZERS"),
    ("model", "loss"): ("imgrec.losses", "LOSSES"),
    ("model", "distillation"): ("imgrec.losses", "DISTILLATIONS"),
    ("model", "regularizers"): ("imgrec.regularizers", "REGULARIZERS"),
    ("model", "optimizer"): ("imgrec.optim", "OPTIMIZERS"),
    ("model", "schedule"): ("imgrec.optim", "SCHEDULES"),
    ("data", "source"): ("imgrec.data", "SOURCES"),
    ("data", "sampler"): ("imgrec.data", "SAMPLERS"),
    ("data", "train_transforms"): ("imgrec.augment", "AUGMENTATIONS"),
    ("data", "eval_transforms"): ("imgrec.augment", "AUGMENTATIONS"),
}
"""Module and name of the registry for every argument of a task or data module that contains specs."""

_SPECS = frozenset(
    ("backbone", "neck", "head", "loss", "optimizer", "schedule", "source", "sampler", "teacher", "pooling")
)
"""Arguments that contain a spec. A string is equivalent to ``{name: ...}``."""


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten a config to ``{column: plain value}``, with slashes in the columns, in the order of the config.

    Arguments of the task have no prefix (``loss/name``, ``optimizer/lr``). All others have that of their key
    (``data/batch_size``, ``trainer/max_epochs``, ``seed_everything``). A spec that is a string is ``<key>/name``.
    Elements of a list are numbered. Empty lists and mappings and lists of plain values are values.

    >>> flat_config({"model": {"init_args": {"loss": "focal", "optimizer": {"name": "adamw", "lr": 0.1}}}})
    {'loss/name': 'focal', 'optimizer/name': 'adamw', 'optimizer/lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if key in ("model", "data") and isinstance(value, Mapping):
            top = "" if key == "model" else f"{key}/"
            flat |= {f"{key}/{name}": each for name, each in value.items() if name != "init_args"}
            for name, each in (value.get("init_args") or {}).items():
                spec = {"name": each} if name in _SPECS and isinstance(each, str) else each
                _flatten(spec, f"{top}{name}", flat)
        else:
            _flatten(value, key, flat)
    return flat


def config_differences(configs: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the columns of several configs with different values: ``{column: {run: value}}``.

    The mapping of a column does not contain the runs that lack it.

    >>> config_differences({"a": {"seed_everything": 0, "runs": "r"}, "b": {"seed_everything": 1, "runs": "r"}})
    {'seed_everything': {'a': 0, 'b': 1}}
    """
    rows = {run: flat_config(config) for run, config in configs.items()}
    columns = dict.fromkeys(column for row in rows.values() for column in row)
    found = {column: {run: row[column] for run, row in rows.items() if column in row} for column in columns}
    return {
        c: v for c, v in found.items() if len(v) < len(rows) or any(x != next(iter(v.values())) for x in v.values())
    }


def as_column(key: str) -> str:
    """Return the column of a dotted key of the config.

    >>> as_column("model.optimizer.lr"), as_column("trainer.max_epochs"), as_column("optimizer/lr")
    ('optimizer/lr', 'trainer/max_epochs', 'optimizer/lr')
    """
    parts = [part for part in key.replace(".", "/").split("/") if part != "init_args"]
    return "/".join(parts[1:] if parts[0] == "model" and len(parts) > 1 else parts)


def matches_column(key: str, columns: Iterable[str]) -> bool:
    """Return True if ``key`` is a column or the prefix of one: ``optimizer`` of ``optimizer/lr``."""
    return any(column == key or column.startswith(f"{key}/") for column in columns)


def _flatten(value: Any, column: str, into: dict[str, Any]) -> None:
    nested = isinstance(value, list) and any(isinstance(each, Mapping | list) for each in value)
    if isinstance(value, Mapping) and value:
        for name, each in value.items():
            _flatten(each, f"{column}/{name}", into)
    elif nested:
        for i, each in enumerate(value):
            _flatten(each, f"{column}/{i}", into)
    else:
        into[column] = value


def registry_of(part: str, argument: str) -> Registry[Any] | None:
    """Return the registry of the specs in ``model.<argument>`` or ``data.<argument>``, or ``None`` without specs."""
    if (part, argument) not in _REGISTRIES:
        return None
    module, name = _REGISTRIES[part, argument]
    found: Registry[Any] = getattr(import_module(module), name)
    return found


def complete_config(config: Mapping[str, Any], imports: bool = True) -> Config:
    """Add the defaults of all specs to a config, at every depth.

    A stored default is independent of later versions. Arguments that the data determines, such as the number of
    classes, are not added.

    Args:
        config: Config in the form of ``config.yaml``.
        imports: If True, import classes outside the registries. A received config must not import anything. Defaults
            to True.
    """
    result = dict(config)
    for part in ("model", "data"):
        section = result.get(part)
        arguments = section.get("init_args") if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping) or not isinstance(arguments, Mapping):
            continue
        done = {}
        for name, value in arguments.items():
            registry = registry_of(part, name) if isinstance(value, str | Mapping | list) else None
            done[name] = value if registry is None else complete_spec(registry, value, imports)
        result[part] = {**section, "init_args": done}
    return result


def fill_defaults(runs: Sequence[RunFolder]) -> None:
    """Add the defaults of specs to the configs of runs that are compared, in memory only.

    The config of an earlier version does not contain them. The registries are imported only if specs of one name have
    different arguments.
    """
    if _has_uneven_specs([run.config for run in runs]):
        for run in runs:
            run.config = complete_config(run.config, imports=False)


def _has_uneven_specs(configs: Sequence[Mapping[str, Any]]) -> bool:
    seen: dict[tuple[str, str, str], frozenset[str]] = {}
    for config in configs:
        for part, argument in _REGISTRIES:
            section = config.get(part)
            arguments = section.get("init_args") if isinstance(section, Mapping) else None
            value = arguments.get(argument) if isinstance(arguments, Mapping) else None
            for spec in value if isinstance(value, list) else [value]:
                name = spec.get("name") if isinstance(spec, Mapping) else spec
                keys = frozenset(spec) if isinstance(spec, Mapping) else frozenset(("name",))
                if isinstance(name, str) and seen.setdefault((part, argument, name), keys) != keys:
                    return True
    return False
