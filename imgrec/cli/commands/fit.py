"""``imgrec fit``, ``validate`` and ``test``: what they take, and what is made of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec import trust
from imgrec.cli.commands.resume import find_run, go_on
from imgrec.cli.options import Arguments, parse
from imgrec.cli.training import evaluate_splits, train
from imgrec.engine.config import Config, experiment_name, merge, override, read_config
from imgrec.errors import UserError
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.engine.experiment import Engine
    from imgrec.engine.target import Target
    from imgrec.runs.folder import RunFolder

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
Without overrides, the figures and predictions of a run folder are written into it. A run whose figures are those of
an export, such as an int8 variant, is evaluated by that export, in its runtime, and left as it is.

  RUN                  a run folder (its best checkpoint), or a .ckpt file
  -c, --config FILE    changes to the config, or the config where no run is given
  --ckpt_path FILE     the checkpoint, where it is not the run's best
  --key.subkey VALUE   one value: --data.batch_size 256
  --print_config       print the resolved config, and stop
  --tta VIEWS          test: look at further views of each image, too: hflip, '[hflip, five_crop]' (imgrec list views)
  --tta_average WHAT   take the mean of their probabilities (the default) or of their logits
"""


def run(command: str, words: list[str]) -> int:
    """Carry out one of the three commands."""
    arguments = parse(words)
    if arguments.help:
        split = {"validate": "validation"}.get(command, command)
        print(FIT_HELP if command == "fit" else EVALUATE_HELP.format(command=command, split=split), end="")
        return 0
    trust.allow(arguments.tta)
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
        run = find_run(arguments.ckpt_path, config)
        if run is not None:
            return go_on(run, config, arguments)
        if not arguments.print_config:
            print("no run is unfinished: a new one begins", flush=True)
        arguments.ckpt_path = None
    elif arguments.allowed:
        raise UserError("--allow-changed is for imgrec resume, and for --ckpt_path last or a run folder")
    checkpoint = existing_checkpoint(arguments.ckpt_path)

    from imgrec.engine.experiment import Engine
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


def evaluate(command: str, arguments: Arguments) -> int:
    """Evaluate a run or a checkpoint; write into the run where nothing was overridden."""
    if len(arguments.targets) > 1:
        raise UserError(f"{command} takes one run folder or checkpoint, got {len(arguments.targets)}")

    from imgrec.cli.exported import evaluate_export, exported_run
    from imgrec.engine.experiment import Engine
    from imgrec.engine.target import find_target

    if (run := exported_run(arguments.targets)) is not None:
        return evaluate_export(command, run, arguments)
    target = find_target(arguments.targets[0]) if arguments.targets else None
    config = target.config if target else {}
    for path in arguments.configs:
        config = merge(config, trust.allow(read_config(path)))
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

    content = read_checkpoint(Path(str(checkpoint)))
    if arguments.tta is not None:
        trainer.callbacks.append(TestTimeViews(arguments.tta, arguments.tta_average))
    if target and target.trained:
        _choose_images(target.trained, target.config, engine, {"validate": "val"}.get(command, command))
    elif target:
        _refuse_changed(target, engine, content)
    untouched = not (arguments.configs or arguments.overrides or arguments.ckpt_path or arguments.tta)
    folder = target.run if target and untouched else None
    recorder = RunRecorder(folder=folder.path) if folder is not None else None
    if recorder is not None:
        trainer.callbacks.insert(0, recorder)
    results = evaluate_splits(trainer, engine.task, engine.data, checkpoint, [command])
    if trainer.is_global_zero:
        print_results(results, folder, None)
    if recorder is not None:
        recorder.unwritten.raise_first()
    return 0


def _choose_images(run: RunFolder, config: Config, engine: Engine, split: str) -> None:
    """Evaluate the images of the run's own split; with options that select others, warn of training images in them."""
    from imgrec.engine.experiment import resolve
    from imgrec.runs.data import hold_to_run, selects_otherwise

    if not selects_otherwise(engine.config["data"], resolve(config)["data"]):
        hold_to_run(engine.data, run)
        return
    stored = run.splits() if hasattr(engine.data, "split_table") else None
    if stored is None:
        return
    engine.data.prepare_data()
    engine.data.setup("test")
    rows = getattr(engine.data.splits, split)
    if found := stored.trained_on(engine.data.source, rows):
        print(
            f"warning: the run was trained on {len(found):,} of these {len(rows):,} images ({found[0]}): "
            "the figures are too good",
            file=sys.stderr,
        )


def _refuse_changed(target: Target, engine: Engine, content: Mapping[str, Any]) -> None:
    """Refuse to draw the split of a checkpoint without a run folder again, if its data has changed."""
    from imgrec.engine.experiment import resolve
    from imgrec.runs.data import DATA, selects_otherwise

    before = content.get("imgrec", {}).get(DATA)
    if before is None or selects_otherwise(engine.config["data"], resolve(target.config)["data"]):
        return
    engine.data.prepare_data()
    engine.data.setup("test")
    now = getattr(engine.data, "fingerprint", None)
    if now != before:
        raise UserError(
            f"the data of {target.checkpoint} has changed since it was trained: its fingerprint was {before} and is "
            f"{now} now. Its split cannot be found again without its run folder. imgrec evaluate {target.checkpoint} "
            "DATA evaluates any labelled set"
        )


def _overridden(config: Config, arguments: Arguments) -> Config:
    for key, value in arguments.overrides:
        config = override(config, key, trust.allow(value))
    return config


def existing_checkpoint(path: str | None) -> str | None:
    """``path`` where it is a file, or ``None`` where none was given."""
    if path is not None and not Path(path).is_file():
        raise UserError(f"checkpoint not found: {path}")
    return path
