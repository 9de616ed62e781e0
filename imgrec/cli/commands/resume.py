"""``imgrec resume``: continue a run in its own folder."""

from __future__ import annotations

from imgrec import trust
from imgrec.cli.options import Arguments, parse
from imgrec.engine.config import Config, merge, override, read_config
from imgrec.errors import UserError
from imgrec.runs.folder import CONFIG, RunFolder
from imgrec.utils.terminal import print

HELP = """usage: imgrec resume RUN [--allow-changed KEY ...] [--config FILE.yaml ...] [--key.subkey VALUE ...]

Continue a run in its own folder from its last checkpoint, also in the middle of an epoch. On a CPU with the same number
of threads, the result is bit-equal to that of a run without interruption. A run without a checkpoint is started again
in its folder.

  RUN                    folder of an unfinished run
  --allow-changed KEY    key that may differ from the config of the run: trainer.max_epochs, optimizer.lr,
                         data_fingerprint, ...
  -c, --config FILE      changes to the config of the run. Each changed key requires --allow-changed
  --key.subkey VALUE     one changed value: --allow-changed trainer.max_epochs --trainer.max_epochs 40
  --print_config         print the resolved config and exit

`imgrec fit --config C --ckpt_path last` resumes the newest unfinished run of an experiment, or starts a new run if
there is none. One command can therefore start a job and restart it. SIGTERM and Ctrl-C write a checkpoint after the
current step. The exit status is 75 after SIGTERM and 1 after Ctrl-C. The callback LastCheckpoint in trainer.callbacks
writes checkpoints more often with every_steps and every_minutes, and stores several with keep.
"""


def run(command: str, words: list[str]) -> int:
    """Run the command."""
    arguments = parse(words)
    if arguments.help:
        print(HELP, end="")
        return 0
    if len(arguments.targets) != 1:
        raise UserError(f"resume takes one run folder: imgrec resume runs/..., got {len(arguments.targets)}")
    if arguments.ckpt_path is not None:
        raise UserError(
            "resume continues from the last checkpoint of a run. For another one, use imgrec fit --ckpt_path FILE"
        )
    found = RunFolder(arguments.targets[0])
    config = read_config(found.path / CONFIG)
    for path in arguments.configs:
        config = merge(config, trust.allow(read_config(path)))
    for key, value in arguments.overrides:
        config = override(config, key, trust.allow(value))
    return resume_run(found, config, arguments)


def resume_run(run: RunFolder, config: Config, arguments: Arguments) -> int:
    """Continue a run with a config, and print its metrics."""
    from imgrec.cli.results import print_training
    from imgrec.engine.experiment import Experiment
    from imgrec.engine.resume import plan_resume, resume_config

    plan = plan_resume(run, config, arguments.allowed)
    if arguments.print_config:
        print(Experiment(plan.config).resolved, end="")
    elif plan.is_finished:
        summary = run.summary
        print(f"the run {run.path} is finished: {summary.get('epochs')} epochs, {summary.get('steps')} steps")
    else:
        print_training(resume_config(plan))
    return 0
