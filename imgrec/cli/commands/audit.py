"""``imgrec audit``: find defects of a data set, and write them as a table, a page and a list."""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.option_types import Number, yaml_value
from imgrec.cli.parser import Parser
from imgrec.engine.config import Config, experiment_name, merge, override, read_config
from imgrec.errors import UserError
from imgrec.trust import allow
from imgrec.utils.ranges import LeftOpenUnitInterval, PositiveInt
from imgrec.utils.terminal import print
from imgrec.utils.write_errors import Postponed

if TYPE_CHECKING:
    from imgrec.audit import Audit, Finding
    from imgrec.runs.folder import RunFolder
    from imgrec.runs.predictions import Predictions

DESCRIPTION = """Check every image of a data set. Find broken and misnamed files, outliers, duplicates (in particular
those across splits and classes) and doubtful labels. Write audit.html, and findings.csv for `data.exclude` and
`data.relabel`."""


def run(command: str, words: list[str]) -> int:
    """Audit, print the table, and write the page and the lists."""
    given = _parser().parse_args(words)
    config = _config(given.target)
    for path in given.config:
        config = merge(config, allow(read_config(path)))
    for key, value in given.overrides:
        config = override(config, key, allow(value))
    if not config.get("data"):
        raise UserError("audit: expected a config, a run folder or a folder of images: imgrec audit my.yaml")
    name = _name([*([given.target] if given.target else []), *given.config])
    out = Path("audit") / name if given.out is None else Path(given.out)

    from imgrec.audit import audit, proposals
    from imgrec.audit.messages import own_normalization

    backbone = allow(given.embeddings)
    if backbone is not None:
        from imgrec.models import BACKBONES

        BACKBONES.check(backbone, "--embeddings", ("in_channels", "image_size", "load_weights"))
    predictions = [(path, read) for path in given.predictions for read in _predictions(path)]
    data = _data_module(config["data"], _run_of(given))
    began = time.monotonic()
    found = audit(
        data.source,
        data.splits,
        [read for _, read in predictions],
        backbone,
        given.image_size,
        given.similarity,
        turned=given.turned,
        judges=[path for path, _ in predictions],
    )
    proposed = proposals(found.findings, given.relabel)
    _write(found, proposed, out, Path(given.fix) if given.fix else None, name, own_normalization(config))
    print(f"looked at   {len(found.inventory):,} images in {time.monotonic() - began:.1f} s")
    return 0


def _parser() -> Parser:
    parser = Parser(prog="imgrec audit", description=DESCRIPTION)
    parser.add_argument(
        "target", nargs="?", metavar="TARGET", help="the config of an experiment, a run folder, or a folder of images"
    )
    parser.accept_config(positional=False, keys=("data", "model", "trainer"))
    parser.add_argument("--out", metavar="FOLDER", help="folder of the results (default: audit/<name of TARGET>)")
    parser.add_argument(
        "--fix", metavar="FILE.csv", help="write the proposed changes, one row per image, for review and then for "
        "`data.exclude` and `data.relabel`. docs/audit.md defines which images are excluded"
    )  # fmt: skip
    parser.add_argument("--relabel", action="store_true", help="include new labels of training images in --fix")
    parser.add_argument(
        "--predictions", action="append", default=[], metavar="RUN", help="also find label errors from the predictions "
        "of this run folder or parquet file on images outside its training data (extra: clean). May be given several "
        "times"
    )  # fmt: skip
    parser.add_argument(
        "--turned", action="store_true", help="also find copies rotated by 90, 180 or 270 degrees, and mirrored copies"
    )
    parser.add_argument(
        "--embeddings", type=_backbone, metavar="SPEC", help="also find near duplicates, such as crops, from the "
        "features of a backbone: '{name: resnet18, pretrained: true}'"
    )  # fmt: skip
    parser.add_argument(
        "--image_size", type=Number(PositiveInt), default=224, metavar="N", help="image size of the backbone, in pixels"
    )
    parser.add_argument(
        "--similarity", type=Number(LeftOpenUnitInterval), metavar="X", help="minimum cosine similarity of the "
        "features of near duplicates (default: pairs at most half as far apart as other neighbours)"
    )  # fmt: skip
    return parser


def _backbone(text: str) -> Any:
    value = yaml_value(text)
    if not isinstance(value, str | dict):
        raise argparse.ArgumentTypeError(f"expected the name or the spec of a backbone, got {text}.")
    return value


def _config(target: str | None) -> Config:
    if target is None:
        return {}
    path = Path(target).expanduser()
    if (path / "config.yaml").is_file():
        return read_config(path / "config.yaml")
    if path.is_dir():
        return {"data": {"init_args": {"source": {"name": "folder", "root": str(path)}}}}
    return allow(read_config(path))


def _name(given: Sequence[str]) -> str:
    if given and Path(given[0]).is_dir():
        return Path(given[0]).absolute().name
    return experiment_name(list(given))


def _predictions(given: str) -> list[Predictions]:
    """Return the predictions of a file, or of every split of a run folder."""
    from imgrec.runs.folder import RunFolder
    from imgrec.runs.predictions import read_predictions

    if Path(given).is_file():
        return [read_predictions(given)]
    folder = RunFolder(given)
    found = [folder.predictions(split) for split in ("val", "test") if folder.has_predictions(split)]
    if not found:
        raise UserError(f"--predictions: expected a run with predictions, got {given}.")
    return found


def _run_of(given: argparse.Namespace) -> RunFolder | None:
    """Return the run whose images are audited. ``None`` if the target is no run or options change the data."""
    from imgrec.runs.folder import RunFolder, is_run_folder

    changed = given.config or any(key.partition(".")[0] == "data" for key, _ in given.overrides)
    target = Path(given.target).expanduser() if given.target and not changed else None
    return RunFolder(target) if target is not None and is_run_folder(target) else None


def _data_module(config: Config, run: RunFolder | None = None) -> Any:
    """Return the data module, set up to read original images and to skip broken images."""
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
        raise UserError(f"data: expected a data module with `source` and `splits`, got {type(module).__name__}.")
    if run is not None:
        from imgrec.runs.data import set_up_run_data

        set_up_run_data(module, run)
        return module
    module.prepare_data()
    module.setup("fit")
    return module


def _write(
    found: Audit, proposed: Sequence[Finding], out: Path, fix: Path | None, name: str, normalization: str | None
) -> None:
    from rich.table import Table

    from imgrec.audit import KINDS, write_findings, write_page
    from imgrec.audit.html import finding_title
    from imgrec.audit.messages import DECIDE, RULES
    from imgrec.utils.console import PlainConsole

    console = PlainConsole(soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    table = Table(box=None, pad_edge=False)
    table.add_column("finding")
    table.add_column("images", justify="right")
    table.add_column("")
    for kind, count in found.counts.items():
        table.add_row(finding_title(kind).lower(), f"{count:,}", KINDS[kind])
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
            console.print(f"fix         {fix}: {len(proposed):,} images, for data.exclude and data.relabel")
            for action, meaning in RULES.items():
                console.print(f"            {action}: {meaning}")
    postponed.raise_first()
