"""Attacks beyond single names: detours through trusted modules, options to paste, format strings, links, children."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import yaml

from imgrec.bench.process import BenchProcess
from imgrec.cli.main import take_trust
from imgrec.errors import UserError
from imgrec.export.export_folder import read_export
from imgrec.losses import LOSSES
from imgrec.trust import opening, policy
from imgrec.trust.module_path import without_current_folder
from imgrec.trust.untrusted import UntrustedError
from tests.trust.conftest import unfinished
from tests.trust.watch import Watch

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Guarded = Callable[[], AbstractContextManager[Watch]]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own that imports functions from elsewhere, in the current folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(policy, "_declared", set())
    monkeypatch.chdir(tmp_path)
    text = "import os, functools, torch\nfrom os import system\nfrom torch import load\nfrom torch.nn import Linear\n"
    text += "later = functools.partial(os.system, 'touch executed')\nclass Mine(torch.nn.CrossEntropyLoss): ...\n"
    (tmp_path / "own_lab.py").write_text(text + "instance = Mine()\ndef make(): return Mine()\n")
    (tmp_path / "own_labevil.py").write_text("class Mine: ...\n")
    for name in ("own_lab", "own_labevil"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("lab")
@pytest.mark.parametrize("name", ["system", "load", "Linear", "later", "os.system"])
def test_imports_of_trusted_module_are_not_trusted(name: str) -> None:
    with opening("received", "own_lab"), pytest.raises(UserError) as caught:
        LOSSES.build({"name": f"own_lab.{name}"}, "loss")
    if name in ("system", "load", "Linear"):
        assert isinstance(caught.value, UntrustedError)
        assert f"--trust=own_lab.{name} " in str(caught.value)


@pytest.mark.usefixtures("lab")
def test_trusted_module_allows_own_classes_and_full_names() -> None:
    with opening("received", "own_lab"):
        for name in ("Mine", "make", "instance"):
            LOSSES.entry(f"own_lab.{name}")
    with opening("received", "own_lab.Linear"):
        LOSSES.entry("own_lab.Linear")
    with opening("received", "own_lab"), pytest.raises(UntrustedError):
        LOSSES.entry("own_labevil.Mine")


@pytest.mark.parametrize(
    "name", ["evil.Head;touch executed", "evil.$(touch executed)", "evil.Head --trust", "a.b\nc.d"]
)
def test_no_option_is_printed_for_a_name_that_a_shell_would_run(name: str) -> None:
    with opening("received"), pytest.raises(UntrustedError) as caught:
        LOSSES.check({"name": name}, "loss")
    assert "--trust" not in str(caught.value).replace(name, "")


def test_a_name_after_a_space_is_not_taken_as_trust_in_everything(tmp_path: Path) -> None:
    for name in ("own_lab", "own_lab.heads.Mine"):
        with pytest.raises(UserError, match=f"expected --trust={name}"):
            take_trust(["predict", "RUN", "--trust", name, "a.png"])
    picture = tmp_path / "a.png"
    picture.touch()
    assert take_trust(["--trust", "predict", "RUN", "--trust", str(picture)]) == (
        ["predict", "RUN", str(picture)],
        True,
    )


FORMATS = ["{epoch].__class__.__module__[0}", "{epoch!r}", "{epoch:{step].__doc__[3}}", "../{epoch}", "/tmp/{epoch}"]


@pytest.mark.parametrize("filename", FORMATS)
def test_a_format_string_spells_no_path(filename: str, cli: Cli, run: Path, guarded: Guarded) -> None:
    path = unfinished(run) / "config.yaml"
    content = yaml.safe_load(path.read_text())
    init = {"filename": filename, "auto_insert_metric_name": False}
    content["trainer"]["callbacks"] = [{"class_path": "ModelCheckpoint", "init_args": init}]
    path.write_text(yaml.safe_dump(content))
    with guarded():
        done = cli("resume", run)
    assert done.returncode == 2
    assert "it may write outside the run folder" in done.stderr


def test_children_of_an_opening_do_not_import_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f":{Path(__file__).parents[2]}")  # an empty entry is the current folder
    before = dict(os.environ)
    for name in ("runpy", "multiprocessing", "torch", "numpy"):
        (tmp_path / f"{name}.py").write_text("import pathlib\npathlib.Path(__file__).with_name('imported').touch()\n")
    with without_current_folder(), BenchProcess(1):
        subprocess.run([sys.executable, "-c", "import runpy, multiprocessing"], check=True)
        subprocess.run([sys.executable, "-m", "this"], check=True, capture_output=True)
    assert not (tmp_path / "imported").exists()
    assert dict(os.environ) == before


def test_a_short_name_of_lightning_is_refused_with_an_option_that_works(cli: Cli, run: Path) -> None:
    path = unfinished(run) / "config.yaml"
    content = yaml.safe_load(path.read_text())
    content["trainer"]["callbacks"] = ["LambdaCallback"]
    path.write_text(yaml.safe_dump(content))
    done = cli("resume", run)
    assert "--trust=pytorch_lightning.callbacks.LambdaCallback " in done.stderr
    done = cli("resume", run, "--trust=pytorch_lightning.callbacks.LambdaCallback")
    assert "cannot be imported" not in done.stderr
    assert "--trust" not in done.stderr


def test_sync_uploads_no_file_that_a_link_or_the_log_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    import struct
    import zlib

    from wandb.proto import wandb_internal_pb2

    from imgrec.cli.commands.sync import _refuse_foreign

    folder = tmp_path / "run" / "wandb" / "offline-run-1-a"
    (folder / "files").mkdir(parents=True)
    (tmp_path / "secret").write_text("key")

    def log(*names: str) -> Path:
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        for name in names:
            record.files.files.add(path=name)
        content = record.SerializeToString()
        header = struct.pack("<IHB", zlib.crc32(b"\x01" + content), len(content), 1)
        (folder / "run-a.wandb").write_bytes(b":W&B\0\0\0" + header + content)
        return folder / "run-a.wandb"

    with opening("received"):
        _refuse_foreign(log("output.log"))
        with pytest.raises(UntrustedError, match="secret"):
            _refuse_foreign(log("../../../../secret"))
        (folder / "files" / "output.log").symlink_to(tmp_path / "secret")
        with pytest.raises(UntrustedError, match="secret"):
            _refuse_foreign(log())


BOMBS = {
    "deep": "[" * 100_000,
    "long": '{"steps": ' + "9" * 6000 + "}",
    "infinite": '{"best_score": 1e400, "epochs": 1e400, "train_seconds": Infinity, "test": {"acc": NaN}}',
    "surrogate": '{"status": "\\ud800", "monitor": "\\ud800", "experiment": "\\ud800"}',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_odd_json_and_yaml_in_a_run_end_in_a_message(bomb: str, cli: Cli, run: Path) -> None:
    for name in ("summary.json", "environment.json", "config.yaml"):
        other = shutil.copytree(run, run.with_name(f"{bomb}-{name}"))
        (other / name).write_text(BOMBS[bomb][:3000] if name == "config.yaml" else BOMBS[bomb])
        for arguments in (["report", other], ["compare", run, other, "--out", "page.html"], ["runs", "runs"]):
            done = cli(*arguments)  # an exception would be raised here
            assert done.returncode in (0, 2), done.stderr


def test_a_network_of_an_export_is_nested_no_deeper_than_python_can_read(run: Path) -> None:
    folder = run / "exports" / "deep"
    folder.mkdir(parents=True)
    (folder / "export.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="nested too deeply"):
        read_export(folder)
