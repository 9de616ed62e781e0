"""``imgrec audit``: what is wrong with a data set, as a table, a page and a list."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.options import Arguments, parse
from imgrec.engine.config import Config, experiment_name, merge, override, read_config
from imgrec.errors import UserError, suggestion
from imgrec.trust import allow
from imgrec.utils.paths import Postponed
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.audit import Audit, Finding
    from imgrec.runs.folder import RunFolder
    from imgrec.runs.predictions import Predictions

HELP = """usage: imgrec audit TARGET [options] [--data.KEY VALUE ...]

Looks at every image of a data set: broken and misnamed files, images unlike the others, duplicates (above all those
across splits and across classes), doubtful labels. Writes audit.html, and findings.csv, which `data.exclude` and
`data.relabel` read back.

TARGET is the YAML of an experiment, a run folder, or a folder of images.

options:
  --config FILE         a YAML laid over the others
  --out FOLDER          where to write (default: audit/<name of the target>)
  --fix LIST.csv        write the proposed changes, one row for each image: to check, then for `data.exclude` and
                        `data.relabel`; docs/audit.md and the page define what is excluded
  --relabel             let --fix contain new labels of training images, too
  --predictions RUN     look for label errors too, by the predictions of this run folder, or this parquet file, on
                        images that it was not trained on; may be given several times (extra: clean)
  --turned              look for copies rotated by 90, 180 or 270 degrees and for mirrored copies, too
  --embeddings SPEC     look for cropped and other near duplicates by the features of a backbone, too:
                        "{name: resnet18, pretrained: true}"
  --image_size N        the side, in pixels, of the images that this backbone sees (default: 224)
  --similarity X        the cosine of two feature vectors from which on they are near duplicates (default: a pair that
                        is at most half as far apart as other neighbours are)
"""

_OPTIONS = ("out", "fix", "relabel", "predictions", "turned", "embeddings", "image_size", "similarity")


def run(command: str, words: list[str]) -> int:
    """Audit, print the table, write the page and the lists."""
    arguments = parse(words)
    if arguments.help:
        print(HELP, end="")
        return 0
    if len(arguments.targets) > 1:
        raise UserError(f"audit takes one config, run folder or folder of images, got {len(arguments.targets)}")
    options: dict[str, list[Any]] = {name: [] for name in _OPTIONS}
    config = _config(arguments.targets)
    for path in arguments.configs:
        config = merge(config, allow(read_config(path)))
    for key, value in arguments.overrides:
        allow(value)
        if key in options:
            options[key].append(value)
        elif key.partition(".")[0] in ("data", "model", "trainer"):
            config = override(config, key, value)
        else:
            raise UserError(
                f'audit has no option "--{key}".{suggestion(key, _OPTIONS)} '
                f"Accepted: --config, {', '.join(f'--{name}' for name in _OPTIONS)}, --data.*."
            )
    if not config.get("data"):
        raise UserError("audit needs a config, a run folder or a folder of images: imgrec audit my.yaml")
    out = Path(_last(options, "out", str, Path("audit") / _name(arguments.targets + arguments.configs)))
    backbone = _last(options, "embeddings", str | dict, None)
    image_size = _last(options, "image_size", int, 224)
    similarity = _last(options, "similarity", float | int, None)
    fix = _last(options, "fix", str, None)
    turned, relabel = _flag(options, "turned"), _flag(options, "relabel")
    if image_size < 1 or (similarity is not None and not 0 < similarity <= 1):
        raise UserError("--image_size is 1 or more, --similarity above 0 and at most 1")

    from imgrec.audit import audit, proposals
    from imgrec.audit.messages import own_normalization

    if backbone is not None:
        from imgrec.models import BACKBONES

        BACKBONES.check(backbone, "--embeddings", ("in_channels", "image_size", "load_weights"))
    predictions = [(str(given), read) for given in options["predictions"] for read in _predictions(str(given))]
    data = _data_module(config["data"], _run_of(arguments))
    began = time.monotonic()
    found = audit(
        data.source,
        data.splits,
        [read for _, read in predictions],
        backbone,
        image_size,
        similarity,
        turned=turned,
        judges=[name for name, _ in predictions],
    )
    proposed = proposals(found.findings, relabel)
    name = _name(arguments.targets + arguments.configs)
    _write(found, proposed, out, Path(fix) if fix else None, name, own_normalization(config))
    print(f"looked at   {len(found.inventory):,} images in {time.monotonic() - began:.1f} s")
    return 0


def _config(targets: Sequence[str]) -> Config:
    if not targets:
        return {}
    path = Path(targets[0]).expanduser()
    if (path / "config.yaml").is_file():
        return read_config(path / "config.yaml")
    if path.is_dir():
        return {"data": {"init_args": {"source": {"name": "folder", "root": str(path)}}}}
    return allow(read_config(path))


def _name(given: Sequence[str]) -> str:
    if given and Path(given[0]).is_dir():
        return Path(given[0]).absolute().name
    return experiment_name(list(given))


def _last(options: Mapping[str, Sequence[Any]], name: str, kind: Any, default: Any) -> Any:
    values = options[name]
    if not values:
        return default
    if isinstance(values[-1], bool) or not isinstance(values[-1], kind):
        raise UserError(f"--{name}: got {values[-1]!r}")
    return values[-1]


def _flag(options: Mapping[str, Sequence[Any]], name: str) -> bool:
    value = options[name][-1] if options[name] else False
    if not isinstance(value, bool):
        raise UserError(f"--{name}: expected no value, true or false, got {value!r}.")
    return value


def _predictions(given: str) -> list[Predictions]:
    """The predictions of a run folder, on every split that it has some of, or of one file."""
    from imgrec.runs.folder import RunFolder
    from imgrec.runs.predictions import read_predictions

    if Path(given).is_file():
        return [read_predictions(given)]
    folder = RunFolder(given)
    found = [folder.predictions(split) for split in ("val", "test") if folder.has_predictions(split)]
    if not found:
        raise UserError(f"--predictions {given}: this run has no predictions")
    return found


def _run_of(arguments: Arguments) -> RunFolder | None:
    """Return the run whose own images are audited; ``None`` if the data is another one, or changed by options."""
    from imgrec.runs.folder import RunFolder, is_run_folder

    changed = arguments.configs or any(key.partition(".")[0] == "data" for key, _ in arguments.overrides)
    target = Path(arguments.targets[0]).expanduser() if arguments.targets and not changed else None
    return RunFolder(target) if target is not None and is_run_folder(target) else None


def _data_module(config: Config, run: RunFolder | None = None) -> Any:
    """The data module, set up to read the images as they are and to go on at broken ones."""
    import pytorch_lightning as pl

    from imgrec.engine.instantiate import find_class, instantiate
    from imgrec.engine.library_output import quiet_libraries
    from imgrec.engine.resolve import resolve

    quiet_libraries()
    data = resolve({"data": config})["data"]
    given = data["init_args"]
    accepted = inspect.signature(find_class(data["class_path"], pl.LightningDataModule, "data")).parameters
    for name, value in {"on_bad_image": "skip", "cache": "off"}.items():
        if name in accepted:
            given[name] = value
    if "image_size" in accepted and not given.get("image_size"):
        given["image_size"] = 64  # no image is resized: the audit looks at the source
    module: Any = instantiate(data, pl.LightningDataModule, "data")
    if not (hasattr(type(module), "source") and hasattr(type(module), "splits")):
        raise UserError(f"data: a {type(module).__name__} does not say its `source` and its `splits`")
    if run is not None:
        from imgrec.runs.data import hold_to_run

        hold_to_run(module, run)
        return module
    module.prepare_data()
    module.setup("fit")
    return module


def _write(
    found: Audit, proposed: Sequence[Finding], out: Path, fix: Path | None, name: str, normalization: str | None
) -> None:
    from rich.table import Table

    from imgrec.audit import KINDS, write_findings, write_page
    from imgrec.audit.html import title_of
    from imgrec.audit.messages import DECIDE, RULES
    from imgrec.utils.console import PlainConsole

    console = PlainConsole(soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    table = Table(box=None, pad_edge=False)
    table.add_column("finding")
    table.add_column("images", justify="right")
    table.add_column("")
    for kind, count in found.counts.items():
        table.add_row(title_of(kind).lower(), f"{count:,}", KINDS[kind])
    console.print()
    console.print(table if found.counts else "nothing found")
    console.print()
    facts = found.statistics
    sizes = ", ".join(
        f"{split} {count:,}" for split, count in zip(facts.splits, facts.counts.sum(0).tolist(), strict=True)
    )
    console.print(f"images      {sizes}; {len(facts.class_names)} classes")
    console.print(f"short side  {facts.short_side[0]} to {facts.short_side[2]} pixels, median {facts.short_side[1]}")
    if normalization is None:
        console.print(f"model       {facts.normalize}  (for a network trained from scratch)")
    else:
        console.print(f"model       no normalization constants are recommended: {normalization}")
    for number, line in enumerate(found.judged):
        console.print(f"{'' if number else 'labels':<12}{line}")
    contested = len({each.position for each in found.findings if each.action == DECIDE})
    if contested:
        console.print(f"decide      {contested:,} images: {RULES[DECIDE]}")
    postponed = Postponed()
    with postponed:
        console.print(f"page        {write_page(out / 'audit.html', found, name, normalization)}")
    with postponed:
        write_findings(out / "findings.csv", found.findings, found.inventory)
        console.print(f"list        {out / 'findings.csv'}")
    if fix is not None:
        with postponed:
            write_findings(fix, proposed, found.inventory)
            console.print(f"fix         {fix}: {len(proposed):,} images; for data.exclude and data.relabel")
            for action, meaning in RULES.items():
                console.print(f"            {action}: {meaning}")
    postponed.raise_first()
