"""``imgrec fit``, ``validate`` and ``test``: what they take, in which order things happen, what they print."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.cli.config import Config, merge, override, parse_value, read_config
from imgrec.errors import UserError

if TYPE_CHECKING:
    import pytorch_lightning as pl

    from imgrec.cli.engine import Engine

FIT_HELP = """usage: imgrec fit --config FILE.yaml [--config FILE.yaml ...] [--key.subkey VALUE ...]

Train what the config says, evaluate the best checkpoint, and leave a run folder under runs/.

  -c, --config FILE    a config; several are merged, later over earlier
  --key.subkey VALUE   one value: --model.loss focal --model.optimizer.lr 0.1 --trainer.max_epochs 5;
                       a key ending in + appends: --trainer.callbacks+ EarlyStopping
  --ckpt_path FILE     go on from this checkpoint, in a new run folder
  --ckpt_path last     go on in the folder of the experiment's newest run that is not finished, exactly where it stood;
                       where there is none, begin. Also --ckpt_path RUN; see imgrec resume --help
  --print_config       print the resolved config, and stop
  --experiment NAME    the folder under runs/; by default the config's own name: experiments/digits/a.yaml -> digits/a
  --runs FOLDER        where runs are kept (default: runs)

A config has the keys model, data, trainer and seed_everything:

  model:               # class_path: imgrec.ClassificationTask, or a subclass of your own
    backbone: resnet18                          # imgrec list backbones
    loss: {name: focal, gamma: 2.0}             # imgrec list losses; imgrec show losses focal
    optimizer: {name: adamw, lr: 1e-3}          # imgrec list optimizers
  data:
    source: {name: folder, root: my-images}     # imgrec list sources
    image_size: 224
  trainer: {max_epochs: 20}                     # Lightning's Trainer
"""

EVALUATE_HELP = """usage: imgrec {command} RUN|CHECKPOINT [--config FILE.yaml ...] [--key.subkey VALUE ...]

Evaluate on the {split} split. A run folder or a checkpoint is enough: they know their config.
Without overrides, the figures and predictions of a run folder are written into it.

  RUN                  a run folder (its best checkpoint), or a .ckpt file
  -c, --config FILE    changes to the config, or the config where no run is given
  --ckpt_path FILE     the checkpoint, where it is not the run's best
  --key.subkey VALUE   one value: --data.batch_size 256
  --print_config       print the resolved config, and stop
  --tta VIEWS          test: look at further views of each image, too: hflip, '[hflip, five_crop]' (imgrec list views)
  --tta_average WHAT   take the mean of their probabilities (the default) or of their logits
"""


@dataclass
class Arguments:
    """A training command, taken apart."""

    targets: list[str] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    overrides: list[tuple[str, Any]] = field(default_factory=list)
    ckpt_path: str | None = None
    allowed: list[str] = field(default_factory=list)
    tta: Any = None
    tta_average: Any = "probabilities"
    print_config: bool = False
    help: bool = False


def parse(words: list[str]) -> Arguments:
    """Take a command line apart; an option without a value means ``true``."""
    found = Arguments()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            found.help = True
        elif word.partition("=")[0] == "--print_config":
            found.print_config = True
        elif word.startswith("--") or word == "-c" or word.startswith("-c="):
            key, equals, value = word.lstrip("-").partition("=")
            takes_next = not equals and rest and (not rest[0].startswith("-") or _is_number(rest[0]))
            if not equals:
                value = rest.pop(0) if takes_next else ""
            if key in ("config", "c", "ckpt_path") and not value:
                raise UserError(f"{word} needs a file")
            if key == "allow-changed" and not value:
                raise UserError(f"{word} needs a key, such as trainer.max_epochs")
            if key in ("config", "c"):
                found.configs.append(value)
            elif key == "ckpt_path":
                found.ckpt_path = value
            elif key == "allow-changed":
                found.allowed.append(value)
            elif key in ("tta", "tta_average"):
                setattr(found, key, parse_value(value))
            else:
                found.overrides.append((key, parse_value(value) if equals or takes_next else True))
        elif word.startswith("-"):
            raise UserError(f'there is no option "{word}"')
        else:
            found.targets.append(word)
    return found


def _is_number(word: str) -> bool:
    return isinstance(parse_value(word), int | float)


def run(command: str, words: list[str]) -> int:
    """Carry out one of the three commands."""
    arguments = parse(words)
    if arguments.help:
        split = {"validate": "validation"}.get(command, command)
        print(FIT_HELP if command == "fit" else EVALUATE_HELP.format(command=command, split=split), end="")
        return 0
    if arguments.tta is not None and command != "test":
        raise UserError(f"--tta is for test and predict, not for {command}")
    if command == "fit":
        return fit(arguments)
    return evaluate(command, arguments)


def fit(arguments: Arguments) -> int:
    """Train; then evaluate the best checkpoint and write the report."""
    if arguments.targets:
        raise UserError(f"fit takes its config by --config {arguments.targets[0]}")
    config: Config = {}
    for path in arguments.configs:
        config = merge(config, read_config(path))
    config.setdefault("experiment", experiment_name(arguments.configs))
    config = _overridden(config, arguments)
    if arguments.ckpt_path == "last" or (arguments.ckpt_path and Path(arguments.ckpt_path).is_dir()):
        from imgrec.cli.resume import find_run, go_on

        run = find_run(arguments.ckpt_path, config)
        if run is not None:
            return go_on(run, config, arguments)
        if not arguments.print_config:
            print("no run is unfinished: a new one begins", flush=True)
        arguments.ckpt_path = None
    elif arguments.allowed:
        raise UserError("--allow-changed is for imgrec resume, and for --ckpt_path last or a run folder")
    checkpoint = existing_checkpoint(arguments.ckpt_path)

    from imgrec.cli.engine import Engine
    from imgrec.runs.folder import check_writable
    from imgrec.runs.load import read_checkpoint

    engine = Engine(config)
    if arguments.print_config:
        print(engine.resolved, end="")
        return 0
    if not engine.trainer.fast_dev_run:
        check_writable(engine.config["runs"], engine.config["experiment"])
    if checkpoint is not None:
        read_checkpoint(Path(checkpoint))
    return train(engine, checkpoint)


def train(engine: Engine, checkpoint: str | Path | None, run: Path | None = None, resumption: Any = None) -> int:
    """Train from ``checkpoint`` on, then evaluate the best checkpoint and write the report.

    Args:
        engine: what the config builds.
        checkpoint: where training goes on from; ``None`` begins.
        run: the run folder to go on in; by default a new one is made.
        resumption: how it goes on there.
    """
    from lightning_fabric.utilities.exceptions import MisconfigurationException

    from imgrec.callbacks import RunRecorder, make_lean
    from imgrec.callbacks.mirror import close_mirrors
    from imgrec.runs.load import read_checkpoint
    from imgrec.tasks import BaseTask

    if checkpoint is not None and isinstance(engine.task, BaseTask):
        engine.task.expect(read_checkpoint(Path(checkpoint)))
    trainer = engine.settle()
    rehearsal = bool(trainer.fast_dev_run)
    config = engine.config
    recorder = RunRecorder(config["experiment"], config["runs"], engine.resolved, folder=run, resumption=resumption)
    trainer.callbacks.insert(0, recorder)
    make_lean(trainer, engine.task)
    try:
        trainer.fit(engine.task, datamodule=engine.data, ckpt_path=checkpoint, weights_only=True)
    except MisconfigurationException as error:
        raise UserError(f"trainer: {error}") from error
    if config["evaluate_after_fit"] and not trainer.interrupted:
        _evaluate_after_fit(engine, recorder, rehearsal)
    close_mirrors(trainer)
    return 0


def _evaluate_after_fit(engine: Engine, recorder: Any, rehearsal: bool) -> None:
    from pytorch_lightning.callbacks import WeightAveraging

    from imgrec.cli.report import write
    from imgrec.cli.results import print_results
    from imgrec.runs.folder import RunFolder

    trainer, data, task = engine.trainer, engine.data, engine.task
    # in a test, Lightning's averaging puts the weights of the last step in the place of the checkpoint's averages
    trainer.callbacks = [each for each in trainer.callbacks if not isinstance(each, WeightAveraging)]
    best = None if rehearsal else recorder.trained_checkpoint(trainer)
    results = evaluate_splits(trainer, task, data, best, ["validate", "test"])
    if rehearsal or recorder.folder is None:
        return
    if trainer.is_global_zero:
        run = RunFolder(recorder.folder)
        print_results(results, run, write(run, data))


def evaluate_splits(
    trainer: pl.Trainer, task: Any, data: Any, checkpoint: str | Path | None, commands: list[str]
) -> dict[str, dict[str, float]]:
    """The figures of each split by name; a test split that the data lacks is left out."""
    results: dict[str, dict[str, float]] = {}
    for command in commands:
        split = {"validate": "val"}.get(command, command)
        sizes = data.split_sizes() if hasattr(data, "split_sizes") and len(commands) > 1 else {}
        if sizes and not sizes.get(split):
            continue
        getattr(trainer, command)(task, datamodule=data, ckpt_path=checkpoint, verbose=False, weights_only=True)
        prefix = f"{split}/"
        results[split] = {
            k.removeprefix(prefix): float(v) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)
        }
    return results


def evaluate(command: str, arguments: Arguments) -> int:
    """Evaluate a run or a checkpoint; write into the run where nothing was overridden."""
    if len(arguments.targets) > 1:
        raise UserError(f"{command} takes one run folder or checkpoint, got {len(arguments.targets)}")

    from imgrec.cli.engine import Engine
    from imgrec.cli.targets import find_target

    target = find_target(arguments.targets[0]) if arguments.targets else None
    config = target.config if target else {}
    for path in arguments.configs:
        config = merge(config, read_config(path))
    config = _overridden(config, arguments)
    checkpoint = existing_checkpoint(arguments.ckpt_path) or (target.checkpoint if target else None)
    if checkpoint is None and not arguments.print_config:
        raise UserError(f"{command} needs a run folder or a checkpoint: imgrec {command} runs/...")
    config = override(config, "model.load_weights", False)
    engine = Engine(config, bare=True)
    trainer = engine.trainer
    if arguments.print_config:
        print(engine.resolved, end="")
        return 0

    from imgrec.callbacks import RunRecorder, TestTimeViews
    from imgrec.cli.results import print_results
    from imgrec.runs.load import read_checkpoint

    read_checkpoint(Path(str(checkpoint)))
    if arguments.tta is not None:
        trainer.callbacks.append(TestTimeViews(arguments.tta, arguments.tta_average))
    untouched = not (arguments.configs or arguments.overrides or arguments.ckpt_path or arguments.tta)
    folder = target.run if target and untouched else None
    if folder is not None:
        trainer.callbacks.insert(0, RunRecorder(folder=folder.path))
    results = evaluate_splits(trainer, engine.task, engine.data, checkpoint, [command])
    if trainer.is_global_zero:
        print_results(results, folder, None)
    return 0


def _overridden(config: Config, arguments: Arguments) -> Config:
    for key, value in arguments.overrides:
        config = override(config, key, value)
    return config


def existing_checkpoint(path: str | None) -> str | None:
    """``path`` where it is a file, or ``None`` where none was given."""
    if path is not None and not Path(path).is_file():
        raise UserError(f"checkpoint not found: {path}")
    return path


def experiment_name(configs: list[str]) -> str:
    """The name that the first config gives: its path below a folder ``experiments``, else its own name.

    >>> experiment_name(["experiments/digits/quickstart.yaml", "more.yaml"])
    'digits/quickstart'
    """
    for config in configs:
        path = Path(config).absolute().with_suffix("")
        if "experiments" in path.parts[:-1]:
            at = len(path.parts) - 1 - path.parts[::-1].index("experiments")
            inside = path.parts[at + 1 :]
            if inside[0] != "_parts":
                return "/".join(inside)
        else:
            return path.name
    return "experiment"
