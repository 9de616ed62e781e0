"""``imgrec compress``: make smaller and faster variants of a trained run, each in its own run folder."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.option_types import Number
from imgrec.cli.parser import Parser
from imgrec.engine.config import read_config
from imgrec.errors import UserError
from imgrec.trust import allow
from imgrec.utils.ranges import OpenUnitInterval
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.compress.plan import Plan
    from imgrec.runs.folder import RunFolder

DESCRIPTION = """Make smaller and faster variants of a trained run: prune, fine-tune, quantize. Each variant is a run
folder, runs/<experiment>/compressed/<variant>/<id>, with its own predictions, model folder, exports and report. It
records the run as its parent. The same command continues an interrupted one and keeps finished variants."""

EPILOG = """The order of the steps is: prune or mask, drop blocks, fine-tune, quantization-aware training, quantize.
Use a plan for another order, repeated steps or other arguments. A plan is a YAML file with `steps`, a list of specs
(`imgrec list steps`, `imgrec show steps prune`), or `variants`, a mapping from names to such lists.

  imgrec compress RUN --prune 0.5 --structured --finetune 3 --quantize int8 --max-drop 0.5
  imgrec compress RUN --plan experiments/_plans/half_and_int8.yaml --plan mine.yaml
  imgrec compress RUN --finetune 3                       the control: only the additional training

Exit status: 0, 2 if a plan is rejected, 5 if the accuracy budget --max-drop is exceeded. A variant above the budget
is kept and marked. If the step --quantize exceeds the budget by itself, there is no export.
"""


def run(command: str, words: list[str]) -> int:
    """Run the plans of the flags and files."""
    arguments = _parser().parse_args(words)
    flags = _flags(arguments)
    if not flags and not arguments.plan:
        raise UserError("compress: expected a step (--prune 0.5) or a plan (--plan FILE).")

    from imgrec.compress.plan import Plan, check_budget, read_plans
    from imgrec.utils import yaml

    max_drop = arguments.max_drop
    check_budget(max_drop, "compress")
    plans = [plan for path in arguments.plan for plan in read_plans(allow(read_config(path)), path, Path(path).stem)]
    plans = [plan.with_budget(max_drop) for plan in plans]
    if flags:
        plans.append(Plan.from_specs(flags, arguments.name, "compress", max_drop))
    elif arguments.name is not None:
        raise UserError("--name: expected flags of steps as well. A plan sets its own `name`.")
    if arguments.print_plan:
        print(yaml.dump({"variants": {plan.name: plan.to_plain() for plan in plans}}), end="")
        return 0
    _compress(arguments.run, plans, arguments.dry_run)
    return 0


def _compress(run: str, plans: Sequence[Plan], dry: bool) -> None:
    from imgrec.engine.library_output import quiet_libraries
    from imgrec.studies.compression.run import apply_plans, build_compression, raise_if_over_budget

    quiet_libraries()
    compression = build_compression(run)
    if dry:
        compression.validate(plans)
        print("\n".join(line for plan in plans for line in compression.preview(plan)))
        return
    error = apply_plans(compression, plans)
    if compression.done or error is None:
        _print(compression.done)
    if error is not None:
        raise error
    raise_if_over_budget(compression, plans)


def _parser() -> Parser:
    parser = Parser(prog="imgrec compress", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("run", metavar="RUN", help="a finished run folder")
    parser.add_argument(
        "--plan", action="append", default=[], metavar="FILE", help="a plan. May be given several times"
    )
    _add_steps(parser.add_argument_group("steps"))
    _add_settings(parser.add_argument_group("settings"))
    parser.add_argument("--dry-run", action="store_true", help="print the steps, and run nothing")
    parser.add_argument("--print_plan", action="store_true", help="print the plans with all defaults, and stop")
    return parser


def _add_steps(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--prune", type=Number(OpenUnitInterval), metavar="FRACTION", help="fraction to remove: of the weights, which "
        "are set to zero, or with --structured of the cost of the model, by removing whole channels"
    )  # fmt: skip
    group.add_argument("--structured", action="store_true", help="prune channels, which makes the model smaller")
    group.add_argument(
        "--drop-blocks", type=Number(OpenUnitInterval), metavar="FRACTION", help="fraction of the cost to remove with "
        "residual blocks"
    )  # fmt: skip
    epochs = Number(int)
    group.add_argument("--finetune", type=epochs, metavar="EPOCHS", help="fine-tune at a tenth of the learning rate")
    group.add_argument(
        "--qat", type=epochs, metavar="EPOCHS", help="quantization-aware training, for int8 in ONNX Runtime"
    )
    group.add_argument("--quantize", metavar="PRECISION", help="export in int8, fp16 or bf16")


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--target", metavar="COST", help="cost of --structured and --drop-blocks: macs, parameters, latency (default: "
        "macs)"
    )  # fmt: skip
    group.add_argument("--importance", metavar="NAME", help="importance of channels or weights: l2, taylor, ...")
    group.add_argument("--lr", type=Number(float), help="peak learning rate of --finetune and --qat")
    group.add_argument("--distill", action="store_true", help="train with distillation from the dense run")
    group.add_argument("--ema", type=Number(float), metavar="DECAY", help="average the weights during training")
    group.add_argument(
        "--runtime", metavar="NAME", help="runtime of --quantize, see `imgrec list runtimes` (default: onnxruntime)"
    )
    group.add_argument(
        "--max-drop", type=Number(float), metavar="POINTS", help="maximum loss of validation accuracy against the run "
        "after all steps, in percentage points. A plan of --plan may set its own. With --quantize, layers also stay in "
        "float until that step alone meets the budget"
    )  # fmt: skip
    group.add_argument(
        "--calibration", type=Number(int), metavar="N", help="number of training images for calibration (default: 256)"
    )
    group.add_argument("--name", help="name of the variant (default: the names of its steps)")


def _flags(arguments: argparse.Namespace) -> list[Any]:
    """Return the specs of the steps of the flags.

    Raises:
        UserError: If a setting belongs to a step that is not given.
    """
    steps: list[Any] = []
    cost = {"target": arguments.target}
    if arguments.drop_blocks is not None:
        steps.append({"name": "drop_blocks", "target": _remaining(arguments.drop_blocks, arguments.target)})
    if arguments.prune is not None and arguments.structured:
        given = {"importance": arguments.importance}
        steps.append({"name": "prune", "target": _remaining(arguments.prune, arguments.target), **_without_none(given)})
    elif arguments.prune is not None:
        given = {"criterion": arguments.importance}
        steps.append({"name": "mask", "sparsity": arguments.prune, **_without_none(given)})
    training = _without_none({"lr": arguments.lr, "distill": arguments.distill or None, "ema": arguments.ema})
    trained = {name: getattr(arguments, name) for name in ("finetune", "qat")}
    steps += [{"name": name, "epochs": epochs, **training} for name, epochs in _without_none(trained).items()]
    exported = {name: getattr(arguments, name) for name in ("runtime", "calibration")}
    if arguments.quantize is not None:
        own = {"max_drop": arguments.max_drop, **exported}
        steps.append({"name": "quantize", "to": arguments.quantize, **_without_none(own)})
    asked = {step["name"] for step in steps}
    for needs, given in (
        ({"prune"}, {"structured": arguments.structured or None}),
        ({"prune", "drop_blocks"}, cost),
        ({"prune", "mask"}, {"importance": arguments.importance}),
        ({"finetune", "qat"}, {"lr": arguments.lr, "distill": arguments.distill or None, "ema": arguments.ema}),
        ({"quantize"}, exported),
    ):
        for name in _without_none(given):
            if not needs & asked:
                flags = " or ".join(f"--{each.replace('_', '-')}" for each in sorted(needs - {"mask"}))
                raise UserError(f"--{name.replace('_', '-')}: expected {flags} as well, which it configures.")
    return steps


def _remaining(removed: float, cost: str | None) -> dict[str, float]:
    """Return the target of a step that removes a fraction of the cost."""
    return {cost or "macs": round(1 - removed, 6)}


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _print(variants: Sequence[RunFolder]) -> None:
    """Print the table of the run and its variants, and the paths of the variants."""
    from imgrec.cli.output import console_for, print_table
    from imgrec.reports.compression_section import COLUMNS, COLUMNS_BY_PRIORITY, parent_cells, variant_cells

    rows = [parent_cells(variants[0]), *map(variant_cells, variants)]
    used = [i for i, name in enumerate(COLUMNS) if name != "budget" or any(row[i] for row in rows)]
    cells = [[row[i] for i in used] for row in rows]
    print()
    print_table(console_for(10_000), [COLUMNS[i] for i in used], cells, left={COLUMNS[0]}, order=COLUMNS_BY_PRIORITY)
    for variant in variants:
        print(f"\nrun        {variant.path}\nreport     {variant.report}")
