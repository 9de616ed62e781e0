"""From nothing to a test accuracy on one core: our YAML recipes, and the article's loop to the same level.

Ours: `imgrec fit` on experiments/<data>/fast.yaml, each seed in a process of its own with an empty cache; test is read
once, at the end, and has to be at the level. The article's loop (article.py) trains until its validation split is at
the level, which is easier, and is stopped where it has taken 20 times as long (--give_up). What is compared is CPU
seconds of training: decoding and augmentation of the images, steps, logging and checkpoints are in it; importing,
validation and the test are not, and stand beside. The whole takes about three hours.
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
    """A data set, the level to reach, and what may be spent on it."""

    data: str
    folder: str
    level: float
    budget: float
    """CPU seconds of training."""
    article_seeds: int
    """The article's loop takes long: on CIFAR-10 more than an hour a seed."""


RACES = (
    Race("fashion_mnist", "FashionMNIST", 0.915, 100.0, 3),
    Race("cifar10", "cifar10", 0.84, 420.0, 1),
)


@dataclass(frozen=True)
class Run:
    """What one run of a recipe took and gave."""

    train: float
    validate: float
    whole: float
    val: float
    test: float


def ours(race: Race, seed: int, *more: str) -> Run:
    """`imgrec fit` on the recipe, in a process of its own; ``more`` are further words for it."""
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
        command += ["--seed_everything", str(seed), "--runs", folder, *more]
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


def full(race: Race, root: Path, give_up: float) -> list[Claim]:
    """Three seeds of ours, and the article's loop to the same level."""
    print(f"{race.data}: {race.level:.1%} of the test images, training on one core")
    runs = []
    for seed in range(3):
        runs.append(ours(race, seed))
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
    said = f"{'more than ' if stopped else ''}{ratio:.1f}x less than the article's loop"
    return [*claims, Claim(title, said, f"{RATIO:.0f}x", ratio >= RATIO and min(tests) >= race.level)]


def rough(race: Race, root: Path) -> list[Claim]:
    """One seed, one epoch, and what the article's loop can do in the same CPU seconds: says nothing of the levels."""
    one = ours(race, 0, "--trainer.max_epochs", "1")
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
    parser.add_argument("--quick", action="store_true", help="Fashion-MNIST, one seed, one epoch, under 60 s, rough")
    parser.add_argument("--give_up", type=float, default=20.0, help="stop the article's loop at so many times our time")
    options = parser.parse_args()
    pin()
    torch.set_num_threads(1)
    claims = []
    for race in RACES[:1] if options.quick else RACES:
        root = data(race.folder)
        if root is not None:
            claims += rough(race, root) if options.quick else full(race, root, options.give_up)
    finish(claims)


if __name__ == "__main__":
    main()
