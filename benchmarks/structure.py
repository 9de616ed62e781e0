"""What necks and squeeze-and-excitation bring and cost, on a network that needs them and on one that was made without.

10,000 training images of CIFAR-10, three seeds of each side, each network trained as its own recipe says but for the
length: torchvision's ResNet-18, whose last maps are of one pixel here (article_resnet18.yaml, with a cosine schedule,
because at a constant rate seeds differ by three points), and the small network of fast.yaml, whose recipe was tuned
without any of them. That one divides its features by 8 before the head; behind a neck the head's rate is divided by 64
instead, which is the same and which the validation split asks for (PAN with 64 channels: 72 to 73 %).
The test images are looked at once, in the end; the interval of a gain is over other seeds and images. The cost is that
of a training step beside the same step without it, in turn, as `imgrec cost` measures it. About 50 minutes of CPU time.
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

from imgrec import yaml12
from imgrec.studies.cost import compare_steps, training_step

PLAIN = "as it is"
PART = "{name: subset, source: {name: folder, root: cifar10}, images: 10000}"
QUICK = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1", "--trainer.limit_train_batches", "4"]
QUICK += ["--trainer.limit_val_batches", "2", "--trainer.limit_test_batches", "20"]


@dataclass(frozen=True)
class Network:
    """A recipe with each technique, and how long it is trained."""

    recipe: str
    epochs: int
    batch: int
    more: tuple[str, ...]
    sides: Mapping[str, Mapping[str, Any]]

    @property
    def words(self) -> list[str]:
        """What every side is told."""
        length = ["--trainer.max_epochs", str(self.epochs), "--trainer.check_val_every_n_epoch", str(self.epochs)]
        return ["--data.source", PART, *length, *self.more]


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
        "cifar10/article_resnet18",
        4,
        64,
        ("--model.schedule", "cosine"),
        {
            PLAIN: {},
            "fpn": {"neck": {"name": "fpn", "channels": 64}},
            "pan": {"neck": {"name": "pan", "channels": 64}},
            "se": {"edits": {"name": "se", "reduction": 16}},
        },
    ),
    Network(
        "cifar10/fast",
        8,
        256,
        (),
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


def costs(recipe: str, sides: Mapping[str, Mapping[str, Any]], batch: int, rounds: int) -> dict[str, str]:
    """One line a side: what its step takes beside that of the recipe's own network."""
    model = yaml12.load((EXPERIMENTS / f"{recipe}.yaml").read_text(encoding="utf-8"))["model"]
    base = training_step(model, 32, batch)
    lines = {PLAIN: f"{base.macs / 1e6:.1f} M MACs, {base.parameters:,} parameters"}
    for name, more in sides.items():
        if name == PLAIN:
            continue
        cost = compare_steps(training_step({**model, **more}, 32, batch), base, rounds)
        lines[name] = (
            f"time of a step {cost.ratio - 1:+.1%}, memory {cost.memory / 2**20:+.1f} MiB, "
            f"MACs {cost.macs / base.macs:+.1%}, parameters {cost.parameters:+,}"
        )
    return lines


def measure(network: Network, quick: bool) -> list[Claim]:
    """Three seeds of every side, and what each costs; the necks have to help the network that needs them."""
    print(f"{network.recipe}.yaml, {network.epochs} epochs", flush=True)
    chosen = {name: network.sides[name] for name in (PLAIN, "pan")} if quick else network.sides
    sides = {name: words(more) for name, more in chosen.items()}
    with tempfile.TemporaryDirectory() as place:
        seeds, said = (2, [*network.words, *QUICK]) if quick else (3, network.words)
        found = side_by_side(Path(place), network.recipe, sides, seeds, said)
    summary(found, {})
    for name, cost in costs(network.recipe, chosen, *((16, 1) if quick else (network.batch, 7))).items():
        brought = "" if name == PLAIN else f"{gain(found[name], found[PLAIN])[1]}; "
        print(f"{name}: {brought}{cost}", flush=True)
    if network is not NETWORKS[0]:
        return []
    return gains({name: runs for name, runs in found.items() if name != "se"}, PLAIN, f"on {network.recipe}")


def main() -> None:
    """Both networks, or the one that is named."""
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
