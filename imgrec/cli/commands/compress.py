"""``imgrec compress``: smaller and faster variants of a trained run, each a run folder of its own."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.parser import Parser
from imgrec.engine.config import read_config
from imgrec.errors import UserError
from imgrec.trust import allow
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.compress.plan import Plan
    from imgrec.runs.folder import RunFolder

DESCRIPTION = """Make smaller and faster variants of a trained run: prune, fine-tune, quantize. Each is a run folder
beside it, runs/<experiment>/compressed/<variant>/<id>, with its own predictions, model folder, exports and report, and
names the run as its parent. The same command goes on where one before it was stopped; what is finished stays."""

EPILOG = """The steps are taken in the order prune or mask, drop blocks, fine-tune, train quantization-aware, quantize.
Any other order that makes sense, steps taken twice, and all their arguments are a plan's: a YAML with `steps`, a list
of specs (`imgrec list steps`, `imgrec show steps prune`), or `variants`, a mapping of names to such lists.
  imgrec compress RUN --prune 0.5 --structured --finetune 3 --quantize int8 --max-drop 0.5
  imgrec compress RUN --plan experiments/_plans/half_and_int8.yaml --plan mine.yaml
  imgrec compress RUN --finetune 3                       the control: as much training, and nothing else
Exit status: 0; 2 if a plan is refused; 5 if the accuracy budget --max-drop is exceeded. A variant that lost too much is
kept and marked. Only a step --quantize that exceeds the budget by itself leaves no export.
"""


def run(command: str, words: list[str]) -> int:
    """Carry out the plans that flags and files name."""
    arguments = _parser().parse_args(words)
    flags = _flags(arguments)
    if not flags and not arguments.plan:
        raise UserError("compress: nothing to do; name a step (--prune 0.5) or a plan (--plan FILE)")

    from imgrec.compress.plan import Plan, check_budget, read_plans
    from imgrec.utils import yaml

    max_drop = arguments.max_drop
    check_budget(max_drop, "compress")
    plans = [plan for path in arguments.plan for plan in read_plans(allow(read_config(path)), path, Path(path).stem)]
    plans = [plan.within(max_drop) for plan in plans]
    if flags:
        plans.append(Plan.of(flags, arguments.name, "compress", max_drop))
    elif arguments.name is not None:
        raise UserError("--name is for the variant of the flags; a plan's stands in it under `name`")
    if arguments.print_plan:
        print(yaml.dump({"variants": {plan.name: plan.to_plain() for plan in plans}}), end="")
        return 0
    _compress(arguments.run, plans, arguments.dry_run)
    return 0


def _compress(run: str, plans: Sequence[Plan], dry: bool) -> None:
    from imgrec.engine.library_output import quiet_libraries
    from imgrec.studies.compression.run import carry_out, compression_of, raise_if_over_budget

    quiet_libraries()
    compression = compression_of(run)
    if dry:
        compression.refuse(plans)
        print("\n".join(line for plan in plans for line in compression.preview(plan)))
        return
    error = carry_out(compression, plans)
    if compression.done or error is None:
        _print(compression.done)
    if error is not None:
        raise error
    raise_if_over_budget(compression, plans)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="imgrec compress",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="a run folder that is trained to its end")
    parser.add_argument(
        "--plan", action="append", default=[], metavar="FILE", help="a plan; may be given several times"
    )
    steps = parser.add_argument_group("steps")
    steps.add_argument(
        "--prune", type=float, metavar="SHARE", help="the share that goes: of the weights, which become zero; with "
        "--structured of the network's cost, by taking out whole channels"
    )  # fmt: skip
    steps.add_argument("--structured", action="store_true", help="prune channels: the network becomes really smaller")
    steps.add_argument("--drop-blocks", type=float, metavar="SHARE", help="the share of the cost that goes with blocks")
    steps.add_argument("--finetune", type=int, metavar="EPOCHS", help="train on, at a tenth of the learning rate")
    steps.add_argument("--qat", type=int, metavar="EPOCHS", help="train quantization-aware, for int8 in ONNX Runtime")
    steps.add_argument("--quantize", metavar="PRECISION", help="export in int8, fp16 or bf16")
    more = parser.add_argument_group("how")
    more.add_argument("--target", metavar="COST", help="what --structured and --drop-blocks count: macs (default), "
                      "parameters, latency")  # fmt: skip
    more.add_argument("--importance", metavar="NAME", help="what makes a channel, or a weight, matter: l2, taylor, ...")
    more.add_argument("--lr", type=float, help="the highest learning rate of --finetune and --qat")
    more.add_argument("--distill", action="store_true", help="learn from the dense run, too, where it trains")
    more.add_argument("--ema", type=float, metavar="DECAY", help="average the weights, where it trains")
    more.add_argument(
        "--runtime",
        metavar="NAME",
        help="runtime that --quantize exports for, see `imgrec list runtimes` (default: onnxruntime)",
    )
    more.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="points of accuracy that the variant may lose against "
        "the run on validation images, after all steps; a plan of --plan may state its own. With --quantize, "
        "layers also stay in float until that step alone costs no more",
    )
    more.add_argument("--calibration", type=int, metavar="N", help="training images to calibrate on (default: 256)")
    more.add_argument("--name", help="what the variant is called; by default what its steps are called")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--print_plan", action="store_true", help="print the plans, defaults and all, and stop")
    return parser


def _flags(arguments: argparse.Namespace) -> list[Any]:
    """The steps that flags ask for.

    Raises:
        UserError: a flag says something of a step that is not there.
    """
    steps: list[Any] = []
    cost = {"target": arguments.target}
    if arguments.drop_blocks is not None:
        steps.append({"name": "drop_blocks", "target": _left(arguments.drop_blocks, "--drop-blocks", arguments.target)})
    if arguments.prune is not None and arguments.structured:
        given = {"importance": arguments.importance}
        steps.append({"name": "prune", "target": _left(arguments.prune, "--prune", arguments.target), **_said(given)})
    elif arguments.prune is not None:
        steps.append({"name": "mask", "sparsity": arguments.prune, **_said({"criterion": arguments.importance})})
    beside = _said({"lr": arguments.lr, "distill": arguments.distill or None, "ema": arguments.ema})
    trained = {name: getattr(arguments, name) for name in ("finetune", "qat")}
    steps += [{"name": name, "epochs": epochs, **beside} for name, epochs in _said(trained).items()]
    exported = {name: getattr(arguments, name) for name in ("runtime", "calibration")}
    if arguments.quantize is not None:
        own = {"max_drop": arguments.max_drop, **exported}
        steps.append({"name": "quantize", "to": arguments.quantize, **_said(own)})
    asked = {step["name"] for step in steps}
    for needs, given in (
        ({"prune"}, {"structured": arguments.structured or None}),
        ({"prune", "drop_blocks"}, cost),
        ({"prune", "mask"}, {"importance": arguments.importance}),
        ({"finetune", "qat"}, {"lr": arguments.lr, "distill": arguments.distill or None, "ema": arguments.ema}),
        ({"quantize"}, exported),
    ):
        for name in _said(given):
            if not needs & asked:
                flags = " or ".join(f"--{each.replace('_', '-')}" for each in sorted(needs - {"mask"}))
                raise UserError(f"--{name.replace('_', '-')} says something of {flags}, which is not given")
    return steps


def _left(share: float, flag: str, cost: str | None) -> dict[str, float]:
    if not 0 < share < 1:
        raise UserError(f"{flag}: expected the share that goes, above 0 and below 1; got {share:g}")
    return {cost or "macs": round(1 - share, 6)}


def _said(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _print(variants: Sequence[RunFolder]) -> None:
    """The variants under the run that they are of, and where they are."""
    from imgrec.cli.output import console_for, print_table
    from imgrec.reports.compression_section import COLUMNS, MATTERS, parent_cells, variant_cells

    rows = [parent_cells(variants[0]), *map(variant_cells, variants)]
    used = [i for i, name in enumerate(COLUMNS) if name != "budget" or any(row[i] for row in rows)]
    cells = [[row[i] for i in used] for row in rows]
    print()
    print_table(console_for(10_000), [COLUMNS[i] for i in used], cells, left={COLUMNS[0]}, order=MATTERS)
    for variant in variants:
        print(f"\nrun        {variant.path}\nreport     {variant.report}")
