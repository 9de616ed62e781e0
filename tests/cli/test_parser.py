"""The parser of all commands: options with ranges, unknown words, config files and overrides."""

from __future__ import annotations

import subprocess
import sys

import pytest

from imgrec.cli.option_types import FileName, Number
from imgrec.cli.parser import CONFIG_KEYS, Parser
from imgrec.engine import resolve
from imgrec.errors import UserError
from imgrec.utils.ranges import OpenUnitInterval, PositiveInt


@pytest.fixture
def parser() -> Parser:
    found = Parser(prog="imgrec x", description="A command.")
    found.accept_config()
    found.add_argument("--rounds", type=Number(PositiveInt), default=7, metavar="N", help="number of rounds")
    found.add_argument("--share", type=Number(OpenUnitInterval), default=0.5)
    found.add_argument("--method", choices=("greedy", "uniform"))
    found.add_argument("--out", type=FileName(".png", ".pdf"))
    found.add_argument("--fast", action="store_true")
    return found


def test_options_files_and_overrides_in_any_order(parser: Parser) -> None:
    line = "a.yaml --rounds 3 --data.size=8 b.yaml -c c.yaml --config=d.yaml --model.lr -1e-3 --data.x+ [1] --fast=true"
    found = parser.parse_args([*line.split(), "--trainer.fast_dev_run"])
    assert found.files == ["a.yaml", "b.yaml", "c.yaml", "d.yaml"]
    assert found.overrides == [("data.size", 8), ("model.lr", -1e-3), ("data.x+", [1]), ("trainer.fast_dev_run", True)]
    assert (found.rounds, found.share, found.fast) == (3, 0.5, True)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--rounds 0", "--rounds: expected int > 0, got 0."),
        ("--rounds 1.0", "--rounds: expected int > 0, got 1.0."),
        ("--rounds", "--rounds: expected one argument."),
        ("--share -1e-3", "--share: expected float in (0, 1), got -1e-3."),
        ("--share 0,5", "--share: expected float in (0, 1), got 0,5. Is 0,5 a decimal comma? Write 0.5."),
        ("--method gredy", '--method: there is no "gredy". Did you mean "greedy"? Accepted: greedy, uniform.'),
        ("--out a.txt", "--out: expected a file name that ends in .png or .pdf, got a.txt."),
        ("--round 3", 'imgrec x: there is no option "--round". Did you mean "--rounds"'),
        ("--modle.loss focal", 'there is no option "--modle.loss". Did you mean "--model.loss"?'),
        ("--key.subkey 3", 'there is no option "--key.subkey".'),
        ("--fast=3", "--fast: expected no value, true or false, got '3'."),
    ],
)
def test_an_invalid_command_line_raises_one_message(line: str, message: str, parser: Parser) -> None:
    with pytest.raises(UserError) as error:
        parser.parse_args(line.split())
    assert message in str(error.value)


def test_a_decimal_comma_in_an_override_is_found(parser: Parser) -> None:
    with pytest.raises(UserError, match=r"--model.x: .*decimal comma"):
        parser.parse_args(["--model.x={lr: 0,1}"])


def test_the_help_has_ranges_and_defaults(parser: Parser) -> None:
    text = parser.format_help()
    assert "number of rounds (int > 0, default: 7)" in text
    assert "--key.subkey VALUE" in text


def test_the_config_keys_are_those_of_a_config() -> None:
    assert {*resolve.TOP_LEVEL, *resolve.PARTS, "trainer"} == set(CONFIG_KEYS)


def test_no_help_imports_torch() -> None:
    code = (
        "import contextlib, io, sys\n"
        "from imgrec.cli.main import COMMANDS, main\n"
        "for command in COMMANDS:\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as text:\n"
        "        main([command, '--help'])\n"
        "    assert text.getvalue().startswith('usage: imgrec ' + command), command\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
