"""Received paths: nothing is written outside the run folder, and no image is read outside the root of its source."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from imgrec.callbacks import AtomicCheckpointIO
from imgrec.data import SOURCES, BadImage
from imgrec.data.decoding.image import decode_image
from imgrec.errors import UserError
from imgrec.runs.folder import RunFolder
from imgrec.trust import opening, policy
from imgrec.utils.paths import inside, write_text
from tests.trust.conftest import unfinished
from tests.trust.hostile import RUN_DATA, attacked
from tests.trust.watch import Watch

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Guarded = Callable[[], AbstractContextManager[Watch]]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """An image outside every data folder."""
    path = tmp_path / "secret.png"
    Image.new("L", (8, 8), 200).save(path)
    return path


@pytest.mark.parametrize("name", ["../../outside.ckpt", "/outside.ckpt", "checkpoints/../../../x", "a\x00b"])
def test_a_name_in_summary_json_stays_in_the_run(name: str, run: Path) -> None:
    (run.parents[1] / "outside.ckpt").write_bytes(b"")
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({**summary, "checkpoint": name}))
    with pytest.raises(UserError, match="expected a path inside the folder"):
        RunFolder(run).trained_checkpoint()


def test_a_link_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path)
    with pytest.raises(UserError, match="inside the folder"):
        inside(tmp_path / "a", "link/x", "here")


@pytest.mark.parametrize("command", ["report", "test", "resume"])
@pytest.mark.parametrize("place", ["predictions", "checkpoints"])
def test_a_command_does_not_write_through_a_link(
    command: str, place: str, cli: Cli, run: Path, guarded: Guarded, tmp_path: Path
) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    shutil.copytree(run / place, outside / place)
    shutil.rmtree(run / place)
    (run / place).symlink_to(outside / place)
    before = {path.name: path.read_bytes() for path in (outside / place).iterdir()}
    with guarded():
        done = cli(command, unfinished(run) if command == "resume" else run)
    assert {path.name: path.read_bytes() for path in (outside / place).iterdir()} == before
    assert command != "resume" or ("--trust" in done.stderr and done.returncode == 2)


def test_a_file_of_a_run_is_not_written_through_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (run / "linked").symlink_to(tmp_path / "outside")
    with opening(run):
        with pytest.raises(UserError, match="--trust"):
            write_text(run / "linked" / "file", "x")
        write_text(run / "report.html", "x")
    with opening(run, True):
        write_text(run / "linked" / "file", "x")


def test_a_resumed_training_removes_no_file_that_a_checkpoint_names(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("x")
    io = AtomicCheckpointIO()
    with opening("a run"):
        io.save_checkpoint({"state_dict": {}}, tmp_path / "checkpoints" / "best.ckpt")
        io.remove_checkpoint(tmp_path / "checkpoints" / ".." / "victim")
        assert victim.exists()
        io.remove_checkpoint(tmp_path / "checkpoints" / "best.ckpt")
        assert not (tmp_path / "checkpoints" / "best.ckpt").exists()


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("given", ["../secret.png", "SECRET", "a/../../secret.png"])
def test_a_row_of_a_csv_file_does_not_leave_the_root(given: str, secret: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    named = given.replace("SECRET", str(secret))
    (tmp_path / "data" / "labels.csv").write_text(f"path,label\n{named},a\ninside.png,b\n")
    spec = {"name": "csv", "file": str(tmp_path / "data" / "labels.csv")}
    with pytest.raises(UserError, match=r"line 2.*expected a path below the root.*outside_root: true"):
        SOURCES.build(spec)
    assert SOURCES.build({**spec, "outside_root": True}).load(0).shape == (1, 8, 8)


def test_an_absolute_path_below_the_root_is_accepted(secret: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text(f"path,label\n{secret},a\n{tmp_path}/other.png,b\n")
    found = SOURCES.build({"name": "csv", "file": str(tmp_path / "labels.csv")})
    assert list(found.ids) == ["secret.png", "other.png"]


@pytest.mark.parametrize("absolute", [True, False])
def test_a_cell_of_a_parquet_file_does_not_leave_its_folder(absolute: bool, secret: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    named = str(secret) if absolute else "../secret.png"
    image = pa.array(
        [{"bytes": None, "path": each} for each in (named, "b.png")],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    pq.write_table(pa.table({"image": image, "label": ["a", "b"]}), tmp_path / "data" / "rows.parquet")
    source = SOURCES.build({"name": "parquet", "path": str(tmp_path / "data" / "rows.parquet")})
    with pytest.raises(BadImage, match="inside the folder"):
        source.load(0)


def test_the_members_of_a_tar_file_are_never_files(secret: Path, tmp_path: Path, guarded: Guarded) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 10).save(buffer, "png")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("../../evil/0.png", "/evil/1.png", "good/2.png"):
            member = tarfile.TarInfo(name)
            member.size = len(buffer.getvalue())
            tar.addfile(member, io.BytesIO(buffer.getvalue()))
            label = tarfile.TarInfo(f"{name.removesuffix('.png')}.cls")
            label.size = 1
            tar.addfile(label, io.BytesIO(b"1" if name.startswith("good") else b"0"))
        link = tarfile.TarInfo("evil/3.png")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    with opening("a run"):
        source = SOURCES.build({"name": "tar", "path": str(tmp_path / "a.tar")})
        assert len(source) == 3
        assert not list(tmp_path.glob(".a.tar.*"))  # an opening keeps its index in the cache


def test_an_opening_fetches_nothing(tmp_path: Path, guarded: Guarded) -> None:
    spec = {"name": "torchvision", "dataset": "FashionMNIST", "root": str(tmp_path), "download": True}
    with opening("a run"), pytest.raises(UserError, match="not found"):
        SOURCES.build(spec)
    assert not (tmp_path / "FashionMNIST").exists()


def test_an_image_that_is_a_program_is_not_run(tmp_path: Path, guarded: Guarded) -> None:
    text = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(touch executed) print\nshowpage\n%%EOF\n"
    (tmp_path / "a.png").write_text(text)
    Image.init()  # the plugins look for optional packages
    with guarded(), pytest.raises(BadImage, match="EPS"):
        decode_image(tmp_path / "a.png")


# ---------------------------------------------------------------- what remains possible


def test_trust_opens_a_run_of_the_users_own_class(cli: Cli, run: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\nclass Loss(torch.nn.CrossEntropyLoss): ...\n")
    arguments = ["--config", run / "config.yaml", "--model.loss", "mine.Loss"]
    done = cli("fit", *arguments, "--trainer.max_epochs", "1", "--experiment", "mine")
    assert done.returncode == 0, done.stderr  # training, evaluation and report in one process
    (own,) = (tmp_path / "runs" / "mine").iterdir()
    sys.modules.pop("mine")
    policy._declared.clear()
    sys.path[:] = [each for each in sys.path if each != str(tmp_path)]
    refused = cli("test", own)
    assert refused.returncode == 2
    assert "--trust=mine.Loss" in refused.stderr
    for word in ("--trust", "--trust=mine", "--trust=mine.Loss"):
        done = cli("test", own, word)
        assert done.returncode == 0, done.stderr
    assert cli("test", own, "--model.loss", "mine.Loss").returncode == 0  # the user's own words


def test_a_report_of_a_hostile_run_has_no_thumbnails_and_a_reason(cli: Cli, run: Path, guarded: Guarded) -> None:
    with guarded():
        done = cli("report", attacked(run, RUN_DATA[2]))
    assert done.returncode == 0
    assert "no thumbnails" in done.stdout
    assert "os.system" in done.stdout
