"""Functions of benchmarks that train variants of one recipe with `imgrec fit`."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from common import Claim
from numpy.typing import NDArray

from imgrec import RunFolder
from imgrec.cli.main import main as imgrec
from imgrec.runs.predictions import Predictions
from imgrec.stats.seeds import SeedsDifference, difference_over_seeds

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def fit(folder: Path, name: str, config: str, *overrides: str) -> tuple[RunFolder, float]:
    """Run `imgrec fit` with an experiment and overrides. Return its run and its CPU seconds."""
    os.environ["IMGREC_CACHE"] = str(folder / "cache")
    command = ["fit", "--runs", str(folder), "--experiment", name, "--config", str(EXPERIMENTS / f"{config}.yaml")]
    command += ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false", *overrides]
    output = io.StringIO()
    logging.disable(logging.INFO)
    began = time.process_time()
    with contextlib.redirect_stdout(output), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = imgrec(command)
    if status:
        raise RuntimeError(f"imgrec {' '.join(command)} ended with {status}:\n{output.getvalue()}")
    (run_path,) = (folder / name).iterdir()
    return RunFolder(run_path), time.process_time() - began


def recalls(found: Predictions) -> NDArray[np.float64]:
    """Return the recall of each class, shape ``(classes,)``."""
    right = found.predicted == found.targets
    return np.asarray([right[found.targets == target].mean() for target in range(len(found.class_names))])


def train_variants(
    folder: Path, config: str, sides: Mapping[str, Sequence[str]], seeds: int, overrides: Sequence[str] = ()
) -> dict[str, list[Predictions]]:
    """Train each variant with each seed, print one line per run and return the test predictions."""
    found: dict[str, list[Predictions]] = {name: [] for name in sides}
    for seed in range(seeds):
        for name, variant in sides.items():
            experiment = f"{name.replace(' ', '_')}_{seed}"
            run, seconds = fit(folder, experiment, config, *variant, *overrides, "--seed_everything", str(seed))
            test, epoch = run.predictions("test"), run.summary["best_epoch"]
            found[name].append(test)
            print(
                f"seed {seed}, {name}: macro recall {recalls(test).mean():.2%} after epoch {epoch + 1}, "
                f"{seconds:.0f} CPU s",
                flush=True,
            )
    return found


def print_summary(found: Mapping[str, Sequence[Predictions]], groups: Mapping[str, slice]) -> None:
    """Print mean and standard deviation of each variant over the seeds, and the means of groups of classes."""
    width = max(map(len, found))
    for name, runs in found.items():
        table = 100 * np.stack([recalls(run) for run in runs])
        means = table.mean(1)
        parts = "".join(f", {label} {table[:, part].mean():.1f}" for label, part in groups.items())
        print(f"{name:<{width}}  {means.mean():.2f} %, standard deviation {means.std(ddof=1):.2f}{parts}")


def accuracy_gain(ours: Sequence[Predictions], theirs: Sequence[Predictions]) -> tuple[SeedsDifference, str]:
    """Return the accuracy gain of one variant, with its interval over seeds and images, and as text."""
    first, second = (np.stack([run.predicted == run.targets for run in runs]) for runs in (ours, theirs))
    found = difference_over_seeds(first, second)
    interval = f"95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f}"
    return found, f"{100 * found.difference:+.2f} points ({interval})"


def claim_gains(found: Mapping[str, Sequence[Predictions]], base: str, label: str) -> list[Claim]:
    """Return one claim per variant: its test accuracy is above that of ``base``, over seeds and images."""
    claims = []
    for name, runs in found.items():
        if name != base:
            by, measured = accuracy_gain(runs, found[base])
            claims.append(Claim(f"{name} {label}", measured, "above 0 with its interval", by.low > 0))
    return claims
