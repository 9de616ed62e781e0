"""Training time to a test accuracy on one core: the YAML recipes of imgrec compared with the loop of article.py.

`imgrec fit` runs experiments/<data>/fast.yaml, each seed in a subprocess with an empty cache. The test accuracy is
measured once, after training, and must reach the level. The baseline trains until its validation accuracy reaches the
level, which is easier. It is stopped after 20 times the training time of imgrec (--give_up). CPU seconds of training
are compared. They include decoding, augmentation, steps, logging and checkpoints. Imports, validation and test are
reported separately. Requires about three hours.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import article
import torch
from common import Claim, finish, pin
from input_common import data

from imgrec import RunFolder

HERE = Path(__file__).parent
RATIO = 5.0


@dataclass(frozen=True)
class Race:
    """Dataset, accuracy level and time budget."""

    data: str
    folder: str
    level: float
    budget: float
    """CPU seconds of training."""
    article_seeds: int
    """Number of seeds of the baseline, which takes more than an hour per seed on CIFAR-10."""


RACES = (
    Race("fashion_mnist", "FashionMNIST", 0.915, 100.0, 3),
    Race("cifar10", "cifar10", 0.84, 420.0, 1),
)


@dataclass(frozen=True)
class Run:
    """Result and CPU seconds of one run."""

    train: float
    validate: float
    whole: float
    val: float
    test: float


def train_recipe(race: Race, seed: int, *extra: str) -> Run:
    """Run `imgrec fit` with the recipe and further arguments in a subprocess."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Path(folder) / "clock.yaml"
        seconds = Path(folder) / "seconds.json"
        callback = {"class_path": "clock_common.TrainingClock", "init_args": {"path": str(seconds)}}
        clock.write_text(json.dumps({"trainer": {"callbacks+": callback}}), encoding="utf-8")
        recipe = HERE.parent / "experiments" / race.data / "fast.yaml"
        command = [
            str(Path(sys.executable).with_name("imgrec")),
            "fit",
            "--config",
            str(recipe),
            "--config",
            str(clock),
        ]
        command += ["--seed_everything", str(seed), "--runs", folder, *extra]
        environment = {**os.environ, "IMGREC_CACHE": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, cwd=HERE, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        (made,) = (Path(folder) / race.data / "fast").iterdir()
        summary, took = RunFolder(made).summary, json.loads(seconds.read_text(encoding="utf-8"))
    return Run(
        took["train_cpu_s"],
        took["validate_cpu_s"],
        usage.ru_utime + usage.ru_stime,
        summary["val"]["acc"],
        summary["test"]["acc"],
    )


def run_full(race: Race, root: Path, give_up: float) -> list[Claim]:
    """Train three seeds with imgrec and run the baseline to the same level."""
    print(f"{race.data}: {race.level:.1%} of the test images, training on one core")
    runs = []
    for seed in range(3):
        runs.append(train_recipe(race, seed))
        one = runs[-1]
        print(
            f"  imgrec, seed {seed}: test {one.test:.2%} (val {one.val:.2%}) after {one.train:.1f} CPU s of training; "
            f"{one.whole:.1f} with importing, validation ({one.validate:.1f}), test, report",
            flush=True,
        )
    tests, seconds = [run.test for run in runs], statistics.median(run.train for run in runs)
    print(f"  imgrec: test {statistics.mean(tests):.2%}, standard deviation {statistics.stdev(tests):.2%}")
    title = f"{race.data} to {race.level:.1%}"
    reached = min(tests) >= race.level and max(run.train for run in runs) <= race.budget
    lowest, most = min(tests), max(run.train for run in runs)
    claims = [
        Claim(title, f"{lowest:.2%} at least, {most:.0f} CPU s at most", f"at most {race.budget:.0f} CPU s", reached)
    ]
    theirs, stopped = [], False
    for seed in range(race.article_seeds):
        found = article.time_to_level(race.data, root, race.level, seed, limit=give_up * seconds)
        end = f"test {found.test:.2%}" if found.test is not None else "level not reached, stopped"
        stopped |= found.test is None
        print(
            f"  the article's loop, seed {seed}: val {found.val[-1]:.2%} (best {max(found.val):.2%}), {end}, after "
            f"{found.train_cpu_s:.1f} CPU s of training, {found.epochs} epochs",
            flush=True,
        )
        theirs.append(found.train_cpu_s)
    ratio = statistics.median(theirs) / seconds
    measured = f"{'more than ' if stopped else ''}{ratio:.1f}x less than the article's loop"
    return [*claims, Claim(title, measured, f"{RATIO:.0f}x", ratio >= RATIO and min(tests) >= race.level)]


def run_quick(race: Race, root: Path) -> list[Claim]:
    """Train one epoch, and run the baseline for the same CPU seconds. The levels are not tested."""
    one = train_recipe(race, 0, "--trainer.max_epochs", "1")
    torch.manual_seed(0)
    train, val, _ = article.SETTINGS[race.data][1](root).loaders(0)
    model = article.network()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    begun, images = time.process_time(), 0
    while time.process_time() - begun < one.train:
        images += article.train_epoch(model, train, optimizer, batches=20)
    theirs = article.accuracy(model, val)
    print(f"{race.data}, rough: one epoch of imgrec, {one.train:.1f} CPU s of training: val {one.val:.2%}")
    print(f"  the article's loop in as many CPU s: {images:,} images, val {theirs:.2%}")
    return [
        Claim(f"{race.data}, {one.train:.0f} CPU s", f"{one.val:.2%}", f"above {theirs:.2%}", one.val > theirs),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="train one epoch of Fashion-MNIST with one seed (under 60 s)"
    )
    parser.add_argument(
        "--give_up",
        type=float,
        default=20.0,
        help="stop the baseline after this multiple of the training time of imgrec",
    )
    options = parser.parse_args()
    pin()
    torch.set_num_threads(1)
    claims = []
    for race in RACES[:1] if options.quick else RACES:
        root = data(race.folder)
        if root is not None:
            claims += run_quick(race, root) if options.quick else run_full(race, root, options.give_up)
    finish(claims)


if __name__ == "__main__":
    main()
