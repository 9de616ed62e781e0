from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.data import BadImage, BrokenCacheError, DecodedImages, ImageDataModule, decode_image, stored_caches
from imgrec.data.cache import build as building_module
from imgrec.data.cache.build import build_in_memory, build_on_disk, building
from imgrec.data.cache.registry import clear, verify
from imgrec.errors import UserError
from imgrec.types import Batch
from tests.data.helpers import ABOUT, ROWS, cached_module, jpegs, uniform

Writer = Callable[..., Path]


@pytest.fixture(autouse=True)
def cache_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMGREC_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches" / "decoded"


def mixed(row: int) -> Tensor:
    image = uniform(row)
    return image[: 1 + 2 * (row % 2), :, : 2 + row % 4]


@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("read", [uniform, mixed])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_cached_images_are_unchanged(tmp_path: Path, read: Callable[[int], Tensor], planar: bool, where: str) -> None:
    if where == "memory":
        images = build_in_memory(read, ROWS, planar)
    else:
        build_on_disk(read, ROWS, planar, tmp_path / "a", ABOUT)
        images = DecodedImages.open(tmp_path / "a")
    assert len(images) == 70
    for row in ROWS.tolist():
        if row in (7, 37, 67):
            with pytest.raises(BadImage, match=f"the fault of {row}"):
                images.load(row)
        else:
            assert torch.equal(images.load(row), read(row))
    some = np.asarray([3, 69, 3, 40])
    batch = images.gather(some)
    if read is uniform and planar:
        assert batch is not None
        assert torch.equal(batch, torch.stack([read(row) for row in some.tolist()]))
        assert images.gather(np.asarray([1, 7])) is None
    else:
        assert batch is None
    assert list(images.damaged()) == []


def test_transforms_do_not_change_the_cache(tmp_path: Path) -> None:
    build_on_disk(uniform, ROWS, True, tmp_path / "a", ABOUT)
    images = DecodedImages.open(tmp_path / "a")
    images.load(0).zero_()
    batch = images.gather(np.asarray([0]))
    assert batch is not None
    batch.zero_()
    assert torch.equal(images.load(0), uniform(0))


def test_a_worker_process_maps_the_file_itself(tmp_path: Path) -> None:
    build_on_disk(uniform, ROWS, True, tmp_path / "a", ABOUT)
    images = DecodedImages.open(tmp_path / "a")
    packed = pickle.dumps(images)
    assert len(packed) < len(images.data)
    again = pickle.loads(packed)
    assert torch.equal(again.load(5), uniform(5))
    batch = again.gather(np.asarray([5, 6]))
    assert batch is not None
    assert torch.equal(batch, torch.stack([uniform(5), uniform(6)]))


def damage(folder: Path, kind: str) -> None:
    path = folder / kind.partition(":")[0]
    if kind.endswith(":gone"):
        path.unlink()
    elif kind.endswith(":short"):
        os.truncate(path, path.stat().st_size - 1)
    else:
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize(
    "kind",
    [
        "images.bin:short",
        "images.bin:gone",
        "index.npy:short",
        "index.npy:changed",
        "index.npy:gone",
        "meta.json:short",
        "meta.json:gone",
    ],
)
def test_a_damaged_cache_is_rejected_on_opening(tmp_path: Path, kind: str) -> None:
    build_on_disk(uniform, ROWS, True, tmp_path / "a", ABOUT)
    damage(tmp_path / "a", kind)
    with pytest.raises(BrokenCacheError, match=str(tmp_path)):
        DecodedImages.open(tmp_path / "a")
    (stored,) = stored_caches(tmp_path)
    assert stored.problem
    assert list(verify(stored))


def test_one_wrong_bit_in_an_image_is_found_by_verifying(tmp_path: Path) -> None:
    build_on_disk(uniform, ROWS, True, tmp_path / "a", ABOUT)
    (stored,) = stored_caches(tmp_path)
    assert stored.problem is None
    assert list(verify(stored)) == []
    damage(tmp_path / "a", "images.bin:changed")
    assert list(verify(stored)) == ["image 69 is not what was written"]


def test_an_error_while_building_keeps_the_previous_cache(tmp_path: Path) -> None:
    def full(row: int) -> Tensor:
        if row == 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return uniform(row)

    with pytest.raises(OSError, match="No space"):
        build_on_disk(full, ROWS, True, tmp_path / "a", ABOUT)
    assert list(tmp_path.iterdir()) == []
    build_on_disk(uniform, ROWS, True, tmp_path / "a", ABOUT)
    with pytest.raises(OSError, match="No space"):
        build_on_disk(full, ROWS, True, tmp_path / "a", ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert torch.equal(DecodedImages.open(tmp_path / "a").load(0), uniform(0))


def slow_build(folder: Path) -> None:
    def slow(row: int) -> Tensor:
        if row == 64:
            time.sleep(60)
        return uniform(row)

    with building(folder, lambda: None):
        build_on_disk(slow, ROWS, True, folder, ABOUT)


def test_an_interrupted_build_is_no_cache(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=slow_build, args=(tmp_path / "a",))
    process.start()
    while not list(tmp_path.glob(".a.building-*/images.bin")):
        time.sleep(0.01)
    waited: list[int] = []
    (left,) = [cache for cache in stored_caches(tmp_path) if cache.name.startswith(".a.building-")]
    with pytest.raises(UserError, match="is being built by another process"):
        clear(left)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert not (tmp_path / "a").exists()
    with building(tmp_path / "a", lambda: waited.append(1)):
        assert not list(tmp_path.glob(".a.building-*"))
        build_on_disk(uniform, ROWS, True, tmp_path / "a", ABOUT)
    assert not waited
    assert [cache.name for cache in stored_caches(tmp_path)] == ["a"]


# ---------------------------------------------------------------- in the data module


def batches(data: ImageDataModule) -> Iterator[Batch]:
    yield from data.train_dataloader()
    yield from data.val_dataloader()
    yield from data.test_dataloader()


def assert_same(first: ImageDataModule, second: ImageDataModule) -> None:
    pairs = list(zip(batches(first), batches(second), strict=True))
    assert pairs
    for one, two in pairs:
        assert (one.ids, one.skipped, one.epoch) == (two.ids, two.skipped, two.epoch)
        for a, b in ((one.images, two.images), (one.targets, two.targets), (one.keys, two.keys)):
            assert torch.equal(a, b)


PIPELINES: list[dict[str, Any]] = [
    {},
    {"train_transforms": [], "eval_transforms": []},
    {"image_size": 8},
    {"image_size": 8, "channels": 1, "eval_transforms": ["squash"]},
    {"image_size": 8, "train_transforms": [{"name": "resize", "scale": 1.3}, "random_resized_crop"]},
    {"image_size": 24, "train_transforms": ["random_resized_crop"]},
]


@pytest.mark.parametrize("options", PIPELINES)
@pytest.mark.parametrize("mode", ["memory", "disk", "auto"])
def test_a_cache_changes_no_pixel(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    root = jpegs(tmp_path / "images")
    (root / "a" / "05.jpg").write_bytes(b"")
    assert_same(cached_module(root, cache="off", **options), cached_module(root, cache=mode, **options))
    if mode == "disk":
        assert_same(cached_module(root, cache="off", **options), cached_module(root, cache=mode, **options))


def test_random_crops_use_a_slightly_larger_image(tmp_path: Path) -> None:
    root = jpegs(tmp_path / "images", size=(60, 80))
    data = cached_module(root, image_size=20, train_transforms=["random_resized_crop"], cache="disk")
    assert len(list(data.train_dataloader())) == 4
    (stored,) = stored_caches()
    assert stored.meta["plan"] == "short side at most 23 pixels"
    images = DecodedImages.open(stored.folder)
    assert {tuple(images.load(i).shape) for i in range(len(images))} == {(3, 23, 30)}


def test_a_batch_of_images_of_the_right_size_is_one_copy(tmp_path: Path) -> None:
    root = jpegs(tmp_path / "images")
    assert cached_module(root, cache="memory").train_dataloader().dataset.is_one_copy  # type: ignore[attr-defined]
    assert not cached_module(root, cache="off").train_dataloader().dataset.is_one_copy  # type: ignore[attr-defined]
    assert cached_module(root, cache="disk", num_workers=None).train_dataloader().num_workers == 0


def test_changed_data_is_decoded_again_and_the_old_cache_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = jpegs(tmp_path / "images")
    list(cached_module(root, cache="disk").train_dataloader())
    (before,) = stored_caches()
    path = root / "a" / "03.jpg"
    other = (root / "b" / "03.jpg").read_bytes()
    path.write_bytes(other)
    data = cached_module(root, cache="disk")
    found = {i: image for b in batches(data) for i, image in zip(b.ids, b.images, strict=True)}
    assert torch.equal(found["a/03.jpg"], decode_image(other))
    (after,) = stored_caches()
    assert after.name != before.name
    assert "because the data changed" in caplog.text


def test_a_truncated_cache_is_rejected_and_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = jpegs(tmp_path / "images")
    list(cached_module(root, cache="disk").train_dataloader())
    (stored,) = stored_caches()
    damage(stored.folder, "images.bin:short")
    assert_same(cached_module(root, cache="off"), cached_module(root, cache="disk"))
    assert "building it again, because it is damaged" in caplog.text
    assert [cache.problem for cache in stored_caches()] == [None]


def test_a_full_disk_falls_back_to_decoding_and_leaves_no_half_file(
    tmp_path: Path, cache_place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(building_module, "_sync", full)
    root = jpegs(tmp_path / "images")
    assert_same(cached_module(root, cache="off"), cached_module(root, cache="disk"))
    assert "No space left on device" in caplog.text
    assert stored_caches() == []
    assert [path.suffix for path in cache_place.iterdir()] == [".lock"]


def test_an_unwritable_folder_disables_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("IMGREC_CACHE", str(tmp_path / "file"))
    root = jpegs(tmp_path / "images")
    assert_same(cached_module(root, cache="off"), cached_module(root, cache="disk"))
    assert "data.cache: off, because" in caplog.text


def test_classes_and_splits_that_change_find_the_same_cache(tmp_path: Path) -> None:
    root = jpegs(tmp_path / "images")
    list(cached_module(root, cache="disk").train_dataloader())
    list(cached_module(root, cache="disk", split_seed=3, val_fraction=0.3).train_dataloader())
    list(cached_module(root, cache="disk", classes={"a": "first", "b": "second"}).train_dataloader())
    assert len(stored_caches()) == 1


def test_auto_prefers_memory_and_reports_size_and_place_before_it_writes(
    tmp_path: Path, cache_place: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = jpegs(tmp_path / "images")
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("imgrec.data.cache.policy.free_memory", lambda: 8 << 30)
    list(cached_module(root).train_dataloader())
    assert "data.cache: memory for 24 images (as they are), about 0.0 MiB: up to 2.0 GiB fit" in caplog.text
    assert not cache_place.exists()
    monkeypatch.setattr("imgrec.data.cache.policy.free_memory", lambda: 400)
    caplog.clear()
    monkeypatch.setattr(building_module, "_sync", lambda file: seen.append(caplog.text))
    seen: list[str] = []
    list(cached_module(root).train_dataloader())
    assert f"data.cache: writes {cache_place}" in seen[0]
    assert "on disk for 24 images (as they are), about 0.0 MiB: more than 0.0 MiB of memory" in seen[0]
    assert [record.levelname for record in caplog.records if "writes" in record.message] == ["WARNING"]
    caplog.clear()
    list(cached_module(root).train_dataloader())
    assert "it exists" in caplog.text
    for mode in ("auto", "disk"):
        caplog.clear()
        monkeypatch.setenv("IMGREC_CACHE_LIMIT", "1kB")
        list(cached_module(root, image_size=6, cache=mode).train_dataloader())
        assert "data.cache: off for 24 images" in caplog.text
        assert "it exceeds the limit of all caches, 0.0 MiB (IMGREC_CACHE_LIMIT=1kB)" in caplog.text


def test_a_source_in_memory_needs_no_cache(cache_place: Path) -> None:
    data = ImageDataModule("digits", cache="disk")
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.images[0], data.source.load(int(batch.ids[0])).expand(3, -1, -1))
    assert not cache_place.exists()


def test_an_unknown_mode_is_rejected() -> None:
    with pytest.raises(UserError, match=r"data\.cache: expected Literal\['auto', 'off', 'memory', 'disk'\], got 'ram'"):
        ImageDataModule("digits", cache="ram")  # type: ignore[arg-type]
