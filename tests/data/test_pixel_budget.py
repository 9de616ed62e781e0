"""Large images: what is refused, how many are decoded at the same time, and how much memory that takes."""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imgrec.augment.resize import resize_short_side
from imgrec.data import BadImage, decode_image, from_pil, to_channels
from imgrec.data.decoding import convert
from imgrec.data.decoding.pixel_budget import VARIABLE, decoding, max_pixels, reserve
from imgrec.errors import UserError

pytestmark = pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")


@pytest.fixture(autouse=True)
def _locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes of the user on this machine have no part in these tests."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_limit_is_pillows_or_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    assert max_pixels() == 1000
    decode_image(png(20, 50))  # above 500 Pillow warns
    with pytest.raises(BadImage, match=rf"more pixels than are decoded safely: at most 1,000 \({VARIABLE}"):
        decode_image(png(20, 51))
    monkeypatch.setenv(VARIABLE, "600")
    with pytest.raises(BadImage, match="at most 600"):
        decode_image(png(20, 50))
    monkeypatch.setenv(VARIABLE, "2e3")
    assert decode_image(png(40, 50)).shape == (1, 40, 50)
    monkeypatch.setenv(VARIABLE, "many")
    with pytest.raises(UserError, match=f"{VARIABLE}: expected a number of pixels, 1 or more, got 'many'"):
        decode_image(png(20, 50))


def most_at_once(monkeypatch: pytest.MonkeyPatch, pixels: int) -> int:
    """Decode with eight threads and return the largest number of images that were held at the same time."""
    monkeypatch.setenv(VARIABLE, "1600")
    lock, held, most = threading.Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal held, most
        with decoding():
            reserve(pixels)
            with lock:
                held += 1
                most = max(most, held)
            time.sleep(0.02)
            with lock:
                held -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))
    return most


@pytest.mark.parametrize(("pixels", "expected"), [(1600, 1), (5000, 1), (801, 1), (800, 2), (500, 3), (100, 8)])
def test_threads_share_the_limit(monkeypatch: pytest.MonkeyPatch, pixels: int, expected: int) -> None:
    found = most_at_once(monkeypatch, pixels)
    assert found <= expected
    if expected == 8:
        assert found > 3  # small images do not wait


def _hold(ready: object, done: object) -> None:
    with decoding():
        reserve(1000)
        ready.set()  # type: ignore[attr-defined]
        done.wait()  # type: ignore[attr-defined]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no locks between processes on this system")
def test_processes_share_the_limit_and_a_killed_one_frees_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "1600")
    context = multiprocessing.get_context("fork")
    ready, never, second, done = (context.Event() for _ in range(4))
    with decoding():
        reserve(1000)
        first = context.Process(target=_hold, args=(ready, never), daemon=True)
        first.start()
        assert not ready.wait(0.3)  # this process holds its image
    assert ready.wait(20)
    other = context.Process(target=_hold, args=(second, done), daemon=True)
    other.start()
    assert not second.wait(0.3)
    first.kill()
    assert second.wait(20)
    done.set()
    first.join(20)
    other.join(20)
    assert other.exitcode == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16"])
def test_conversion_in_strips_changes_no_pixel(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode in ("I", "I;16"):
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200).convert(mode)
    elif mode == "P":
        image = image.quantize(16)
        image.info["transparency"] = bytes(range(16))
    else:
        image = image.convert(mode)
    whole = from_pil(image)
    grey = to_channels(whole, 1)
    monkeypatch.setattr(convert, "_STRIP", 300)
    assert len(list(convert.strips(61, 47))) == 11
    assert torch.equal(from_pil(image), whole)
    assert torch.equal(to_channels(whole, 1), grey)


def test_equal_channels_are_resized_once_with_the_same_pixels() -> None:
    grey = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 90, 70), dtype=np.uint8))
    expanded = to_channels(grey, 3)
    assert torch.equal(resize_short_side(expanded, 32), resize_short_side(expanded.clone(), 32))


CHILD = """
import resource, sys
import torch, numpy as np
import pytorch_lightning
from imgrec.augment import build_transforms
from imgrec.data import Folder, Splits, find_bad_images
from imgrec.data.loading import EvaluationSet, return_batch
from imgrec.data.cache.build import build_in_memory
from imgrec.data.cache.plan import plan_cache
from imgrec.data.cache.policy import Table
from imgrec.data.thumbnails import load_reduced
from imgrec.data.decoding.pixel_budget import decoding
from imgrec.audit import audit, write_page
from imgrec.export.predictor import Predictor
from imgrec.models import build_classifier
from imgrec.types import DataFacts
kind, root = sys.argv[1:]
torch.set_num_threads(1)
source = Folder(root)
transforms = ["resize", "center_crop"]
pipeline = build_transforms(transforms, "x", image_size=64, in_channels=3)
rows = np.arange(len(source))
resident = lambda who: resource.getrusage(who).ru_maxrss
before = resident(resource.RUSAGE_SELF)
if kind.startswith("predict"):
    channels = int(kind[-1])
    facts = DataFacts(source.class_names, (1, 1), 64, channels, tuple(transforms))
    spec = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    model = build_classifier(spec, "linear", "half", facts)
    found = Predictor(model, facts, device="cpu").predict([source.path(row) for row in rows])
    assert all(each.error is None for each in found), found
elif kind == "workers":
    table = EvaluationSet(source, rows, pipeline, 3, 0)
    for batch in torch.utils.data.DataLoader(table, batch_size=1, num_workers=4, collate_fn=return_batch):
        pass
elif kind == "cache":
    plan = plan_cache(pipeline, 3, [tuple(image.shape[1:]) for image in Table.from_source(source, {None}).probe()])
    def read(row):
        with decoding():
            return plan.apply(source.load(row))
    build_in_memory(read, rows, True)
elif kind == "audit":
    write_page(root + "/audit.html", audit(source, Splits(rows[:2], rows[2:], rows[:0]), workers=0), "large")
elif kind == "pictures":
    class Data:
        load_images = staticmethod(lambda ids: [source.load(source.ids.index(each)) for each in ids])
    assert max(load_reduced(Data, source.ids)[0].shape) == 1024
print(resident(resource.RUSAGE_SELF) - before, resident(resource.RUSAGE_CHILDREN))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="other systems measure memory in other units")
def test_memory_is_bounded_by_one_image(tmp_path: Path) -> None:
    """Four PNG files of 177 million pixels, by every path that decodes. The limit is 8 bytes for a pixel of one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        picture = Image.new("RGB", (13_300, 13_300), (120, 40, 200))
        picture.paste((20, 240, 40), (3000, 3000, 9000, 8000))
        for name in ("a", "b"):
            (tmp_path / "images" / name).mkdir(parents=True)
        picture.save(tmp_path / "images" / "a" / "0.png", compress_level=1)
        del picture
    for number in range(1, 4):
        os.link(tmp_path / "images" / "a" / "0.png", tmp_path / "images" / "ab"[number % 2] / f"{number}.png")
    allowed = 8 * 13_300**2 + 350 * 2**20
    found = {}
    for kind in ("predict 1", "predict 3", "cache", "pictures", "audit", "workers"):
        done = subprocess.run(
            [sys.executable, "-c", CHILD, kind, str(tmp_path / "images")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        own, workers = (1024 * int(value) for value in done.stdout.split())
        found[kind] = workers if kind == "workers" else own
        print(f"{kind:10} {found[kind] / 2**30:.2f} GiB", flush=True)
    workers = found.pop("workers")
    assert max(found.values()) < allowed, found
    assert workers < allowed + 2**30, workers  # the largest of the processes, with its libraries
