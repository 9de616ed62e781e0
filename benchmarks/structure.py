"""What necks and squeeze-and-excitation bring and cost, on three networks.

First a pretrained EfficientNet-Lite0 that stays as it is (linear_probe.yaml, photographs of hand signs): the head sees
its last map, or what a neck that is trained makes of the last three. Then torchvision's ResNet-18 on 10,000 images of
CIFAR-10, where its last maps are of one pixel (article_resnet18.yaml, with a cosine schedule: at a constant rate seeds
differ by three points). Then the small network of cifar10/fast.yaml on the same images, whose recipe was tuned without
any of them; it divides its features by 8 before the head, and behind a neck the head's rate is divided by 64 instead,
which comes to the same and which the validation split asks for (PAN with 64 channels: 72 to 73 %).

The test images are looked at once, in the end; the interval of a gain is over other seeds and images. The cost is that
of a training step beside the same step without it, in turn, as `imgrec cost` measures it. About 50 minutes of CPU time;
``--only cifar10/fast`` runs one network.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import Claim, finish, pin
from fit_common import EXPERIMENTS, gain, gains, side_by_side, summary
from input_common import data

from imgrec.studies.cost import TrainingStep, compare_steps, training_step
from imgrec.utils import yaml

PLAIN = "as it is"


def epochs(count: int) -> tuple[str, ...]:
    """So many, and a validation after the last."""
    return ("--trainer.max_epochs", str(count), "--trainer.check_val_every_n_epoch", str(count))


PART = "{name: subset, source: {name: folder, root: cifar10}, images: 10000}"
QUICK = (*epochs(1), "--trainer.limit_train_batches", "4")


@dataclass(frozen=True)
class Network:
    """A recipe with each technique: on which data and how, over how many seeds, at which size its step is measured."""

    recipe: str
    words: tuple[str, ...]
    seeds: int
    size: int
    batch: int
    sides: Mapping[str, Mapping[str, Any]]
    frozen: bool = False
    """Whether the backbone stays as it is; there the necks are claimed to help."""


BEHIND_A_NECK = {
    "pooling": "max",
    "optimizer": {
        "name": "nesterov",
        "lr": 0.6,
        "weight_decay": 5e-4,
        "groups": [{"scope": "head", "lr_factor": 1 / 64}],
    },
}
NETWORKS = (
    Network(
        "sign_digits/linear_probe",
        (),
        5,
        96,
        32,
        {
            PLAIN: {},
            "fpn": {"neck": {"name": "fpn", "channels": 64}},
            "pan": {"neck": {"name": "pan", "channels": 64}},
        },
        frozen=True,
    ),
    Network(
        "cifar10/article_resnet18",
        ("--data.source", PART, *epochs(4), "--model.schedule", "cosine"),
        3,
        32,
        64,
        {
            PLAIN: {},
            "fpn": {"neck": {"name": "fpn", "channels": 64}},
            "pan": {"neck": {"name": "pan", "channels": 64}},
            "se": {"edits": {"name": "se", "reduction": 16}},
        },
    ),
    Network(
        "cifar10/fast",
        ("--data.source", PART, *epochs(8)),
        3,
        32,
        256,
        {
            PLAIN: {},
            "fpn": {"neck": {"name": "fpn", "channels": 128}, **BEHIND_A_NECK},
            "pan": {"neck": {"name": "pan", "channels": 128}, **BEHIND_A_NECK},
            "se": {"edits": {"name": "se", "reduction": 16}},
        },
    ),
)


def words(more: Mapping[str, Any]) -> list[str]:
    """What is said to `imgrec fit` for a side."""
    return [word for key, value in more.items() for word in (f"--model.{key}", json.dumps(value))]


def costs(network: Network, sides: Mapping[str, Mapping[str, Any]], batch: int, rounds: int) -> dict[str, str]:
    """One line a side: what its step takes beside that of the recipe's own network."""
    model = yaml.load((EXPERIMENTS / f"{network.recipe}.yaml").read_text(encoding="utf-8"))["model"]

    def step(more: Mapping[str, Any]) -> TrainingStep:
        made = training_step({**model, **more}, network.size, batch)
        if network.frozen:
            made.task.model.backbone.requires_grad_(requires_grad=False).eval()
        return made

    base = step({})
    lines = {PLAIN: f"{base.macs / 1e6:.1f} M MACs, {base.parameters:,} parameters that are trained"}
    for name, more in sides.items():
        if name == PLAIN:
            continue
        cost = compare_steps(step(more), base, rounds)
        lines[name] = (
            f"time of a step {cost.ratio - 1:+.1%}, memory {cost.memory / 2**20:+.1f} MiB, "
            f"MACs {cost.macs / base.macs:+.1%}, parameters {cost.parameters:+,}"
        )
    return lines


def measure(network: Network, quick: bool) -> list[Claim]:
    """All seeds of every side, and what each costs."""
    print(f"{network.recipe}.yaml {' '.join(network.words)}", flush=True)
    chosen = {name: network.sides[name] for name in (PLAIN, "pan")} if quick else network.sides
    sides = {name: words(more) for name, more in chosen.items()}
    with tempfile.TemporaryDirectory() as place:
        seeds, said = (2, (*network.words, *QUICK)) if quick else (network.seeds, network.words)
        found = side_by_side(Path(place), network.recipe, sides, seeds, said)
    summary(found, {})
    for name, cost in costs(network, chosen, *((8, 1) if quick else (network.batch, 7))).items():
        brought = "" if name == PLAIN else f"{gain(found[name], found[PLAIN])[1]}; "
        print(f"{name}: {brought}{cost}", flush=True)
    print()
    return gains(found, PLAIN, f"on a frozen backbone, {network.recipe}") if network.frozen else []


def main() -> None:
    """All networks, or the one that is named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="under a minute, and rough")
    parser.add_argument("--only", choices=[network.recipe for network in NETWORKS], help="this network alone")
    options = parser.parse_args()
    if data("cifar10") is None:
        return
    pin()
    torch.set_num_threads(1)
    chosen = [network for network in NETWORKS if options.only in (None, network.recipe)]
    chosen = chosen[:1] if options.quick else chosen
    finish([claim for network in chosen for claim in measure(network, options.quick)])


if __name__ == "__main__":
    main()
