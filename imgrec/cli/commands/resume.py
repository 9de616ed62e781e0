"""``imgrec resume``: a run goes on in its own folder, and ends as if it had never stopped."""

from __future__ import annotations

from pathlib import Path

from imgrec import trust
from imgrec.cli.options import Arguments, parse
from imgrec.cli.training import train
from imgrec.engine.config import Config, merge, override, read_config
from imgrec.errors import UserError
from imgrec.runs.folder import CONFIG, RunFolder, find_runs
from imgrec.utils.paths import refuse_links
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
    return go_on(found, config, arguments)


def find_run(word: str, config: Config) -> RunFolder | None:
    """The run that ``--ckpt_path`` names: a folder, or with ``last`` the experiment's newest that is not finished.

    Other seeds are other runs.
    """
    if word != "last":
        return RunFolder(word)
    root = Path(config.get("runs", "runs")).expanduser() / str(config["experiment"])
    seed = config.get("seed_everything", 0)
    unfinished = []
    for path in find_runs(root, depth=1):
        found = RunFolder(path)
        same_seed = seed is True or found.config.get("seed_everything") == seed
        if same_seed and not is_complete(found, found.config):
            unfinished.append((str(found.environment.get("started")), path.name, found))
    return max(unfinished, key=lambda each: each[:2])[2] if unfinished else None


def is_complete(run: RunFolder, config: Config) -> bool:
    """Whether nothing is left to do in a run: it was trained, and evaluated where that was asked for."""
    evaluated = run.report.is_file() or not config.get("evaluate_after_fit", True)
    return run.summary.get("status") == "finished" and evaluated


def go_on(run: RunFolder, config: Config, arguments: Arguments) -> int:
    """Go on in a run's folder with ``config``.

    Raises:
        UserError: the config is another one than the run's, another process trains in the folder, its checkpoints
            cannot be read, or its data has changed.
    """
    from lightning_utilities.core.rank_zero import rank_zero_only

    from imgrec.engine.experiment import Engine, quiet_libraries, resolve
    from imgrec.runs.checkpoints import find_usable
    from imgrec.runs.lock import RunLock
    from imgrec.runs.resume import Resumption, check_changes

    quiet_libraries()
    if config.get("seed_everything") is True:
        config = {**config, "seed_everything": run.config["seed_everything"]}
    now = resolve(config)
    refuse_links(run.path)
    with trust.opening(run.path):
        before = resolve(read_config(run.path / CONFIG))
    _settle(now, before)
    changed, allowed = check_changes(run.path, before, now, arguments.allowed)
    if arguments.print_config:
        print(Engine(now).resolved, end="")
        return 0
    if is_complete(run, before) and not changed:
        summary = run.summary
        print(f"the run {run.path} is finished: {summary.get('epochs')} epochs, {summary.get('steps')} steps")
        return 0
    if getattr(rank_zero_only, "rank", 0) == 0:
        RunLock(run.path).release()
    start = find_usable(run.path)
    engine = Engine(now if start is None else _without_weights(now))
    engine.config["model"]["init_args"].pop("load_weights", None)
    if engine.trainer.fast_dev_run:
        raise UserError("trainer.fast_dev_run: a rehearsal leaves nothing that could go on")
    return train(engine, start.path if start else None, run.path, Resumption(start, changed, allowed))


def _without_weights(config: Config) -> Config:
    """The config of a task that needs nothing of what training once started from, where it is one that can."""
    from imgrec.engine.instantiate import find_class
    from imgrec.tasks import BaseTask

    task = find_class(config["model"]["class_path"], object, "model")
    return override(config, "model.load_weights", False) if issubclass(task, BaseTask) else config


def _settle(now: Config, before: Config) -> None:
    """Put in, where ``now`` leaves it open, what the run settled for itself: a random seed, what was measured."""
    for place in (["trainer", "precision"], ["model", "init_args", "channels_last"]):
        ours, theirs = now, before
        for key in place[:-1]:
            ours, theirs = ours[key], theirs[key]
        if ours.get(place[-1]) == "auto":
            ours[place[-1]] = theirs.get(place[-1])
