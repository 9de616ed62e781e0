"""What benchmarks share that train one recipe in several ways: `imgrec fit` in this process, the ways in turn."""

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


def fit(folder: Path, name: str, config: str, *words: str) -> tuple[RunFolder, float]:
    """`imgrec fit` of an experiment, with further words: its run, and the CPU seconds it took."""
    os.environ["IMGREC_CACHE"] = str(folder / "cache")
    command = ["fit", "--runs", str(folder), "--experiment", name, "--config", str(EXPERIMENTS / f"{config}.yaml")]
    command += ["--data.num_workers", "0", "--trainer.enable_progress_bar", "false", *words]
    said = io.StringIO()
    logging.disable(logging.INFO)
    began = time.process_time()
    with contextlib.redirect_stdout(said), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        status = imgrec(command)
    if status:
        raise RuntimeError(f"imgrec {' '.join(command)} ended with {status}:\n{said.getvalue()}")
    (made,) = (folder / name).iterdir()
    return RunFolder(made), time.process_time() - began


def recalls(found: Predictions) -> NDArray[np.float64]:
    """The recall of each class: ``(classes,)``."""
    right = found.predicted == found.targets
    return np.asarray([right[found.targets == target].mean() for target in range(len(found.class_names))])


def side_by_side(
    folder: Path, config: str, sides: Mapping[str, Sequence[str]], seeds: int, words: Sequence[str] = ()
) -> dict[str, list[Predictions]]:
    """What each side says of the test images, one run a seed; a line is printed for each run."""
    found: dict[str, list[Predictions]] = {name: [] for name in sides}
    for seed in range(seeds):
        for name, more in sides.items():
            place = f"{name.replace(' ', '_')}_{seed}"
            run, seconds = fit(folder, place, config, *more, *words, "--seed_everything", str(seed))
            test, epoch = run.predictions("test"), run.summary["best_epoch"]
            found[name].append(test)
            print(
                f"seed {seed}, {name}: macro recall {recalls(test).mean():.2%} after epoch {epoch + 1}, "
                f"{seconds:.0f} CPU s",
                flush=True,
            )
    return found


def summary(found: Mapping[str, Sequence[Predictions]], groups: Mapping[str, slice]) -> None:
    """The mean of each side over the seeds with its standard deviation, and that of some groups of classes."""
    width = max(map(len, found))
    for name, runs in found.items():
        table = 100 * np.stack([recalls(run) for run in runs])
        means = table.mean(1)
        parts = "".join(f", {what} {table[:, part].mean():.1f}" for what, part in groups.items())
        print(f"{name:<{width}}  {means.mean():.2f} %, standard deviation {means.std(ddof=1):.2f}{parts}")


def gain(ours: Sequence[Predictions], theirs: Sequence[Predictions]) -> tuple[SeedsDifference, str]:
    """How much more of the test images one side names correctly, over other seeds and images; and that in words."""
    first, second = (np.stack([run.predicted == run.targets for run in runs]) for runs in (ours, theirs))
    found = difference_over_seeds(first, second)
    interval = f"95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f}"
    return found, f"{100 * found.difference:+.2f} points ({interval})"


def gains(found: Mapping[str, Sequence[Predictions]], base: str, what: str) -> list[Claim]:
    """One claim a side: that it is better than ``base`` on the test images, over other seeds and images."""
    claims = []
    for name, runs in found.items():
        if name != base:
            by, measured = gain(runs, found[base])
            claims.append(Claim(f"{name} {what}", measured, "above 0 with its interval", by.low > 0))
    return claims
