from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from imgrec.errors import UserError
from imgrec.utils.paths import data_root, folder_aside, locate, write_text, written_aside


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "data", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("IMGREC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


# ---------------------------------------------------------------- looking paths up


def test_path_is_searched_in_working_folder_then_data_root(tmp_path: Path) -> None:
    (tmp_path / "data/images").mkdir()
    assert locate("images") == tmp_path / "data/images"
    (tmp_path / "here/images").mkdir()
    assert locate("images").resolve() == tmp_path / "here/images"


def test_absolute_paths_and_home_are_unchanged(tmp_path: Path) -> None:
    (tmp_path / "home/images").mkdir()
    assert locate("~/images") == tmp_path / "home/images"
    assert locate(tmp_path / "home") == tmp_path / "home"
    with pytest.raises(UserError, match=r"^data folder not found: .*/nowhere$"):
        locate(tmp_path / "nowhere", "data folder")


def test_message_has_both_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        locate("images", "data folder")
    assert str(refused.value) == (
        f"data folder not found: neither {tmp_path / 'here/images'} nor {tmp_path / 'data/images'} (IMGREC_DATA) exists"
    )


@pytest.mark.parametrize("value", [None, ""])
def test_message_without_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("IMGREC_DATA")
    if value is not None:
        monkeypatch.setenv("IMGREC_DATA", value)
    assert data_root() is None
    with pytest.raises(UserError) as refused:
        locate("images")
    assert str(refused.value) == (
        f"path not found: {tmp_path / 'here/images'} (nor under IMGREC_DATA, which is not set)"
    )


# ---------------------------------------------------------------- files that are whole or not there


def test_text_is_written_and_folder_created(tmp_path: Path) -> None:
    write_text(tmp_path / "new/deep/a.txt", "schön\n")
    assert (tmp_path / "new/deep/a.txt").read_bytes() == "schön\n".encode()
    assert [p.name for p in (tmp_path / "new/deep").iterdir()] == ["a.txt"]


def test_failed_write_keeps_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("before")

    def fail() -> None:
        with written_aside(path) as aside:
            aside.write_text("half")
            assert path.read_text() == "before"
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fail()
    assert path.read_text() == "before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.txt", "data", "here", "home"]


def test_file_appears_when_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with written_aside(path) as aside:
        assert aside.parent == path.parent
        assert aside.suffix == ".csv"
        aside.write_text("1")
        assert not path.exists()
    assert path.read_text() == "1"
    assert not aside.exists()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_file_has_default_permissions(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "a")
        (tmp_path / "b.txt").write_text("b")
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.txt", "b.txt")]
    assert modes[0] == modes[1] == 0o666 & ~umask


def test_failed_folder_is_removed(tmp_path: Path) -> None:
    def fail() -> None:
        with folder_aside(tmp_path / "a" / "b" / "c") as aside:
            (aside / "half").write_text("written")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not (tmp_path / "a").exists()


def test_folder_replaces_old_one_atomically(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    for name in ("old", "new"):
        with folder_aside(folder) as aside:
            (aside / name).write_text(name)
    assert [path.relative_to(folder.parent).as_posix() for path in folder.parent.rglob("*")] == ["b", "b/new"]
