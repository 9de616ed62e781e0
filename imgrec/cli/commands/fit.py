"""``imgrec fit``, ``validate`` and ``test``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal, cast

from imgrec import trust
from imgrec.cli.commands.resume import add_resume_options, resume_run
from imgrec.cli.option_types import yaml_value
from imgrec.cli.parser import Parser
from imgrec.engine.config import override, read_config
from imgrec.errors import UserError
from imgrec.utils.terminal import print

FIT = """Train the model of a config, evaluate the best checkpoint, and write a run folder under runs/."""

CONFIG_HELP = """A config has the keys model, data, trainer and seed_everything:

  model:               # class_path: imgrec.ClassificationTask or a subclass of it
    backbone: resnet18                          # imgrec list backbones
    loss: {name: focal, gamma: 2.0}             # imgrec list losses; imgrec show losses focal
    optimizer: {name: adamw, lr: 1e-3}          # imgrec list optimizers
  data:
    source: {name: folder, root: my-images}     # imgrec list sources
    image_size: 224
  trainer: {max_epochs: 20}                     # Trainer of Lightning
"""

EVALUATE = """Evaluate a model on the {split} split. A run folder or a checkpoint contains its config. Without
overrides, the metrics and predictions of a run are written into its folder. The metrics of a quantized variant are
those of its export. Such a run is evaluated with the export, in its runtime, and its folder is unchanged."""


def run(command: str, words: list[str]) -> int:
    """Run the command ``fit``, ``validate`` or ``test``."""
    if command == "fit":
        return run_fit(_fit_parser().parse_args(words))
    return run_evaluation(cast(Literal["validate", "test"], command), _evaluation_parser(command).parse_args(words))


def _fit_parser() -> Parser:
    parser = Parser(
        prog="imgrec fit", usage="imgrec fit --config FILE.yaml [options]", description=FIT, epilog=CONFIG_HELP
    )
    parser.add_argument("targets", nargs="*", help=argparse.SUPPRESS)
    parser.accept_config(positional=False)
    parser.add_argument(
        "--ckpt_path", metavar="FILE|RUN|last",
        help="FILE: start from this checkpoint in a new run folder. RUN: resume this run. last: resume the newest "
        "unfinished run of the experiment in its folder, or start a new run if there is none. See imgrec resume --help",
    )  # fmt: skip
    add_resume_options(parser)
    for name, text in (
        ("--experiment", "name of the folder under --runs (default: name of the config, experiments/digits/a.yaml is "
         "digits/a)"),
        ("--runs", "folder of all runs (default: runs)"),
    ):  # fmt: skip
        parser.document_override(name, text)
    return parser


def _evaluation_parser(command: str) -> Parser:
    split = {"validate": "validation"}.get(command, command)
    parser = Parser(prog=f"imgrec {command}", description=EVALUATE.format(split=split))
    parser.add_argument(
        "run", nargs="?", metavar="RUN|CHECKPOINT", help="run folder (its best checkpoint) or .ckpt file"
    )
    parser.add_argument("--ckpt_path", metavar="FILE", help="checkpoint (default: the best checkpoint of the run)")
    parser.add_argument("--print_config", action="store_true", help="print the resolved config and exit")
    help_only_for_test = None if command == "test" else argparse.SUPPRESS
    parser.add_argument(
        "--tta", type=yaml_value, metavar="VIEWS",
        help=help_only_for_test or "views of test-time augmentation: hflip, '[hflip, five_crop]' (imgrec list views)",
    )  # fmt: skip
    parser.add_argument(
        "--tta_average", choices=("probabilities", "logits"), default="probabilities",
        help=help_only_for_test or "average of the views",
    )  # fmt: skip
    parser.accept_config(positional=False)
    return parser


def run_fit(arguments: argparse.Namespace) -> int:
    """Train a config, or continue a run with ``--ckpt_path last`` or a run folder, and print the metrics."""
    from imgrec.engine.fit import existing_checkpoint, fit_config, load_config

    if arguments.targets:
        raise UserError(f"fit: expected a config as --config {arguments.targets[0]}, got {arguments.targets[0]}.")
    for _, value in arguments.overrides:
        trust.allow(value)
    config = load_config(arguments.files)
    for key, value in arguments.overrides:
        config = override(config, key, value)
    if arguments.ckpt_path == "last" or (arguments.ckpt_path and Path(arguments.ckpt_path).is_dir()):
        from imgrec.engine.resume import find_run

        run = find_run(arguments.ckpt_path, config)
        if run is not None:
            return resume_run(run, config, arguments)
        if not arguments.print_config:
            print("there is no unfinished run: starting a new one", flush=True)
        arguments.ckpt_path = None
    elif arguments.allow_changed:
        raise UserError(
            "--allow-changed: expected --ckpt_path last or --ckpt_path RUN as well. Only a resumed run uses it."
        )
    checkpoint = existing_checkpoint(arguments.ckpt_path)
    if arguments.print_config:
        from imgrec.engine.experiment import Experiment

        print(Experiment(config).resolved, end="")
        return 0

    from imgrec.cli.output import print_training

    print_training(fit_config(config, checkpoint))
    return 0


def run_evaluation(command: Literal["validate", "test"], arguments: argparse.Namespace) -> int:
    """Evaluate a run or a checkpoint, and print the metrics."""
    trust.allow(arguments.tta)
    if arguments.tta is not None and command != "test":
        raise UserError(f"--tta: expected imgrec test or imgrec predict, got imgrec {command}.")

    from imgrec.engine.evaluation.split_evaluation import evaluate_export, exported_run, prepare

    path = arguments.run
    has_options = bool(arguments.files or arguments.overrides or arguments.ckpt_path or arguments.tta is not None)
    exported = exported_run(path) if path is not None else None
    if exported is not None:
        if arguments.print_config and not has_options:
            print((exported.path / "config.yaml").read_text(encoding="utf-8"), end="")
            return 0
        found = evaluate_export(command, exported, has_options)
        print(f"model      {found.export}")
    else:
        if path is None and arguments.ckpt_path is None and not arguments.print_config:
            raise UserError(f"{command}: expected a run folder or a checkpoint: imgrec {command} runs/...")
        configs = [read_config(each) for each in arguments.files]
        evaluation = prepare(command, path, configs, arguments.overrides, arguments.ckpt_path)
        if arguments.print_config:
            print(evaluation.experiment.resolved, end="")
            return 0
        found = evaluation.run(arguments.tta, arguments.tta_average)

    from imgrec.cli.output import print_results

    if found.metrics:
        print_results(found.metrics, found.folder, None)
    if found.error is not None:
        raise found.error
    return 0
