from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from imgrec.engine.config import merge, normal_form, override, parse_value, read_config
from imgrec.errors import UserError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("1_000", 1000),
        ("0x1F", 31),
        ("010", 10),
        ("08", 8),
        ("1e-3", 0.001),
        ("1e5", 100000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("true", True),
        ("null", None),
        ("", None),
        ("'12'", "12"),
        ("resnet18", "resnet18"),
        ("1.5e", "1.5e"),
        ("2026-11-21", "2026-11-21"),
        ("00:10:00", "00:10:00"),
        ("[1, 2e-1, a]", [1, 0.2, "a"]),
        ("{name: focal, gamma: 2.0}", {"name": "focal", "gamma": 2.0}),
        ("{broken", "{broken"),
        ("*anchor", "*anchor"),
        ("!!int x", "!!int x"),
        ("!!python/object/apply:os.getcwd []", "!!python/object/apply:os.getcwd []"),
    ],
)
def test_values_are_read_as_yaml_1_2_reads_them(text: str, value: object) -> None:
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


def test_invalid_numbers() -> None:
    assert math.isnan(parse_value(".nan"))
    assert parse_value("nan") == "nan"


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        pytest.param({"trainer": {"a": 1, "b": 2}}, {"trainer": {"b": 3}}, {"trainer": {"a": 1, "b": 3}}, id="nested"),
        pytest.param({"trainer": {"a": 1}}, {"trainer": {"a": None}}, {"trainer": {"a": None}}, id="null"),
        pytest.param({"trainer": {"a": [1, 2]}}, {"trainer": {"a": [3]}}, {"trainer": {"a": [3]}}, id="list"),
        pytest.param({"trainer": {"a": [1]}}, {"trainer": {"a+": [2, 3]}}, {"trainer": {"a": [1, 2, 3]}}, id="append"),
        pytest.param({"trainer": {}}, {"trainer": {"a+": 1}}, {"trainer": {"a": [1]}}, id="append to nothing"),
        pytest.param({"trainer": {"a": None}}, {"trainer": {"a+": 1}}, {"trainer": {"a": [1]}}, id="append to null"),
        pytest.param({"trainer": {"a": False}}, {"trainer": {"a+": 1}}, {"trainer": {"a": [1]}}, id="append to false"),
        pytest.param({"trainer": {"a": "x"}}, {"trainer": {"a+": "y"}}, {"trainer": {"a": ["x", "y"]}}, id="to one"),
        pytest.param(
            {"model": {"loss": {"name": "focal", "gamma": 3}}},
            {"model": {"loss": {"name": "cross_entropy"}}},
            {"model": {"loss": {"name": "cross_entropy"}}},
            id="another spec replaces the old one whole",
        ),
        pytest.param(
            {"model": {"loss": {"name": "focal", "gamma": 3}}},
            {"model": {"loss": {"name": "focal", "alpha": "balanced"}}},
            {"model": {"loss": {"name": "focal", "gamma": 3, "alpha": "balanced"}}},
            id="the same spec keeps its arguments",
        ),
        pytest.param(
            {"model": {"loss": "focal"}},
            {"model": {"loss": {"gamma": 3}}},
            {"model": {"loss": {"name": "focal", "gamma": 3}}},
            id="an argument of a spec that is a name",
        ),
        pytest.param(
            {"trainer": {"logger": {"class_path": "A", "init_args": {"x": 1}}}},
            {"trainer": {"logger": {"class_path": "B", "init_args": {"y": 1}}}},
            {"trainer": {"logger": {"class_path": "B", "init_args": {"y": 1}}}},
            id="another class replaces the old one whole",
        ),
        pytest.param(
            {"model": {"init_args": {"loss": "focal"}}},
            {"model": {"class_path": "m.Mine", "init_args": {"k": 3}}},
            {"model": {"class_path": "m.Mine", "init_args": {"loss": "focal", "k": 3}}},
            id="a class where none was named keeps the arguments",
        ),
        pytest.param(
            {"model": {"class_path": "m.One", "init_args": {"loss": "focal"}}},
            {"model": {"class_path": "m.Two"}},
            {"model": {"class_path": "m.Two", "init_args": {"loss": "focal"}}},
            id="a class that is named alone keeps the arguments",
        ),
        pytest.param(
            {"model": {"class_path": "m.One", "init_args": {"loss": "focal"}}},
            {"model": {"class_path": "m.Two", "init_args": {"k": 3}}},
            {"model": {"class_path": "m.Two", "init_args": {"k": 3}}},
            id="a class that brings arguments replaces the old one whole",
        ),
        pytest.param(
            {"trainer": {"logger": "A"}},
            {"trainer": {"logger": {"init_args": {"x": 1}}}},
            {"trainer": {"logger": {"class_path": "A", "init_args": {"x": 1}}}},
            id="arguments of a class that is a name",
        ),
        pytest.param(
            {"trainer": {"logger": {"class_path": "A", "name": "first", "dir": "d"}}},
            {"trainer": {"logger": {"name": "second"}}},
            {"trainer": {"logger": {"class_path": "A", "name": "second", "dir": "d"}}},
            id="outside of model and data, a name is an argument like any other",
        ),
    ],
)
def test_later_over_earlier(base: dict[str, Any], over: dict[str, Any], merged: dict[str, Any]) -> None:
    before = repr((base, over))
    assert merge(base, over) == merged
    assert repr((base, over)) == before


@pytest.mark.parametrize(
    "given",
    [
        {"model": {"class_path": "m.Mine", "loss": "focal", "k": 1}},
        {"model": {"class_path": "m.Mine", "init_args": {"loss": "focal"}, "k": 1}},
        {"model": {"class_path": "m.Mine", "init_args": {"loss": "focal", "k": 1}}},
    ],
)
def test_arguments_next_to_class_path(given: dict[str, Any]) -> None:
    assert normal_form(given) == {"model": {"class_path": "m.Mine", "init_args": {"loss": "focal", "k": 1}}}


def test_a_class_path_alone() -> None:
    assert normal_form({"data": "m.Mine"}) == {"data": {"class_path": "m.Mine"}}
    assert normal_form({"model": {"class_path": "m.Mine", "init_args": None}}) == {
        "model": {"class_path": "m.Mine", "init_args": None}
    }


def test_overrides_follow_one_another() -> None:
    config: dict[str, Any] = {"model": {"init_args": {"loss": {"name": "cross_entropy", "label_smoothing": 0.1}}}}
    config = override(config, "model.loss", "focal")
    config = override(config, "model.loss.gamma", 3.0)
    config = override(config, "model.init_args.head", "cosine")
    config = override(config, "trainer.callbacks+", "EarlyStopping")
    config = override(config, "trainer.callbacks+", {"class_path": "Timer"})
    assert config == {
        "model": {"init_args": {"loss": {"name": "focal", "gamma": 3.0}, "head": "cosine"}},
        "trainer": {"callbacks": ["EarlyStopping", {"class_path": "Timer"}]},
    }


def test_an_empty_config_file_is_an_empty_config(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("# nothing\n")
    assert read_config(path) == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1,\nb: 2\n", "line 3: not YAML"),
        (b"a: *nowhere\n", "not YAML"),
        (b"a: !!int x\n", "not YAML"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not YAML"),
        (b"a: \x00\n", "not YAML"),
        (b"\xff\xfe\xfa", "cannot be read"),
        (b"just text", "expected a mapping such as `model: ...`, got str"),
    ],
)
def test_invalid_config_file(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_config(path)
    assert str(error.value).startswith(f"config {path}")
    assert message in str(error.value)


def test_folder_instead_of_config(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Is a directory"):
        read_config(tmp_path)
