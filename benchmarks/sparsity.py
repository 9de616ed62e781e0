"""Accuracy over sparsity on Fashion-MNIST for magnitude, Taylor, movement and random pruning, and the cost of masks.

For each seed a small dense residual network is trained once. Its weights are fine-tuned for one epoch with every
criterion and sparsity (cubic schedule over the first 60 %). The baseline is the dense network, fine-tuned for the same
time. Masks cover all convolutions except the first one. The test images are evaluated once. Zeros are stored and
multiplied, so the networks are neither smaller nor faster. Requires about 12 minutes of CPU time on one core. The
figure is written to docs/sparsity.png.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import timm
import torch
from common import Claim, finish, pin
from input_common import data
from torch.nn.functional import cross_entropy

from imgrec import ClassificationTask, ImageDataModule, Pruning
from imgrec.callbacks import PositionalSeeding, remove_hook_overhead
from imgrec.compress import prunable
from imgrec.compress.pruning.masked_model import Masking
from imgrec.engine.library_output import quiet_libraries

CRITERIA = ("magnitude", "taylor", "movement", "random")
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
BACKBONE = {"name": "resnet9", "channels": [16, 32, 64, 128], "blocks": [0, 0, 1], "block_depth": 1, "stem_stride": 2}
PICTURE = Path(__file__).parents[1] / "docs" / "sparsity.png"
DENSE_RATE, RATE = 0.8, 0.2
COST = 1.06


def train(
    module: ImageDataModule,
    seed: int,
    epochs: int,
    start: Path | None = None,
    pruning: Pruning | None = None,
    **more: Any,
) -> pl.Trainer:
    """Train the network, from the weights of ``start`` if it is given, and return the trainer."""
    pl.seed_everything(seed, verbose=False)
    task = ClassificationTask(
        backbone=BACKBONE,
        loss={"name": "cross_entropy", "label_smoothing": 0.1},
        optimizer={"name": "nesterov", "lr": DENSE_RATE if start is None else RATE, "weight_decay": 5e-4},
        schedule={"name": "linear", "warmup": 0.2},
        normalize={"mean": [0.286], "std": [0.353]},
        channels_last=True,
        init_from=None if start is None else str(start),
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        precision="bf16-mixed",
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=[PositionalSeeding(), *([pruning] if pruning is not None else [])],
        **more,
    )
    remove_hook_overhead(trainer, task)
    trainer.fit(task, datamodule=module)
    return trainer


def accuracy(trainer: pl.Trainer, module: ImageDataModule) -> float:
    """Return the test accuracy of the trained network."""
    trainer.test(trainer.lightning_module, datamodule=module, verbose=False)
    return float(trainer.callback_metrics["test/acc"])


def one_seed(
    module: ImageDataModule, seed: int, epochs: int, cells: list[tuple[str, float]], folder: Path, **more: Any
) -> dict[tuple[str, float], float]:
    """Return the test accuracy of each criterion and sparsity, and of the dense network as ``("dense", 0.0)``."""
    begun = time.process_time()
    dense = train(module, seed, epochs, **more)
    start = folder / f"dense-{seed}.ckpt"
    dense.save_checkpoint(start, weights_only=True)
    message = f"seed {seed}: dense, {epochs} epoch(s): {accuracy(dense, module):.2%}"
    found = {("dense", 0.0): accuracy(train(module, seed, 1, start, **more), module)}
    for criterion, sparsity in cells:
        pruning = Pruning(sparsity, criterion, start=0.0, end=0.6)  # type: ignore[arg-type]
        found[criterion, sparsity] = accuracy(train(module, seed, 1, start, pruning, **more), module)
    print(f"{message}; fine-tuned {found['dense', 0.0]:.2%}; {time.process_time() - begun:.0f} CPU s", flush=True)
    return found


def show(seeds: list[dict[tuple[str, float], float]], criteria: tuple[str, ...], sparsities: tuple[float, ...]) -> None:
    """Print a table of mean and standard deviation over the seeds, in percent."""

    def cell(key: tuple[str, float]) -> str:
        values = [100 * seed[key] for seed in seeds]
        return f"{statistics.mean(values):.2f}" + (f" ±{statistics.stdev(values):.2f}" if len(values) > 1 else "")

    print(f"{'test accuracy, %':<18}" + "".join(f"{f'{s:.0%} zeros':>16}" for s in sparsities))
    for criterion in criteria:
        print(f"{criterion:<18}" + "".join(f"{cell((criterion, s)):>16}" for s in sparsities))
    print(f"{'dense, as long':<18}{cell(('dense', 0.0)):>16}")


def draw(seeds: list[dict[tuple[str, float], float]], path: Path) -> None:
    """Plot the accuracy over the share of kept weights, with one point per seed and a line of the means."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
    dense = [100 * seed["dense", 0.0] for seed in seeds]
    axes.axhspan(min(dense), max(dense), color="0.85")
    axes.axhline(statistics.mean(dense), color="0.15", linewidth=1, linestyle="--", label="dense, train as long")
    kept = [100 * (1 - sparsity) for sparsity in SPARSITIES]
    for criterion, color, marker in zip(CRITERIA, ("#1f5fa8", "#c8571b", "#2f8f5b", "#8a8a8a"), "osD^", strict=True):
        means = [100 * statistics.mean(seed[criterion, s] for seed in seeds) for s in SPARSITIES]
        axes.plot(kept, means, color=color, linewidth=1.6, label=criterion)
        for seed in seeds:
            axes.plot(
                kept, [100 * seed[criterion, s] for s in SPARSITIES], marker, color=color, markersize=4, alpha=0.7
            )
    axes.set_xscale("log")
    axes.set_xticks(kept, [f"{k:g} %" for k in kept])
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set_xlabel("weights that stay (zeros are stored and multiplied as before)")
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"Fashion-MNIST, {len(seeds)} seeds, one epoch of fine-tuning")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def cost(rounds: int) -> Claim:
    """Measure the median cost of masks in a training step of ResNet-18 on 128 images of 32 pixels, interleaved."""
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=10).to(memory_format=torch.channels_last)
    images = torch.randn(128, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    targets = torch.randint(10, (128,))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9, nesterov=True)
    masking = Masking()
    masking.bind(prunable(model))
    masking.prune(0.9)
    took: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(-1, rounds):
        for masked in (False, True):
            begun = time.process_time()
            optimizer.zero_grad()
            cross_entropy(model(images), targets).backward()
            if masked:
                masking.mask_gradients()
            optimizer.step()
            if masked:
                masking.mask_weights()
            if turn >= 0:
                took[masked].append(time.process_time() - begun)
    ratio = statistics.median(took[True]) / statistics.median(took[False])
    return Claim("a training step of ResNet-18 with masks", f"{ratio:.3f}x", f"at most {COST}x", ratio <= COST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="run one seed and a third of an epoch, without the figure (under 60 s)"
    )
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    pin()
    torch.set_num_threads(1)
    quiet_libraries()
    logging.getLogger("imgrec").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    claims = [cost(3 if options.quick else 15)]
    root = data("FashionMNIST")
    if root is None:
        finish(claims)
    source = {"name": "torchvision", "dataset": "FashionMNIST", "root": str(Path(str(root)).parent)}
    module = ImageDataModule(
        source, channels=1, batch_size=256, eval_batch_size=500, train_transforms="hflip", num_workers=0
    )
    criteria = ("magnitude", "random") if options.quick else CRITERIA
    sparsities = (0.9,) if options.quick else SPARSITIES
    cells = [(criterion, sparsity) for criterion in criteria for sparsity in sparsities]
    more = {"limit_train_batches": 70} if options.quick else {}
    with tempfile.TemporaryDirectory() as folder:
        seeds = [
            one_seed(module, seed, 1 if options.quick else 3, cells, Path(folder), **more)
            for seed in range(1 if options.quick else options.seeds)
        ]
    show(seeds, criteria, sparsities)
    if not options.quick:
        draw(seeds, PICTURE)
    over = [100 * (seed["magnitude", 0.9] - seed["random", 0.9]) for seed in seeds]
    under = [100 * (seed["dense", 0.0] - seed["magnitude", 0.9]) for seed in seeds]
    each = ", ".join(f"{value:+.2f}" for value in over)
    claims.append(
        Claim("90 % zeros, magnitude over random", f"{each} points, seed by seed", "above 0 in each", min(over) > 0)
    )
    mean = statistics.mean(under)
    claims.append(Claim("90 % zeros, magnitude under dense", f"{mean:.2f} points", "at most 1.0", mean <= 1.0))
    finish(claims)


if __name__ == "__main__":
    main()
