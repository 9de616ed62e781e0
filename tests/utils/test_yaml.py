"""YAML 1.2 scalars, and mappings that would lose a key."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import pytest
import yaml

from imgrec.cli.commands.list_show import REGISTRIES, registry
from imgrec.data import ImageDataModule
from imgrec.engine.config import FREE_MAPPINGS, merge, override, read_config
from imgrec.errors import UserError
from imgrec.registry import Registry
from imgrec.runs.folder import RunFolder
from imgrec.tasks import ClassificationTask, DistillationTask
from imgrec.utils import yaml as yaml12
from imgrec.utils.signature import Entry
from tests.conftest import Cli

DUPLICATE = "model:\n  optimizer:\n    lr: 0.1\n    name: sgd\n    lr: 0.2\n"
TWICE = "expected each key once in a mapping, got `lr` twice (lines 3 and 5)."


@pytest.mark.parametrize("word", ["on", "off", "yes", "no", "On", "OFF", "Yes", "NO", "y", "n", "="])
def test_only_true_and_false_are_booleans(word: str) -> None:
    assert yaml12.parse(f"cache: {word}") == {"cache": word}
    assert yaml12.parse("[true, True, FALSE]") == [True, True, False]


@pytest.mark.parametrize(
    "text", ["off", "yes", "No", "true", "null", "~", "1e3", "0x10", "010", "00:10:00", "2026-01-01", "=", "<<", "CD4+"]
)
def test_a_text_is_written_so_that_yaml_1_1_reads_it_too(text: str) -> None:
    written = yaml12.dump({text: [text]})
    assert yaml12.parse(written) == {text: [text]}
    assert yaml.safe_load(written) == {text: [text]}


def test_a_config_that_an_earlier_version_wrote_reads_the_same() -> None:
    class Earlier(yaml.SafeDumper):
        """The dumper of imgrec 0.1.0: booleans of YAML 1.1, numbers of YAML 1.2."""

    Earlier.yaml_implicit_resolvers = {
        first: [each for each in found if each[0].rpartition(":")[2] not in ("int", "float", "timestamp")]
        for first, found in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }
    config = {"cache": "off", "shuffle": True, "a": None, "time": "00:10:00", "classes": {1: "no"}, "lr": 1e-05}
    assert yaml12.parse(yaml.dump(config, Dumper=Earlier, sort_keys=False)) == config


@pytest.mark.parametrize("text", ["{a: 1, b: 2, a: 3}", "{1: x, 1.0: y}", "[{x: {k: 1, k: 1}}]"])
def test_a_duplicate_key_is_refused_in_every_mapping(text: str) -> None:
    with pytest.raises(yaml12.YAMLKeyError, match="expected each key once"):
        yaml12.parse(text)


def test_merge_keys_override_without_being_duplicates() -> None:
    text = "base: &b {lr: 1, k: 2}\nrun:\n  <<: *b\n  lr: 3\n"
    assert yaml12.parse(text)["run"] == {"lr": 3, "k": 2}


def test_the_c_loader_and_the_python_loader_agree() -> None:
    for loader in (yaml12._FastLoader, yaml12._Loader):
        with pytest.raises(yaml12.YAMLKeyError) as error:
            yaml.load(DUPLICATE, Loader=loader)
        assert str(error.value) == TWICE


def test_every_reader_of_a_file_names_file_and_lines(tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(DUPLICATE)
    (tmp_path / "environment.json").write_text("{}")
    for read in (read_config, lambda _: RunFolder(tmp_path).config):
        with pytest.raises(UserError) as error:
            read(path)
        assert TWICE in str(error.value)
        assert str(path) in str(error.value)
    for words in (["fit", "--config", path], ["compress", tmp_path, "--plan", path], ["cost", path], ["audit", path]):
        ended = cli(*words)
        assert (ended.returncode, TWICE in ended.stderr) == (2, True), ended.stderr
    ended = cli("fit", "--model.optimizer", "{name: sgd, lr: 1, lr: 2}")
    assert ended.returncode == 2
    assert "--model.optimizer: expected each key once in a mapping, got `lr` twice (line 1)." in ended.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {optimizer: {name: sgd, lr: 0,001}}", "Is `0,001` a decimal comma? Write 0.001."),
        ("model: {optimizer: {1: 2}}", 'model.optimizer: expected text as a key, got 1. Quote a text: "1".'),
        ("model: {optimizer: {null: 2}}", "model.optimizer: expected text as a key, got null."),
        ("true: 2", "expected text as a key, got true."),
        ("trainer: {callbacks: [{class_path: Timer, 2: x}]}", "trainer.callbacks[0]: expected text as a key, got 2."),
        (
            "trainer: {callbacks: [{class_path: Timer, init_args: {2: x}}]}",
            "trainer.callbacks[0].init_args: expected text as a key, got 2.",
        ),
    ],
)
def test_a_key_that_is_not_text_is_one_error(text: str, message: str, tmp_path: Path, cli: Cli) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        read_config(path)
    assert message in str(error.value)
    ended = cli("fit", "--config", path)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr


def test_a_key_that_is_not_text_in_an_option(cli: Cli) -> None:
    for words in (["--model.optimizer", "{name: sgd, 1: 2}"], ["--model.optimizer", "{name: sgd, lr: 0,001}"]):
        ended = cli("fit", *words)
        assert ended.returncode == 2, ended.stderr
        assert "expected text as a key" in ended.stderr


@pytest.mark.parametrize("arguments", [{"init_args": {"scheduling": {1: 2}}}, {"scheduling": {1: 2}}])
def test_an_argument_of_a_lightning_class_accepts_numbers_as_keys(arguments: dict[str, Any], tmp_path: Path) -> None:
    callback = {"class_path": "GradientAccumulationScheduler", **arguments}
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    assert read_config(path)["trainer"]["callbacks"] == [callback]


def test_python_callers_get_the_same_error() -> None:
    with pytest.raises(UserError, match=r"model.optimizer: expected text as a key, got 1"):
        ClassificationTask(optimizer={"name": "sgd", 1: 2})  # type: ignore[dict-item]


def test_class_names_may_be_numbers_and_end_in_plus(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("data: {classes: {1: one, CD4+: null, 2: null, name: x}}\n")
    classes = {1: "one", "CD4+": None, 2: None, "name": "x"}
    assert merge({}, read_config(path))["data"]["init_args"]["classes"] == classes
    config = override(merge({}, read_config(path)), "data.classes", {"CD8+": "CD8", "name": "y"})
    assert config["data"]["init_args"]["classes"] == classes | {"CD8+": "CD8", "name": "y"}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("trainer.callbacks+", {"trainer": {"callbacks": ["A"]}}),
        ("trainer.logger+", {"trainer": {"logger": ["A"]}}),
        ("trainer.plugins+", {"trainer": {"plugins": ["A"]}}),
        ("model.regularizers+", {"model": {"init_args": {"regularizers": ["A"]}}}),
        ("data.train_transforms+", {"data": {"init_args": {"train_transforms": ["A"]}}}),
        ("model.backbone.layers+", {"model": {"init_args": {"backbone": {"layers": ["A"]}}}}),
        ("data.classes.CD4+", {"data": {"init_args": {"classes": {"CD4+": "A"}}}}),
        ("data.source.flips.a+", {"data": {"init_args": {"source": {"flips": {"a+": "A"}}}}}),
    ],
)
def test_a_plus_appends_by_position(key: str, expected: dict[str, Any]) -> None:
    assert override({}, key, "A") == expected


def test_class_weights_are_merged_by_class_or_replaced_by_a_rule() -> None:
    loss = {"name": "cross_entropy", "class_weights": {"cat": 1.0, "CD4+": 2.0}}
    config = override({}, "model.loss", loss)
    assert override(config, "model.loss.class_weights", {"cat": 3.0}) == override(
        {}, "model.loss", {**loss, "class_weights": {"cat": 3.0, "CD4+": 2.0}}
    )
    rule = {"name": "effective", "beta": 0.9}
    config = override(config, "model.loss.class_weights", rule)
    assert config == override({}, "model.loss", {**loss, "class_weights": rule})
    assert override(config, "model.loss.class_weights.beta", 0.5)["model"]["init_args"]["loss"]["class_weights"] == {
        "name": "effective",
        "beta": 0.5,
    }


def test_every_argument_that_is_a_free_mapping_is_declared() -> None:
    known = {
        "sizes",
        "target",
        "teacher",
        "init_from",
        "normalize",
        "facts",
        "path",
    }  # their keys are fixed, or they are specs
    found = {name for entry in _entries() for name in entry.parameters if _is_mapping(entry.hints[name])}
    assert found - known <= FREE_MAPPINGS
    assert {"classes", "flips"} <= found


def _entries() -> Iterator[Entry[Any]]:
    for plural in REGISTRIES:
        yield from registry(plural)
    for cls in (ClassificationTask, DistillationTask, ImageDataModule):
        yield Entry(cls.__name__, cls)


def _is_mapping(hint: Any) -> bool:
    if get_origin(hint) is Annotated and any(isinstance(each, Registry) for each in get_args(hint)[1:]):
        return False
    origin = get_origin(hint)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return get_args(hint) != (str, Any)  # a spec
    return any(_is_mapping(each) for each in get_args(hint) if origin is not typing.Literal)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x {b: *x}", "an alias inside the value that it names"),
        ("a: &x [*x]", "an alias inside the value that it names"),
        (
            "\n".join(["a0: &a0 [1, 1]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12))]),
            "more after",
        ),
        ("[" * 3000 + "]" * 3000, "nested too deeply"),
    ],
    ids=["mapping", "list", "expansion", "depth"],
)
def test_recursive_aliases_are_one_error(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_config(tmp_path / "a.yaml")
    with pytest.raises(UserError, match=message):
        yaml12.parse_scalar(text)
