from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from imgrec.cli.main import main
from imgrec.data import stored_caches
from imgrec.data.cache.build import build_on_disk

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
    assert "xyz  1 damaged" in verified.stdout
    assert cli("cache", "verify", "ab").returncode == 0
    assert cli("cache", "clear", "xy").returncode == 0
    assert (place / "abc").is_dir()
    assert not (place / "xyz").exists()
    assert cli("cache", "clear").returncode == 0
    assert not [path for path in place.iterdir() if path.is_dir()]


def test_the_limit_is_set_and_kept(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("abc", "xyz"):
        build(place / name)
    os.utime(place / "xyz" / "meta.json", (1000, 1000))
    assert main(["cache", "limit"]) == 0
    assert "(the default, 50%)" in capsys.readouterr().out
    size = stored_caches()[0].size
    assert main(["cache", "limit", f"{size + 100}B"]) == 0
    assert [cache.name for cache in stored_caches()] == ["abc"]
    assert main(["cache", "list"]) == 0
    assert f"(imgrec cache limit {size + 100}B)" in capsys.readouterr().out
    assert main(["cache", "limit", "much"]) == 2
    assert "expected a size such as 20GB" in capsys.readouterr().err


def test_a_cache_that_is_not_there(cli: Cli, place: Path) -> None:
    build(place / "abc")
    refused = cli("cache", "clear", "abd")
    assert refused.returncode == 2
    assert 'there is no cache "abd". Did you mean "abc"?' in refused.stderr
    assert (place / "abc").is_dir()
