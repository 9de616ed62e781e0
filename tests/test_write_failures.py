"""A full or read-only disk: results are printed first, then one message, and nothing is half written."""

from __future__ import annotations

import ast
import errno
import os
import resource
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import imgrec
from imgrec.errors import ResourceError
from imgrec.reports.bench.results import Bench, BenchRow
from imgrec.reports.images import save_figure
from imgrec.runs.checkpoints import write_checkpoint
from imgrec.runs.predictions import Predictions, write_predictions
from imgrec.utils.csv_files import write_rows
from imgrec.utils.paths import folder_aside, write_text, written_aside
from imgrec.utils.write_errors import WriteError, writing
from tests.conftest import Cli

ROOT = Path(imgrec.__file__).parent
LARGE = 200_000  # bytes, above the limit on the size of a file

# ---------------------------------------------------------------- one helper

_ASIDE = {"written_aside", "folder_aside", "rows_written", "export_aside"}
_WRITERS = {
    *("write_text", "write_bytes", "savefig", "save_file", "save_model", "write_table", "ParquetWriter", "to_csv"),
    *("tofile", "copyfile", "copy2", "copytree", "makedirs"),
}
_ALLOWED = {
    "imgrec/data/cache/build.py": "a folder aside with a lock; without room, images are decoded again",
    "imgrec/runs/metrics_csv.py": "rows are appended; MetricsLogger turns a failure into a WriteError",
    "imgrec/utils/memory.py": "a file of the kernel",
    "imgrec/bench/worker.py": "a temporary folder of the benchmark",
    "imgrec/bench/evaluation.py": "a temporary folder of the benchmark",
    "imgrec/compress/quantization/onnx_static.py": "a folder given by export_aside",
    "imgrec/compress/quantization/onnx_weight_only.py": "a folder given by export_aside",
    "imgrec/compress/quantization/openvino.py": "a folder given by export_aside",
    "imgrec/export/onnx_writer.py": "a folder given by export_aside",
    "imgrec/export/formats/onnx.py": "a folder given by export_aside",
    "imgrec/export/formats/openvino.py": "a folder given by export_aside",
    "imgrec/export/export_folder.py": "a folder given by export_aside",
    "imgrec/reports/html.py": "a picture in memory",
    "imgrec/reports/svg.py": "a picture in memory",
}


def writes(tree: ast.AST, inside: bool = False) -> Iterator[int]:
    """Return the lines that write a file outside of a ``with`` block of the helpers."""
    for node in ast.iter_child_nodes(tree):
        here = inside
        if isinstance(node, ast.With):
            called = [each.context_expr for each in node.items if isinstance(each.context_expr, ast.Call)]
            here = inside or any(name(each.func) in _ASIDE for each in called)
        if isinstance(node, ast.Call) and not here and is_write(node):
            yield node.lineno
        yield from writes(node, here)


def name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def is_write(call: ast.Call) -> bool:
    called = name(call.func)
    given = [*call.args, *(each.value for each in call.keywords)]
    if called == "open":
        arguments = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        return any(set(word) <= set("rwaxbt+") and set(word) & set("wax+") for word in arguments)
    if called in ("write_text", "write_table") and isinstance(call.func, ast.Name):
        return False  # imgrec.utils.paths.write_text and imgrec.cli.output.write_table
    saves = called == "save" and isinstance(call.func, ast.Attribute) and ast.unparse(call.func) != "self.save"
    return called in _WRITERS or saves


def test_no_module_writes_a_file_without_the_helper() -> None:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        place = path.relative_to(ROOT.parent).as_posix()
        if lines := sorted(set(writes(ast.parse(path.read_text(encoding="utf-8"))))):
            found[place] = lines
    assert {place: lines for place, lines in found.items() if place not in _ALLOWED} == {}
    assert set(_ALLOWED) <= set(found)


# ---------------------------------------------------------------- every kind of file


def predictions(path: Path) -> None:
    logits = np.random.default_rng(0).normal(size=(5000, 10)).astype(np.float32)
    write_predictions(path, Predictions([str(i) for i in range(5000)], np.zeros(5000, int), logits, list("abcdefghij")))


def picture(path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9))
    figure.add_subplot().imshow(np.random.default_rng(0).random((900, 900)))
    save_figure(figure, path)


def model(path: Path) -> None:
    from safetensors.torch import save_file

    with folder_aside(path) as aside:
        save_file({"a": torch.zeros(LARGE)}, aside / "model.safetensors")


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.json": lambda path: write_text(path, "x" * LARGE),
    "a.csv": lambda path: write_rows(path, ["a"], ([i] for i in range(LARGE))),
    "a.parquet": predictions,
    "a.png": picture,
    "a.ckpt": lambda path: write_checkpoint({"state_dict": {"a": torch.zeros(LARGE)}}, path),
    "folder": model,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_that_cannot_grow_leaves_the_old_one(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
        (path / "model.safetensors").write_text("old")
    else:
        path.write_text("old")
    before = snapshot(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGE // 4, hard))
    try:
        with pytest.raises(WriteError, match=rf"{path}: cannot be written \(File too large\)"):
            WRITERS[name](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO])
def test_a_failure_to_write_is_one_error(number: int, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(WriteError) as error, written_aside(path):
        raise OSError(number, os.strerror(number))
    assert isinstance(error.value, ResourceError)
    assert (error.value.status, error.value.errno) == (6, number)
    assert str(error.value).startswith(f"{path}: cannot be written ({os.strerror(number)}).")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "message", ["I/O error: No space left on device (os error 28)", "[Errno 28] Error writing bytes to file"]
)
def test_disk_full_error_of_library(message: str, tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="No space left on device"), writing(tmp_path / "a"):
        raise RuntimeError(message)


def test_unrelated_os_error_is_no_write_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_aside(tmp_path / "a.csv"):
        (tmp_path / "elsewhere" / "source.png").read_bytes()
    with pytest.raises(ZeroDivisionError), written_aside(tmp_path / "a.csv"):
        _ = 1 / 0


# ---------------------------------------------------------------- every command


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "runs/tiny/one")
    shutil.copytree(trained, tmp_path / "runs/tiny/two")
    Image.new("L", (16, 16)).save(tmp_path / "grey.png")
    return tmp_path


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Makes every file unwritable: gives the reason that the message names."""

    def fail(number: int) -> Callable[..., Any]:
        def raise_it(*given: Any, **more: Any) -> None:
            raise OSError(number, os.strerror(number))

        return raise_it

    def begin(how: str) -> str:
        if how == "full":
            monkeypatch.setattr(os, "replace", fail(errno.ENOSPC))
            monkeypatch.setattr(os, "rename", fail(errno.ENOSPC))
            return "No space left on device"
        monkeypatch.setattr("imgrec.utils.paths.tempfile.mkstemp", fail(errno.EROFS))
        monkeypatch.setattr("imgrec.utils.paths.tempfile.mkdtemp", fail(errno.EROFS))
        return "Read-only file system"

    return begin


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["report", "runs/tiny/one"], ""),
        (["test", "runs/tiny/one"], "accuracy"),
        (["validate", "runs/tiny/one"], "accuracy"),
        (["predict", "runs/tiny/one", "grey.png", "--out", "a.csv"], ""),
        (["runs", "runs", "--csv", "a.csv", "--json", "a.json"], "2 runs in runs"),
        (["compare", "runs/tiny/one", "runs/tiny/two", "--group-by", "none", "--json", "a.json"], "2 runs on"),
        (["audit", "tiny.yaml", "--fix", "fix.csv"], "images"),
        (["lr-find", "tiny.yaml", "--steps", "10"], "suggested"),
        (["augment", "tiny.yaml"], ""),
        (["bench", "runs/tiny/one", "--csv", "a.csv"], "tiny"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_command_prints_its_results_and_ends_with_status_6(
    arguments: list[str], printed: str, failing: Callable[[str], str], place: Path, tiny: Path, cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if arguments[0] == "bench":  # the measurement starts a process for each row
        table = Bench((BenchRow("tiny", "runs/tiny/one", "torch", "fp32"),), "", "2026-01-01T00:00:00+00:00", "CPU", 1)
        monkeypatch.setattr("imgrec.bench.run.measure_sources", lambda *_: (table, place / "runs/tiny/one"))
    before = snapshot(place)
    reason = failing("full" if arguments[0] in ("test", "audit", "lr-find", "bench", "compare") else "read-only")
    done = cli(*arguments)
    assert done.returncode == 6, done.stderr
    assert printed in done.stdout
    assert done.stderr.count("imgrec: error:") == 1
    assert "cannot be written" in done.stderr
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(place) == before


def test_an_output_on_a_full_disk(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with Path("/dev/full").open("w") as full:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", full)
            patch.setattr("imgrec.cli.main._discard_output", lambda: None)
            from imgrec.cli.main import main

            assert main(["list"]) == 6
        with pytest.raises(OSError, match="No space left"):
            full.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno())
