"""``imgrec resume``: continue a run in its own folder."""

from __future__ import annotations

import argparse

from imgrec import trust
from imgrec.cli.parser import Parser
from imgrec.engine.config import Config, merge, override, read_config
from imgrec.errors import UserError
from imgrec.runs.folder import CONFIG, RunFolder
from imgrec.utils.terminal import print

DESCRIPTION = """Continue a run in its own folder from its last checkpoint, also in the middle of an epoch. On a CPU
with the same number of threads, the result is bit-equal to that of a run without interruption. A run without a
checkpoint is started again in its folder. Each key that a config file or an override changes requires --allow-changed.
"""

EPILOG = """`imgrec fit --config C --ckpt_path last` resumes the newest unfinished run of an experiment, or starts a new
run if there is none. One command can therefore start a job and restart it. SIGTERM and Ctrl-C write a checkpoint after
the current step. The exit status is 75 after SIGTERM and 1 after Ctrl-C. The callback LastCheckpoint in
trainer.callbacks writes checkpoints more often with every_steps and every_minutes, and stores several with keep."""


def run(command: str, words: list[str]) -> int:
    """Continue the run, and print its metrics."""
    arguments = _parser().parse_args(words)
    if arguments.ckpt_path is not None:
        raise UserError(
            "--ckpt_path: resume continues from the last checkpoint of a run. For another one, use imgrec fit "
            "--ckpt_path FILE"
        )
    found = RunFolder(arguments.run)
    config = read_config(found.path / CONFIG)
    for path in arguments.files:
        config = merge(config, trust.allow(read_config(path)))
    for key, value in arguments.overrides:
        config = override(config, key, trust.allow(value))
    return resume_run(found, config, arguments)


def _parser() -> Parser:
    parser = Parser(prog="imgrec resume", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("run", metavar="RUN", help="folder of an unfinished run")
    add_resume_options(parser)
    parser.add_argument("--ckpt_path", metavar="FILE", help=argparse.SUPPRESS)
    parser.accept_config(positional=False)
    return parser


def add_resume_options(parser: Parser) -> None:
    """Add the options ``--allow-changed`` and ``--print_config``."""
    parser.add_argument(
        "--allow-changed", action="append", default=[], metavar="KEY",
        help="key that may differ from the config of the resumed run: trainer.max_epochs, optimizer.lr, "
        "data_fingerprint. May be given several times",
    )  # fmt: skip
    parser.add_argument("--print_config", action="store_true", help="print the resolved config and exit")


def resume_run(run: RunFolder, config: Config, arguments: argparse.Namespace) -> int:
    """Continue a run with a config, and print its metrics."""
    from imgrec.cli.output import print_training
    from imgrec.engine.experiment import Experiment
    from imgrec.engine.resume import plan_resume, resume_config

    plan = plan_resume(run, config, arguments.allow_changed)
    if arguments.print_config:
        print(Experiment(plan.config).resolved, end="")
    elif plan.is_finished:
        summary = run.summary
        print(f"the run {run.path} is finished: {summary.get('epochs')} epochs, {summary.get('steps')} steps")
    else:
        print_training(resume_config(plan))
    return 0
