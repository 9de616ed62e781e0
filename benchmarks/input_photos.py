"""Photographs to RandomResizedCrop batches of 224 pixels: images per core-second, with a cache and without.

Each pipeline crops, flips and normalizes batches of 64 without worker processes, on one pinned core. Without a cache,
simplejpeg decodes if it is installed. The output contains the name of the decoder. Both return the pixels of Pillow.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from common import Claim, finish, measure_interleaved, parse_options, pin
from input_common import BATCH, article, data, iterate_pairs, normalizer, rate, timm_loader
from input_small import show
from PIL import Image, ImageOps
from torchvision import transforms

from imgrec.augment.resize import resize_to
from imgrec.data import ImageDataModule, decode_image
from imgrec.data.decoding.jpeg import _simplejpeg

SIZE = 224


def main() -> None:
    options = parse_options(__doc__ or "")
    photos = data("photos")
    if photos is None:
        sys.exit(0)
    with tempfile.TemporaryDirectory() as temporary:
        root = link_classes(photos, Path(temporary) / "photos")
        os.environ["IMGREC_CACHE"] = temporary
        module(root, "disk").train_dataloader()
        pin()
        torch.set_num_threads(1)
        claims = speed(root, options.quick)
        claims.append(
            exactness(sorted(path for path in root.rglob("*") if path.is_file())[: 30 if options.quick else 200])
        )
    finish(claims)


def link_classes(photos: Path, root: Path) -> Path:
    """Create two class folders with links to the JPEG files, and return their root."""
    for i, path in enumerate(sorted(p for p in photos.iterdir() if p.suffix.lower() in (".jpg", ".jpeg"))):
        folder = root / "train" / ("even", "odd")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).symlink_to(path)
    return root


def images(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def module(root: Path, cache: str) -> ImageDataModule:
    data_module = ImageDataModule(
        {"name": "folder", "root": str(root)},
        image_size=SIZE,
        batch_size=BATCH,
        train_transforms=["random_resized_crop", "hflip"],
        num_workers=0,
        cache=cache,  # type: ignore[arg-type]
        seed=0,
    )
    data_module.setup()
    return data_module


def imgrec_batches(data_module: ImageDataModule) -> Callable[[], Iterable[tuple[int, torch.dtype]]]:
    loader, normalize = data_module.train_dataloader(), normalizer()

    def batches() -> Iterable[tuple[int, torch.dtype]]:
        for batch in loader:
            images = normalize(data_module.augment(batch).images)
            yield len(images), images.dtype

    return batches


def speed(root: Path, quick: bool) -> list[Claim]:
    crop = [transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip()]
    count = 192 if quick else 384
    files = images(root)[:count]
    sides = {
        "the article's pipeline": rate(iterate_pairs(article(root / "train", crop)), count),
        "timm's create_loader": rate(iterate_pairs(timm_loader(root / "train", SIZE, interpolation="bilinear")), count),
        "imgrec, no cache": rate(imgrec_batches(module(root, "off")), count),
        "imgrec, cache on disk": rate(imgrec_batches(module(root, "disk")), count),
        "bound: read and decode alone": decoding(files),
    }
    found = measure_interleaved(sides, 3 if quick else 7)
    print(f"JPEG is decoded by {'simplejpeg' if _simplejpeg() is not None else 'Pillow'}")
    show(found, "the article's pipeline")
    claims = []
    for name, goal in (("imgrec, cache on disk", 5.0), ("imgrec, no cache", 2.2)):
        for other in ("the article's pipeline", "timm's create_loader"):
            ratio = statistics.median(a / b for a, b in zip(found[other], found[name], strict=True))
            claims.append(
                Claim(f"photos, {name.partition(', ')[2]}, to {other}", f"{ratio:.2f}x", f"{goal}x", ratio >= goal)
            )
    return claims


def decoding(files: list[Path]) -> Callable[[], float]:
    def measure() -> float:
        begun = time.process_time()
        for file in files:
            decode_image(file)
        return (time.process_time() - begun) / len(files)

    return measure


def exactness(files: list[Path]) -> Claim:
    """Return the claim about the difference to Pillow after decoding and resizing, in levels of 255."""
    means, largest = [], 0
    for file in files:
        found = resize_to(decode_image(file), SIZE, SIZE)
        with Image.open(file) as image:
            whole = ImageOps.exif_transpose(image).convert("RGB")
        expected = np.array(whole.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).astype(np.int16)
        difference = np.abs(found.expand(3, -1, -1).permute(1, 2, 0).numpy().astype(np.int16) - expected)
        means.append(difference.mean())
        largest = max(largest, int(difference.max()))
    mean = statistics.mean(means)
    measured = f"{mean:.3f}/255, {largest} at most"
    return Claim("photos, no cache, mean difference to Pillow's pixels", measured, "0.1/255", mean <= 0.1)


if __name__ == "__main__":
    main()
