"""``imgrec list`` and ``imgrec show``: list the registries, and show the arguments of their entries."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from imgrec.cli.parser import Parser
from imgrec.engine.config import parse_value
from imgrec.errors import UserError, article, suggestion
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.registry import Registry

REGISTRIES: dict[str, tuple[str, str, str]] = {
    "sources": ("imgrec.data", "SOURCES", "data.source"),
    "samplers": ("imgrec.data", "SAMPLERS", "data.sampler"),
    "augmentations": ("imgrec.augment", "AUGMENTATIONS", "data.train_transforms, data.eval_transforms"),
    "presets": ("imgrec.augment", "PRESETS", "data.train_transforms, instead of a list"),
    "views": ("imgrec.augment", "VIEWS", "imgrec test RUN --tta, imgrec predict RUN --tta"),
    "backbones": ("imgrec.models", "BACKBONES", "model.backbone"),
    "edits": ("imgrec.models", "EDITS", "model.edits"),
    "necks": ("imgrec.models", "NECKS", "model.neck"),
    "poolings": ("imgrec.models", "POOLINGS", "model.pooling"),
    "heads": ("imgrec.models", "HEADS", "model.head"),
    "initializers": ("imgrec.models", "INITIALIZERS", "model.init"),
    "losses": ("imgrec.losses", "LOSSES", "model.loss"),
    "distillations": ("imgrec.losses", "DISTILLATIONS", "model.distillation, of imgrec.DistillationTask"),
    "regularizers": ("imgrec.regularizers", "REGULARIZERS", "model.regularizers"),
    "optimizers": ("imgrec.optim", "OPTIMIZERS", "model.optimizer"),
    "schedules": ("imgrec.optim", "SCHEDULES", "model.schedule"),
    "metrics": ("imgrec.metrics", "METRICS", "val/<name> and test/<name>: monitor, --sort, tables, reports"),
    "steps": ("imgrec.compress.steps", "STEPS", "imgrec compress RUN --plan, under `steps`"),
    "runtimes": ("imgrec.export.runtimes", "RUNTIMES", "imgrec bench --runtime, imgrec compress --runtime"),
    "formats": ("imgrec.export.formats", "FORMATS", "the networks in exports/ of a run"),
}


CLASSES: dict[str, str] = {"callbacks": "trainer.callbacks", "loggers": "trainer.logger"}
"""Lists of classes that a config names by ``class_path``, and their keys."""

FACTS = frozenset(
    (
        *("num_classes", "class_names", "class_counts", "image_size", "in_channels", "feature_dim", "logit_scale"),
        *("map_channels", "map_sizes"),
        *("val_fraction", "test_fraction", "split_seed", "load_weights", "model"),
    )
)

_ORDER = {"image": 0, "batch": 1, "mix": 2}
"""Order of the kinds of augmentations in a config."""

_TERMINAL = "-"
"""Value of ``--plot`` without a file."""


def registry(plural: str) -> Registry[Any]:
    """Return a registry by its plural name."""
    if plural not in REGISTRIES:
        known = [*REGISTRIES, *CLASSES]
        raise UserError(f'there is no registry "{plural}".{suggestion(plural, known)} Accepted: {", ".join(known)}.')
    from importlib import import_module

    module, name, _ = REGISTRIES[plural]
    found: Registry[Any] = getattr(import_module(module), name)
    return found


def run(command: str, words: list[str]) -> int:
    """List the registries or the entries of one, or show one entry."""
    if command == "list":
        parser = Parser(prog="imgrec list", description="List the registries, or the entries of one.")
        parser.add_argument("registry", nargs="?", help=", ".join([*REGISTRIES, *CLASSES]))
        parser.add_argument("pattern", nargs="?", help="pattern of the names: 'resnet*'")
        arguments = parser.parse_args(words)
        lines = _registries() if arguments.registry is None else _entries(arguments.registry, arguments.pattern)
    else:
        parser = Parser(prog="imgrec show", description="Show the arguments and the documentation of a registry entry.")
        parser.add_argument("registry", help=", ".join([*REGISTRIES, *CLASSES]))
        parser.add_argument("name", help="focal, the dotted path of a class, or '{name: focal, gamma: 1}'")
        parser.add_argument(
            "--plot",
            nargs="?",
            const=_TERMINAL,
            metavar="FILE",
            help="plot the curve of a schedule. With FILE, also write it as .png, .svg or .pdf",
        )
        arguments = parser.parse_args(words)
        lines = list(_entry(arguments.registry, arguments.name))
        if arguments.plot is not None:  # before anything is printed, because it may raise
            lines += _plot(arguments.registry, arguments.name, arguments.plot)
    for line in lines:
        print(line)
    return 0


def _registries() -> Iterable[str]:
    places = {plural: where for plural, (_, _, where) in REGISTRIES.items()} | CLASSES
    width = max(map(len, places))
    for plural, where in places.items():
        yield f"{plural:<{width}}  {where}"
    yield ""
    yield "`imgrec list losses` lists one of them. `imgrec show losses focal` shows an entry."


def _entries(plural: str, pattern: str | None) -> Iterable[str]:
    if plural in CLASSES:
        from imgrec.engine.class_lists import CLASS_LISTS

        yield from CLASS_LISTS[plural].lines(pattern)
        return
    found = registry(plural)
    names = [name for name in found.names() if pattern is None or fnmatch(name, pattern)]
    more = sorted(set(found.catalogue.names()) - set(found.names())) if found.catalogue else []
    matching = [name for name in more if pattern is not None and fnmatch(name, pattern)]
    if pattern is not None and not names and not matching:
        raise UserError(
            f'no {found.kind} matches "{pattern}".{suggestion(pattern.strip("*"), [*found.names(), *more])}'
        )
    width = max(map(len, names), default=0)
    kinds = {name: str(getattr(found.entry(name).factory, "kind", "")) for name in names}
    marked = max(map(len, kinds.values()), default=0) + 2
    for name in sorted(names, key=lambda name: (_ORDER.get(kinds[name], 0), name)):
        mark = f"{kinds[name]:<{marked}}" if marked > 2 else ""
        yield f"{name:<{width}}  {mark}{found.entry(name).summary}"
    yield from matching
    if more and pattern is None:
        if names:
            yield ""
        yield f"and {len(more)} by other names, {more[0]} to {more[-1]}: `imgrec list {plural} 'PATTERN*'`"


def _entry(plural: str, name: str) -> Iterable[str]:
    properties: dict[str, str] = {}
    inputs: Collection[str] = ()
    if plural in CLASSES:
        from imgrec.engine.class_lists import CLASS_LISTS

        kind, where = CLASS_LISTS[plural].kind, CLASSES[plural]
        entry = CLASS_LISTS[plural].entry(name)
    else:
        found = registry(plural)
        name, _ = found.parse(_read_spec(name))
        kind, where = found.kind, REGISTRIES[plural][2]
        entry = found.entry(name)
        properties, inputs = found.properties_of(name), found.inputs
    yield f"{name} - {article(kind)}, for {where}"
    for key, value in properties.items():
        yield f"{key}: {value}"
    arguments = entry.arguments()
    if arguments:
        yield ""
        yield "arguments:"
    width = max((len(a.name) for a in arguments), default=0)
    for argument in arguments:
        if argument.name in inputs:
            default = "from the predictions"
        elif argument.name in FACTS:
            default = "from the data and the model"
        else:
            default = "required" if argument.required else f"default {argument.default}"
        yield f"  {argument.name:<{width}}  {argument.type}  ({default})"
    if entry.open:
        yield f"  {'...':<{width}}  further arguments of the wrapped function"
    yield ""
    yield entry.doc or "(no documentation)"


def _read_spec(text: str) -> Any:
    """Return the name of an entry, or a YAML mapping with its name and arguments."""
    return parse_value(text) if text.lstrip().startswith("{") else text


def _plot(plural: str, text: str, file: str) -> Iterator[str]:
    """Yield the lines of the curve of a schedule, and write it to a file unless the file is ``-``.

    Raises:
        UserError: If the registry has no curves, an argument is invalid, or the file cannot be written.
    """
    if plural != "schedules":
        raise UserError(f"--plot: expected the registry schedules, got {plural}.")
    from imgrec.optim import SCHEDULES, Plateau
    from imgrec.reports.curves import (
        check_figure_path,
        schedule_points,
        schedule_text,
        write_schedule_figure,
    )

    if file != _TERMINAL:
        check_figure_path(file)
    spec = _read_spec(text)
    schedule = SCHEDULES.build(spec)
    yield from ("", "factor of the learning rate:", "")
    yield from schedule_text(schedule)
    yield ""
    points = {place: f"{value:.4g}" for place, value in schedule_points(schedule).items()}
    width = max(map(len, points))
    yield from (f"  {place:<{width}}  {value}" for place, value in points.items())
    if isinstance(schedule, Plateau):
        yield f"  while {schedule.monitor} improves, multiplied by {schedule.gamma:g} at each plateau"
    if file != _TERMINAL:
        write_schedule_figure(file, [(spec if isinstance(spec, str) else _title(spec), schedule)])
        yield from ("", f"written    {file}")


def _title(spec: dict[str, Any]) -> str:
    return ", ".join([str(spec["name"]), *(f"{key} {value}" for key, value in spec.items() if key != "name")])
