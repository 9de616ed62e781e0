"""``imgrec list`` and ``imgrec show``: what can be named in a YAML, and what it takes."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

from imgrec.cli.commands.drawing import TERMINAL, drawn, read_spec
from imgrec.cli.parser import Parser
from imgrec.errors import UserError, article, suggestion
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.registry import Registry

# where each registry stands, and where its specs stand in a config; no room is imported before it is asked for
REGISTRIES: dict[str, tuple[str, str, str]] = {
    "sources": ("imgrec.data", "SOURCES", "data.source"),
    "samplers": ("imgrec.data", "SAMPLERS", "data.sampler"),
    "augmentations": ("imgrec.augment", "AUGMENTATIONS", "data.train_transforms, data.eval_transforms"),
    "presets": ("imgrec.augment", "PRESETS", "data.train_transforms, in the place of a list"),
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
    "steps": ("imgrec.compress.steps", "STEPS", "imgrec compress RUN --plan, under `steps`"),
    "runtimes": ("imgrec.export.runtimes", "RUNTIMES", "imgrec bench --runtime, imgrec compress --runtime"),
    "formats": ("imgrec.export.formats", "FORMATS", "the networks in exports/ of a run"),
}


# what is named by its class: what it is called, and where it stands in a config
CLASSES: dict[str, str] = {"callbacks": "trainer.callbacks", "loggers": "trainer.logger"}

# what the data and the rest of the model say; a spec may say otherwise
FACTS = frozenset(
    (
        *("num_classes", "class_names", "class_counts", "image_size", "in_channels", "feature_dim", "logit_scale"),
        *("map_channels", "map_sizes"),
        *("val_fraction", "test_fraction", "split_seed", "load_weights", "model"),
    )
)

_ORDER = {"image": 0, "batch": 1, "mix": 2}
"""Where the registry's entries are of several kinds: the order in which they stand in a config."""


def registry(plural: str) -> Registry[Any]:
    """The registry that is called ``plural``."""
    if plural not in REGISTRIES:
        known = [*REGISTRIES, *CLASSES]
        raise UserError(f'there is no registry "{plural}".{suggestion(plural, known)} Accepted: {", ".join(known)}.')
    from importlib import import_module

    module, name, _ = REGISTRIES[plural]
    found: Registry[Any] = getattr(import_module(module), name)
    return found


def run(command: str, words: list[str]) -> int:
    """List the registries or one's entries; or show one entry."""
    if command == "list":
        parser = Parser(prog="imgrec list", description="List the registries, or the entries of one.")
        parser.add_argument("registry", nargs="?", help=", ".join([*REGISTRIES, *CLASSES]))
        parser.add_argument("pattern", nargs="?", help="only names that match: 'resnet*'")
        arguments = parser.parse_args(words)
        lines = _registries() if arguments.registry is None else _entries(arguments.registry, arguments.pattern)
    else:
        parser = Parser(prog="imgrec show", description="Show the arguments and the documentation of a registry entry.")
        parser.add_argument("registry", help=", ".join([*REGISTRIES, *CLASSES]))
        parser.add_argument("name", help="focal, or a dotted path to a class of your own; or '{name: focal, gamma: 1}'")
        parser.add_argument(
            "--plot",
            nargs="?",
            const=TERMINAL,
            metavar="FILE",
            help="draw the curve of a schedule; into a .png, .svg or .pdf file, too",
        )
        arguments = parser.parse_args(words)
        lines = list(_entry(arguments.registry, arguments.name))
        if arguments.plot is not None:  # drawn before anything is printed: it may be refused
            lines += drawn(arguments.registry, arguments.name, arguments.plot)
    for line in lines:
        print(line)
    return 0


def _registries() -> Iterable[str]:
    places = {plural: where for plural, (_, _, where) in REGISTRIES.items()} | CLASSES
    width = max(map(len, places))
    for plural, where in places.items():
        yield f"{plural:<{width}}  {where}"
    yield ""
    yield "`imgrec list losses` lists one of them; `imgrec show losses focal` shows an entry."


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
    if plural in CLASSES:
        from imgrec.engine.class_lists import CLASS_LISTS

        kind, where = CLASS_LISTS[plural].kind, CLASSES[plural]
        entry = CLASS_LISTS[plural].entry(name)
    else:
        found = registry(plural)
        name, _ = found.parse(read_spec(name))
        kind, where = found.kind, REGISTRIES[plural][2]
        entry = found.entry(name)
    yield f"{name} - {article(kind)}, for {where}"
    arguments = entry.arguments()
    if arguments:
        yield ""
        yield "arguments:"
    width = max((len(a.name) for a in arguments), default=0)
    for argument in arguments:
        if argument.name in FACTS:
            default = "known from the data and the model"
        else:
            default = "required" if argument.required else f"default {argument.default}"
        yield f"  {argument.name:<{width}}  {argument.type}  ({default})"
    if entry.open:
        yield f"  {'...':<{width}}  any further argument of what stands behind it"
    yield ""
    yield entry.doc or "(no documentation)"
