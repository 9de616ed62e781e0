from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from imgrec.cli.commands.list_show import CLASSES, REGISTRIES, registry
from imgrec.engine.class_lists import CLASS_LISTS

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def test_every_registry_is_listed_with_its_place_in_a_config(cli: Cli) -> None:
    done = cli("list")
    assert done.returncode == 0
    rows = (line.partition(" ") for line in done.stdout.partition("\n\n")[0].splitlines())
    places = {k: where for k, (_, _, where) in REGISTRIES.items()} | CLASSES
    assert {plural: where.strip() for plural, _, where in rows} == places


@pytest.mark.parametrize("plural", REGISTRIES)
def test_every_entry_is_listed_with_what_it_is(plural: str, cli: Cli) -> None:
    found = registry(plural)
    done = cli("list", plural)
    assert done.returncode == 0
    listed = dict(
        line.split("  ", maxsplit=1) for line in done.stdout.partition("\n\n")[0].splitlines() if "  " in line
    )
    kinds = re.compile(r"(?:image|batch|mix) +")  # which of three kinds an augmentation is
    output = {
        name: kinds.sub("", text.strip(), count=1) if plural == "augmentations" else text.strip()
        for name, text in listed.items()
    }
    assert output == {e.name: e.summary for e in found}
    assert all(listed.values())
    if found.catalogue is not None:
        more = set(found.catalogue.names()) - set(found.names())
        assert f"and {len(more)} by other names" in done.stdout


@pytest.mark.parametrize("plural", REGISTRIES)
def test_every_entry_is_shown(plural: str, cli: Cli) -> None:
    found = registry(plural)
    more = islice(sorted(found.catalogue.names()), 0, None, 97) if found.catalogue is not None else []
    for name in [*found.names(), *more]:
        entry = found.entry(name)
        done = cli("show", plural, name)
        assert done.returncode == 0, name
        assert re.match(rf"{re.escape(name)} - an? {found.kind}, for {REGISTRIES[plural][2]}\n", done.stdout)
        for argument in entry.arguments():
            line = next(line for line in done.stdout.splitlines() if line.startswith(f"  {argument.name} "))
            given = "required" if argument.required else f"default {argument.default}"
            assert line.endswith((f"({given})", "(from the data and the model)", "(from the predictions)")), line
        assert entry.doc in done.stdout


def test_an_entry_is_shown_with_types_defaults_and_source(cli: Cli) -> None:
    output = cli("show", "losses", "focal").stdout
    assert "gamma" in output
    assert "float >= 0  (default 2.0)" in output
    assert "Source: Lin et al." in output


def test_pattern_selects_entries(cli: Cli) -> None:
    output = cli("list", "backbones", "resnet18*").stdout.splitlines()
    assert "resnet18" in output
    assert all(line.startswith("resnet18") for line in output)
    assert cli("list", "losses", "f*").stdout.startswith("focal  ")
    assert "torchvision/vgg11_bn" in cli("list", "backbones", "torchvision/*").stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["list", "loses"], '"losses"'),
        (["list", "calbacks"], '"callbacks"'),
        (["list", "callbacks", "EarlyStoping*"], '"EarlyStopping"'),
        (["show", "callbacks", "EarlyStoping"], '"EarlyStopping"'),
        (["show", "loggers", "EarlyStopping"], "trainer.logger"),
        (["list", "losses", "focl"], '"focal"'),
        (["list", "backbones", "zzz*"], 'matches "zzz*"'),
        (["show", "loses", "focal"], '"losses"'),
        (["show", "losses", "focl"], '"focal"'),
        (["show", "losses", "nowhere.Mine"], "cannot be imported"),
        (["show", "backbones", "resnet81"], '"resnet18"'),
    ],
)
def test_unknown_name_has_suggestion(words: list[str], message: str, cli: Cli) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr


@pytest.mark.parametrize("words", [["show"], ["show", "losses"], ["list", "a", "b", "c"]])
def test_wrong_number_of_arguments(words: list[str], cli: Cli) -> None:
    done = cli(*words)
    assert done.returncode == 2
    assert "--help`" in done.stderr


def test_custom_class_is_shown(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "shown_loss.py").write_text(
        'import torch\n\n\nclass Mine(torch.nn.Module):\n    """Mine alone."""\n\n'
        "    def __init__(self, k: int = 3) -> None:\n        super().__init__()\n"
    )
    done = cli("show", "losses", "shown_loss.Mine")
    assert done.returncode == 0, done.stderr
    assert "k  int  (default 3)" in done.stdout
    assert "Mine alone." in done.stdout


@pytest.mark.parametrize("plural", CLASSES)
def test_classes_are_listed_own_ones_first_and_shown(plural: str, cli: Cli) -> None:
    found = CLASS_LISTS[plural]
    assert found.where == CLASSES[plural]
    done = cli("list", plural)
    assert done.returncode == 0
    own, others = (block.splitlines() for block in done.stdout.split("\n\n")[:2])
    assert [line.split()[0] for line in own] == [entry.name for entry in found.list_own()]
    assert [line.split()[0] for line in others[1:]] == list(found.recommended)
    assert all(len(line.split(maxsplit=1)[1]) > 20 and line.endswith(".") for line in [*own, *others[1:]])
    for entry in (*found.list_own(), *found.list_recommended()):
        shown = cli("show", plural, entry.name)
        assert shown.returncode == 0, shown.stderr
        assert shown.stdout.startswith(f"{entry.name} - a {found.kind}, for {found.where}\n")
        assert entry.doc in shown.stdout
    assert cli("list", plural, f"{found.list_own()[0].name[:4]}*").stdout.startswith(found.list_own()[0].name)


def test_the_recorder_is_no_callback_that_a_config_names(cli: Cli) -> None:
    assert "RunRecorder" not in cli("list", "callbacks").stdout
