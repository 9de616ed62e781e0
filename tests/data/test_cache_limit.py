from __future__ import annotations

import gc
import os
import pickle
from pathlib import Path

import pytest

from imgrec.data import DecodedImages, stored_caches
from imgrec.data.cache.build import build_on_disk
from imgrec.data.cache.limit import cache_limit, make_room, store_limit
from imgrec.data.cache.lock import mark_used
from imgrec.errors import UserError
from tests.data.helpers import ABOUT, ROWS, cached_module, jpegs, uniform


@pytest.fixture(autouse=True)
def _cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGREC_CACHE", str(tmp_path / "caches"))


def test_the_least_recently_used_caches_are_removed_and_those_in_use_remain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["first", "second", "third", "fourth"]
    for age, name in enumerate(names):
        build_on_disk(uniform, ROWS, True, tmp_path / name, ABOUT)
        os.utime(tmp_path / name / "meta.json", (1000 + age, 1000 + age))
    mark_used(tmp_path / "first" / "meta.json")
    size = max(cache.size for cache in stored_caches(tmp_path))
    monkeypatch.setenv("IMGREC_CACHE_LIMIT", f"{4 * size + 100}B")
    opened = DecodedImages.open(tmp_path / "second")
    worker = pickle.loads(pickle.dumps(opened))
    del opened  # the copy of a worker process still holds the cache
    assert make_room(size, tmp_path)
    assert {cache.name for cache in stored_caches(tmp_path)} == {"first", "second", "fourth"}
    assert "removed third" in caplog.text
    assert not make_room(5 * size, tmp_path)  # more than the limit: nothing is removed
    assert len(stored_caches(tmp_path)) == 3
    assert not make_room(4 * size, tmp_path)
    assert {cache.name for cache in stored_caches(tmp_path)} == {"second"}
    assert worker.load(0).equal(uniform(0))
    del worker
    assert make_room(4 * size, tmp_path)
    assert stored_caches(tmp_path) == []


def test_a_new_cache_makes_room_and_remains_within_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = jpegs(tmp_path / "images"), jpegs(tmp_path / "others", count=13)
    list(cached_module(first, cache="disk").train_dataloader())
    gc.collect()  # the data module, and with it the lock, is in a cycle
    (old,) = stored_caches()
    os.utime(old.folder / "meta.json", (1000, 1000))
    monkeypatch.setenv("IMGREC_CACHE_LIMIT", f"{2 * old.size - 100}B")
    kept = cached_module(second, cache="disk")
    list(kept.train_dataloader())
    (new,) = stored_caches()
    assert new.name != old.name
    list(cached_module(first, cache="disk").train_dataloader())
    assert [cache.name for cache in stored_caches()] == [new.name]
    assert "the other caches are in use and leave no room below the limit" in caplog.text


@pytest.mark.parametrize("text", ["20", "20 GB", "1.5TiB", "30%", "0.5k"])
def test_sizes(tmp_path: Path, text: str) -> None:
    store_limit(text, tmp_path / "decoded")
    limit = cache_limit(tmp_path / "decoded")
    expected = {"20": 20, "20 GB": 20e9, "1.5TiB": 1.5 * 2**40, "0.5k": 500}.get(text)
    assert limit.origin == f"imgrec cache limit {text}"
    assert limit.size == expected or (text == "30%" and 0 < limit.size < 2**60)


@pytest.mark.parametrize("text", ["", "much", "-1GB", "120%", "3 elephants"])
def test_an_invalid_size_is_rejected(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match="imgrec cache limit: expected a size such as 20GB"):
        store_limit(text, tmp_path / "decoded")
    assert not list(tmp_path.iterdir())
