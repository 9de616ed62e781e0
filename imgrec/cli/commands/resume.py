"""``imgrec resume``: a run goes on in its own folder, and ends as if it had never stopped."""

from __future__ import annotations

from imgrec import trust
from imgrec.cli.options import Arguments, parse
from imgrec.engine.config import Config, merge, override, read_config
from imgrec.errors import UserError
from imgrec.runs.folder import CONFIG, RunFolder
from imgrec.utils.terminal import print

HELP = """usage: imgrec resume RUN [--allow-changed KEY ...] [--config FILE.yaml ...] [--key.subkey VALUE ...]

Go on with a run in its own folder, from its last checkpoint: in the middle of an epoch, too. On a CPU with as many
threads it ends as it would have without the stop, bit for bit. Without a checkpoint it begins anew in its folder.

  RUN                    a run folder that is not finished
  --allow-changed KEY    what may differ from the run's config: trainer.max_epochs, optimizer.lr, data_fingerprint, ...
  -c, --config FILE      changes to the run's config; each needs an --allow-changed
  --key.subkey VALUE     one value, likewise: --allow-changed trainer.max_epochs --trainer.max_epochs 40
  --print_config         print the resolved config, and stop

`imgrec fit --config C --ckpt_path last` does the same for the newest unfinished run of an experiment, and begins one
where there is none: one command to start a job, and to start it again. SIGTERM and Ctrl-C write a checkpoint after the
step that is being made; the exit status is 75 after SIGTERM, 1 after Ctrl-C. More often, or more of them, by
trainer.callbacks: LastCheckpoint(every_steps, every_minutes, keep).
"""


def run(command: str, words: list[str]) -> int:
    """Carry out the command."""
    arguments = parse(words)
    if arguments.help:
        print(HELP, end="")
        return 0
    if len(arguments.targets) != 1:
        raise UserError(f"resume takes one run folder: imgrec resume runs/..., got {len(arguments.targets)}")
    if arguments.ckpt_path is not None:
        raise UserError("resume takes the run's last checkpoint; from another one: imgrec fit --config ... --ckpt_path")
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
