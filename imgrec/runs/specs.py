"""The specs of a config: which registry each belongs to, and the same specs with every default written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from imgrec.runs.folder import RunFolder
from imgrec.spec_defaults import complete_spec

if TYPE_CHECKING:
    from imgrec.registry import Registry

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
"""The registry of each argument of a task or a data module that holds specs: its module and its name."""


def registry_of(part: str, argument: str) -> Registry[Any] | None:
    """Return the registry whose specs ``model.<argument>`` or ``data.<argument>`` holds; ``None`` if it holds none."""
    if (part, argument) not in _REGISTRIES:
        return None
    module, name = _REGISTRIES[part, argument]
    found: Registry[Any] = getattr(import_module(module), name)
    return found


def complete_config(config: Mapping[str, Any], imports: bool = True) -> Config:
    """Return the config with every default of every spec written out, at every depth.

    What is written stays: a default that changes in a later version does not change a run. An argument that the data
    gives, such as the number of classes, is not added.

    Args:
        config: in the form of ``config.yaml``.
        imports: whether classes outside the registries are imported; a received config must not import anything.
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
    """Write out the defaults of specs in the configs of runs that are laid side by side, in memory only.

    A run of an earlier version has them in no file. The registries are imported only if specs of one name have
    different arguments.
    """
    if _uneven([run.config for run in runs]):
        for run in runs:
            run.config = complete_config(run.config, imports=False)


def _uneven(configs: Sequence[Mapping[str, Any]]) -> bool:
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
