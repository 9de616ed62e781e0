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

Train the model of a config, evaluate the best checkpoint, and write a run folder under runs/.

  -c, --config FILE    config file. Several are merged, later over earlier
  --key.subkey VALUE   one value: --model.loss focal --model.optimizer.lr 0.1 --trainer.max_epochs 5.
                       A key with + at its end appends: --trainer.callbacks+ EarlyStopping
  --ckpt_path FILE     continue from this checkpoint, in a new run folder
  --ckpt_path last     resume the newest unfinished run of the experiment in its folder, bit-equal to a run without
                       interruption. Without an unfinished run, start a new one. --ckpt_path RUN resumes one run, see
                       imgrec resume --help
  --print_config       print the resolved config and exit
  --experiment NAME    folder under runs/ (default: name of the config, experiments/digits/a.yaml -> digits/a)
  --runs FOLDER        folder of all runs (default: runs)

A config has the keys model, data, trainer and seed_everything:

  model:               # class_path: imgrec.ClassificationTask or a subclass of it
    backbone: resnet18                          # imgrec list backbones
    loss: {name: focal, gamma: 2.0}             # imgrec list losses; imgrec show losses focal
    optimizer: {name: adamw, lr: 1e-3}          # imgrec list optimizers
  data:
    source: {name: folder, root: my-images}     # imgrec list sources
    image_size: 224
  trainer: {max_epochs: 20}                     # Lightning's Trainer
"""

EVALUATE_HELP = """usage: imgrec {command} RUN|CHECKPOINT [--config FILE.yaml ...] [--key.subkey VALUE ...]

Evaluate a model on the {split} split. A run folder or a checkpoint contains its config.
Without overrides, the metrics and predictions of a run are written into its folder. The metrics of a quantized variant
are those of its export. Such a run is evaluated with the export, in its runtime, and its folder is unchanged.

  RUN                  run folder (its best checkpoint) or .ckpt file
  -c, --config FILE    changes to the config, or the config if no run is given
  --ckpt_path FILE     checkpoint other than the best one of the run
  --key.subkey VALUE   one value: --data.batch_size 256
  --print_config       print the resolved config and exit
  --tta VIEWS          for test: views of test-time augmentation, hflip or '[hflip, five_crop]' (imgrec list views)
  --tta_average NAME   average of the views: probabilities (default) or logits
"""


def run(command: str, words: list[str]) -> int:
    """Run the command ``fit``, ``validate`` or ``test``."""
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
            print("no run is unfinished: starting a new one", flush=True)
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
