"""File and class names with control characters: escaped in a terminal, neutral in a spreadsheet, text in a page."""

from __future__ import annotations

import csv
import io
import logging
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.table import Table
from rich.text import Text

import imgrec
from imgrec.cli.main import main
from imgrec.cli.output import console_for, print_table
from imgrec.data.wrappers.corrections import read_exclusions
from imgrec.utils.console import PlainConsole
from imgrec.utils.csv_files import neutral, restored, write_rows
from imgrec.utils.terminal import EscapingFormatter, escape_warnings, print, printable
from tests.conftest import Cli, StoredRun

ROOT = Path(imgrec.__file__).parent
HOSTILE = "cat\x1b[31m\r\x07\x9b2J\u202egpj\x7f[red]"
SHOWN = "cat\\x1b[31m\\r\\x07\\x9b2J\\u202egpj\\x7f[red]"
RAW = "\x1b\r\x07\x9b\u202e\x7f"


def assert_clean(text: str) -> None:
    assert not set(RAW) & set(text), repr(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, SHOWN),
        ("\u2066a\u2069\u200e\u061c\ufeff", "\\u2066a\\u2069\\u200e\\u061c\\ufeff"),
        ("\u2028", "\\u2028"),
        (b"\xff.png".decode("utf-8", "surrogateescape"), "\\udcff.png"),
        ("Zürich 猫 👩\u200d🔬\n\t", "Zürich 猫 👩\u200d🔬\n\t"),
    ],
)
def test_control_characters_are_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert printable(printable(text)) == shown


def test_a_cell_is_one_line() -> None:
    assert printable("a\nb\tc", newlines=False) == "a\\nb\\tc"


def test_print_and_consoles_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    print("name", HOSTILE)
    console = PlainConsole(width=200)
    console.print(HOSTILE)
    console.print(Text(HOSTILE))
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.print(table)
    print_table(console_for(300), [HOSTILE, "b"], [[HOSTILE, HOSTILE]], left={HOSTILE})
    said = capsys.readouterr().out
    assert_clean(said)
    assert said.count(SHOWN) >= 7


def test_a_name_is_no_markup_and_styles_stay() -> None:
    screen = io.StringIO()
    console = PlainConsole(file=screen, force_terminal=True, width=80, color_system="standard")
    console.print(Text("[red]x[/red] :smile:", style="bold"))
    assert "[red]x[/red] :smile:" in screen.getvalue()
    assert "\x1b[1m" in screen.getvalue()  # the console's own


def test_logs_and_warnings_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("imgrec", logging.WARNING, "", 0, "skipped %s", (HOSTILE,), None)
    assert_clean(EscapingFormatter().format(record))
    kept = warnings.formatwarning
    escape_warnings()
    try:
        assert_clean(warnings.formatwarning(f"odd {HOSTILE}", UserWarning, "a.py", 1, ""))
    finally:
        warnings.formatwarning = kept


# ---------------------------------------------------------------- commands


@pytest.fixture
def place(tmp_path: Path, stored_run: StoredRun, monkeypatch: pytest.MonkeyPatch) -> Path:
    names = [HOSTILE, "=cmd|' /C calc'!A0", "[red]dog[/red]"]
    for seed in (0, 1):
        ids = [f"{HOSTILE}/{i}.png" for i in range(30)]
        right = [(i + seed) % 4 > 0 for i in range(30)]
        config = {"loss": {"name": HOSTILE, "gamma": seed}, "head": "=1+1"}
        stored_run(tmp_path / "runs", f"pets{HOSTILE}", seed, right, ids=ids, class_names=names, config=config)
    (tmp_path / f"data{HOSTILE}").mkdir()
    for folder in (HOSTILE, "=cmd"):
        (tmp_path / f"data{HOSTILE}" / folder).mkdir()
        for i in range(8):
            Image.new("L", (20, 20), 10 * i).save(tmp_path / f"data{HOSTILE}" / folder / f"{HOSTILE}{i}.png")
    noise = Image.frombytes("L", (20, 20), np.random.default_rng(0).bytes(400))
    for name in ("=copy", "=original"):  # of one class: `audit --fix` excludes one of them
        noise.save(tmp_path / f"data{HOSTILE}" / "=cmd" / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs", "runs"],
        ["runs", "runs", "--columns", "*"],
        ["runs", "runs", "--sort", HOSTILE],
        ["compare", "runs", "--group-by", "none"],
        ["compare", "runs", "--group-by", "loss/name", "--out", "a.html", "--no-images", "--markdown", "a.md"],
        ["report", f"runs/pets{HOSTILE}/seed-0"],
        ["watch", "runs", "--once"],
        ["audit", f"data{HOSTILE}", "--fix", "fix.csv"],
        ["fit", "--model.loss", HOSTILE],
        ["fit", "--config", f"{HOSTILE}.yaml"],
        ["show", "losses", HOSTILE],
        ["list", HOSTILE],
        [HOSTILE],
        ["test", HOSTILE],
        ["bench", HOSTILE],
        ["predict", HOSTILE, "x.png"],
        ["compress", HOSTILE],
        ["soup", HOSTILE],
        ["resume", HOSTILE],
        ["sync", HOSTILE],
        ["cost", HOSTILE],
        ["cache", "list", HOSTILE],
    ],
    ids=lambda arguments: " ".join(word for word in arguments if word.isascii() and word.isprintable()),
)
def test_no_command_sends_control_characters_to_the_terminal(arguments: list[str], place: Path, cli: Cli) -> None:
    done = cli(*arguments)
    assert_clean(done.stdout + done.stderr)
    assert "Traceback" not in done.stderr


def test_pages_hold_names_as_text(place: Path, cli: Cli) -> None:
    for run in (place / "runs").glob("*/*"):
        (run / "config.yaml").write_text("model: {init_args: {loss: '<script>alert(1)</script>'}}\n")
    evil = shutil.move(next((place / "runs").iterdir()), place / "runs" / "<img src=x onerror=alert(1)>")
    assert cli("report", Path(evil) / "seed-0").returncode == 0
    assert cli("compare", "runs", "--group-by", "none", "--out", "a.html", "--no-images").returncode == 0
    assert cli("audit", f"data{HOSTILE}", "--out", "<bdo>").returncode == 0
    for page in (Path(evil) / "seed-0" / "report.html", place / "a.html", place / "<bdo>" / "audit.html"):
        text = page.read_text(encoding="utf-8")
        assert "<script>alert" not in text
        assert "<img src=x" not in text
        assert "<bdo>" not in text


# ---------------------------------------------------------------- spreadsheets


@pytest.mark.parametrize(
    "text",
    ["=cmd|' /C calc'!A0", "+x", "-x", "@x", "\tx", "\rx", "'=x", "''@", "'x", "x", "", "-0.5", "1e-3", "\uff1dx"],
)
def test_a_text_cell_is_neutral_and_reversible(text: str) -> None:
    written = neutral(text)
    assert restored(written) == text
    assert not written or written[0] not in "=+@\t\r\uff1d"
    if written.startswith("-"):
        float(written)


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.csv", ["=a", "b", "c"], [[-0.5, "-1e-05", None], ["=1+1", "-cat", Path("-x.png")]])
    assert list(csv.reader((tmp_path / "a.csv").open())) == [
        ["'=a", "b", "c"],
        ["-0.5", "-1e-05", ""],
        ["'=1+1", "'-cat", "'-x.png"],
    ]


def test_exported_tables_start_no_formula(place: Path, cli: Cli) -> None:
    assert cli("runs", "runs", "--csv", "a.csv").returncode == 0
    assert cli("audit", f"data{HOSTILE}", "--fix", "fix.csv").returncode == 0
    for file in ("a.csv", "fix.csv", f"audit/data{HOSTILE}/findings.csv"):
        rows = list(csv.reader((place / file).open(newline="", encoding="utf-8")))
        assert len(rows) > 1, file
        assert not [cell for row in rows for cell in row if cell[:1] in tuple("=+@\t\r")], file


def test_the_list_of_an_audit_reads_back(tmp_path: Path) -> None:
    write_rows(tmp_path / "fix.csv", ["id", "action"], [["=a.png", "exclude"], ["'-b.png", "exclude"]])
    assert read_exclusions(tmp_path / "fix.csv") == ["=a.png", "'-b.png"]
    (tmp_path / "own.csv").write_text("id\n'=a.png\n=b.png\n")
    assert read_exclusions(tmp_path / "own.csv") == ["'=a.png", "=b.png"]


def test_a_message_of_argparse_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", f"--{HOSTILE}"]) == 2
    assert_clean(capsys.readouterr().err)
