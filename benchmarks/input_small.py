"""Throughput of augmented, normalized 32x32 batches from the JPEG files of CIFAR-10, in images per core-second.

Each pipeline pads by 4, crops, flips and normalizes batches of 64 without worker processes, on one pinned core.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from common import Claim, finish, measure_interleaved, parse_options, pin
from input_common import BATCH, article, data, iterate_pairs, normalizer, rate, timm_loader
from torchvision import transforms

from imgrec.data import ImageDataModule

GOAL = 10.0
AUGMENT = [{"name": "random_crop", "padding": 4}, "hflip"]


def main() -> None:
    options = parse_options(__doc__ or "")
    root = data("cifar10")
    if root is None:
        sys.exit(0)
    with tempfile.TemporaryDirectory() as caches:
        os.environ["IMGREC_CACHE"] = caches
        module(root, "disk").train_dataloader()  # builds the cache on all cores before the measurements
        scaling(root, 20_000 if options.quick else 100_000)
        if not options.quick:
            memory(root)
        pin()
        torch.set_num_threads(1)
        claims = [*speed(root, options.quick), waiting(root, 6 if options.quick else 30)]
    finish(claims)


def module(root: Path, cache: str, workers: int = 0) -> ImageDataModule:
    made = ImageDataModule(
        {"name": "folder", "root": str(root)},
        batch_size=BATCH,
        train_transforms=AUGMENT,
        num_workers=workers,
        cache=cache,  # type: ignore[arg-type]
        seed=0,
    )
    made.setup()
    return made


def ours(made: ImageDataModule) -> Callable[[], Iterable[tuple[int, torch.dtype]]]:
    """Return a function that iterates over batches augmented and normalized as in training."""
    loader, normalize = made.train_dataloader(), normalizer()

    def batches() -> Iterable[tuple[int, torch.dtype]]:
        for batch in loader:
            images = normalize(made.augment(batch).images)
            yield len(images), images.dtype

    return batches


def speed(root: Path, quick: bool) -> list[Claim]:
    cached = module(root, "disk")
    crop = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
    slow, fast = (1000, 10_000) if quick else (4000, 40_000)
    timm = timm_loader(root / "train", 32, hflip=0.5, scale=(1.0, 1.0), ratio=(1.0, 1.0), interpolation="bilinear")
    sides = {
        "the article's pipeline": rate(iterate_pairs(article(root / "train", crop)), slow),
        "timm's create_loader": rate(iterate_pairs(timm), slow),
        "imgrec, no cache": rate(ours(module(root, "off")), slow),
        "imgrec, in memory": rate(ours(module(root, "memory")), fast),
        "imgrec, on disk": rate(ours(cached), fast),
        "bound: the same bytes copied": copying(cached, fast),
    }
    found = measure_interleaved(sides, 3 if quick else 7)
    show(found, "the article's pipeline")
    claims = []
    for name in ("imgrec, in memory", "imgrec, on disk"):
        for other in ("the article's pipeline", "timm's create_loader"):
            ratio = statistics.median(a / b for a, b in zip(found[other], found[name], strict=True))
            claims.append(Claim(f"32x32, {name.partition(', ')[2]}, to {other}", f"{ratio:.1f}x", "10x", ratio >= GOAL))
    return claims


def copying(made: ImageDataModule, count: int) -> Callable[[], float]:
    """Return a function that measures CPU seconds per image of copying pixels from the cache to float32."""
    images = made.train_dataloader().dataset.images  # type: ignore[attr-defined]
    block = images.images.data.view(-1, BATCH * 3 * 32 * 32 // BATCH)

    def measure() -> float:
        begun = time.process_time()
        for start in range(0, count - BATCH, BATCH):
            block[start : start + BATCH].to(torch.float32)
        return (time.process_time() - begun) / count

    return measure


def waiting(root: Path, steps: int) -> Claim:
    """Return the share of a ResNet-18 training step at 32 pixels that is spent waiting for the next batch."""
    from timm import create_model

    model = create_model("resnet18", num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    made, parts, normalize = module(root, "disk"), [], normalizer()
    begun = time.perf_counter()
    for batch in made.train_dataloader():
        at_hand = time.perf_counter()
        batch = made.augment(batch)
        torch.nn.functional.cross_entropy(model(normalize(batch.images)), batch.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
        ended = time.perf_counter()
        parts.append((at_hand - begun) / (ended - begun))
        begun = ended
        if len(parts) > steps:
            break
    part = statistics.median(parts[1:])
    return Claim("waiting for data beside ResNet-18 at 32 pixels", f"{part:.2%} of a step", "2%", part < 0.02)


def show(found: dict[str, list[float]], base: str) -> None:
    """Print the images per core-second of each pipeline, and its ratio to the base."""
    for name, values in found.items():
        ratio = statistics.median(a / b for a, b in zip(found[base], values, strict=True))
        print(f"{name:<30}{1 / statistics.median(values):>10,.0f} images/core-second  {ratio:6.1f}x {base}")


def scaling(root: Path, count: int) -> None:
    """Print the images per second of wall-clock time with 0, 1 and 2 worker processes, on all cores."""
    for cache, share in (("disk", 1.0), ("off", 0.3)):
        line = []
        for workers in (0, 1, 2):
            made = module(root, cache, workers)
            batches = ours(made)
            _first_seconds(batches, BATCH)
            number = int(count * share)
            line.append(f"{workers}: {number / _first_seconds(batches, number):,.0f}")
            del made, batches
            gc.collect()
        print(f"images/second by workers, cache {cache}: {', '.join(line)}")


def _first_seconds(batches: Callable[[], Iterable[Any]], count: int) -> float:
    seen, begun = 0, time.perf_counter()
    for number, _ in batches():
        seen += number
        if seen >= count:
            break
    return time.perf_counter() - begun


PEAK = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from input_small import module
made = module(Path({root!r}), {cache!r}, workers=2)
loaders = [made.train_dataloader(), made.val_dataloader(), made.test_dataloader()]
def resident():
    workers = [w.pid for each in loaders if getattr(each, "_iterator", None) for w in each._iterator._workers]
    total = 0
    for pid in [os.getpid(), *workers]:
        status = dict(line.split(":", 1) for line in open(f"/proc/{{pid}}/smaps_rollup").read().splitlines()[1:])
        total += int(status["Pss"].split()[0])
    return total / 1024
import os
for epoch in range(4):
    loaders[0].sampler.set_epoch(epoch)
    peak, seen = 0.0, 0
    for loader in loaders:
        for i, batch in enumerate(loader):
            seen += len(batch)
            made.augment(batch)
            if i % 40 == 30:
                peak = max(peak, resident())
    print(f"{{peak:.0f}}", flush=True)
print(seen)
"""


def memory(root: Path) -> None:
    """Print the memory of loading all splits with 2 workers each, per epoch. Shared pages are counted once."""
    if not Path("/proc/self/smaps_rollup").exists():
        return
    script = PEAK.format(here=str(Path(__file__).parent), root=str(root), cache="disk")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *epochs, images = done.stdout.split()
    print(f"MiB of loading {int(images):,} images with 2 workers a split, epoch by epoch: {', '.join(epochs)}")


if __name__ == "__main__":
    main()
