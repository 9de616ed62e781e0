from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from imgrec.data.cache_build import build_on_disk

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
ABOUT = {"origin": "here", "plan": "as they are", "source": "noise"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMGREC_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches" / "decoded"


def build(folder: Path) -> None:
    build_on_disk(lambda row: torch.full((3, 4, 4), row, dtype=torch.uint8), np.arange(20), True, folder, ABOUT)


def test_list_verify_clear(cli: Cli, place: Path) -> None:
    assert "no cache in" in cli("cache", "list").stdout
    build(place / "abc")
    build(place / "xyz")
    listed = cli("cache", "list").stdout
    assert "abc" in listed
    assert "20 images (as they are) of noise" in listed
    assert cli("cache", "verify").returncode == 0
    content = bytearray((place / "xyz" / "images.bin").read_bytes())
    content[0] ^= 1
    (place / "xyz" / "images.bin").write_bytes(content)
    verified = cli("cache", "verify")
    assert verified.returncode == 1
    assert "xyz  1 found damaged" in verified.stdout
    assert cli("cache", "verify", "ab").returncode == 0
    assert cli("cache", "clear", "xy").returncode == 0
    assert (place / "abc").is_dir()
    assert not (place / "xyz").exists()
    assert cli("cache", "clear").returncode == 0
    assert not [path for path in place.iterdir() if path.is_dir()]


def test_a_cache_that_is_not_there(cli: Cli, place: Path) -> None:
    build(place / "abc")
    refused = cli("cache", "clear", "abd")
    assert refused.returncode == 2
    assert 'there is no cache "abd". Did you mean "abc"?' in refused.stderr
    assert (place / "abc").is_dir()
