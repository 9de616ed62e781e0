"""``imgrec fit``, ``validate`` and ``test``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from imgrec import trust
from imgrec.cli.commands.resume import resume_run
from imgrec.cli.options import Arguments, parse
from imgrec.engine.config import override, read_config
from imgrec.errors import UserError
from imgrec.utils.terminal import print

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
        return run_fit(arguments)
    return run_evaluation(cast(Literal["validate", "test"], command), arguments)


def run_fit(arguments: Arguments) -> int:
    """Train a config, or continue a run with ``--ckpt_path last`` or a run folder, and print the metrics."""
    from imgrec.engine.fit import existing_checkpoint, fit_config, load_config

    if arguments.targets:
        raise UserError(f"fit takes its config by --config {arguments.targets[0]}")
    for _, value in arguments.overrides:
        trust.allow(value)
    config = load_config(arguments.configs)
    for key, value in arguments.overrides:
        config = override(config, key, value)
    if arguments.ckpt_path == "last" or (arguments.ckpt_path and Path(arguments.ckpt_path).is_dir()):
        from imgrec.engine.resume import find_run

        run = find_run(arguments.ckpt_path, config)
        if run is not None:
            return resume_run(run, config, arguments)
        if not arguments.print_config:
            print("no run is unfinished: a new one begins", flush=True)
        arguments.ckpt_path = None
    elif arguments.allowed:
        raise UserError("--allow-changed is for imgrec resume, and for --ckpt_path last or a run folder")
    checkpoint = existing_checkpoint(arguments.ckpt_path)
    if arguments.print_config:
        from imgrec.engine.experiment import Experiment

        print(Experiment(config).resolved, end="")
        return 0

    from imgrec.cli.results import print_training

    print_training(fit_config(config, checkpoint))
    return 0


def run_evaluation(command: Literal["validate", "test"], arguments: Arguments) -> int:
    """Evaluate a run or a checkpoint, and print the metrics."""
    if len(arguments.targets) > 1:
        raise UserError(f"{command} takes one run folder or checkpoint, got {len(arguments.targets)}")

    from imgrec.engine.split_evaluation import evaluate_export, exported_run, prepare

    path = arguments.targets[0] if arguments.targets else None
    has_options = bool(arguments.configs or arguments.overrides or arguments.ckpt_path or arguments.tta is not None)
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
        configs = [read_config(each) for each in arguments.configs]
        evaluation = prepare(command, path, configs, arguments.overrides, arguments.ckpt_path)
        if arguments.print_config:
            print(evaluation.experiment.resolved, end="")
            return 0
        found = evaluation.run(arguments.tta, arguments.tta_average)

    from imgrec.cli.results import print_results

    if found.metrics:
        print_results(found.metrics, found.folder, None)
    if found.error is not None:
        raise found.error
    return 0
