"""Experiment of the commands that train a few steps: lr-find, batch-find, cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from imgrec.engine.config import override
from imgrec.errors import UserError
from imgrec.utils.terminal import print

if TYPE_CHECKING:
    from imgrec.engine.experiment import Experiment


def build_short_run(command: str, files: Sequence[str], overrides: Sequence[tuple[str, Any]]) -> Experiment:
    """Build the experiment of a command line, and print the callbacks that do not run.

    Args:
        command: Name of the command, for messages.
        files: Config files, later files merged over earlier files.
        overrides: Dotted keys with their values.

    Raises:
        UserError: If no config is given, or if :func:`imgrec.engine.tuning.short_run.prepare_experiment` raises it.
    """
    from imgrec.engine.tuning.short_run import prepare_experiment, read_configs, skipped_callbacks

    if not files:
        raise UserError(f"{command} needs a config: imgrec {command} experiments/digits/quickstart.yaml")
    config = read_configs(*files)
    for key, value in overrides:
        config = override(config, key, value)
    experiment = prepare_experiment(config)
    if skipped := skipped_callbacks(experiment):
        print(f"not run    {', '.join(skipped)}", flush=True)
    return experiment
