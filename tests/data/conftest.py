from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrec.data.workers import close_workers

Writer = Callable[..., Path]


@pytest.fixture(name="write_image")
def _write_image() -> Writer:
    """Writes one image: ``write_image(path, seed=0, size=(12, 12))``."""
    return write_image


def write_image(path: Path, seed: int = 0, size: tuple[int, int] = (12, 12)) -> Path:
    """Write a small color image of noise as PNG or JPEG, by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def classes(tmp_path: Path) -> Writer:
    """Writes folders of classes: ``classes({"cat": 5, "train/dog": 3})`` gives the root."""

    def write(counts: dict[str, int], root: str = "images", suffix: str = ".png") -> Path:
        for name, count in counts.items():
            (tmp_path / root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                write_image(tmp_path / root / name / f"{i:03d}{suffix}", seed=hash_of(name) + i)
        return tmp_path / root

    return write


@pytest.fixture
def real_data() -> Path:
    """The folder of real images that ``IMGREC_DATA`` names."""
    root = os.environ.get("IMGREC_DATA")
    if not root:
        pytest.skip("IMGREC_DATA is not set")
    return Path(root)


def hash_of(name: str) -> int:
    return int.from_bytes(name.encode(), "little") % 100_003


@pytest.fixture
def within_seconds() -> Iterator[Callable[[int], object]]:
    """Ends a test that blocks: ``within_seconds(20)`` raises TimeoutError after 20 seconds."""

    def alarm(number: int, frame: object) -> None:
        raise TimeoutError("blocked")

    before = signal.signal(signal.SIGALRM, alarm)
    yield signal.alarm
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _no_workers_left() -> Iterator[None]:
    """Shut down persistent workers: the garbage collector would wait five seconds for each of them."""
    yield
    close_workers()
