"""Tests of specs and registries: accepted values, injected facts, rejected values and messages."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

import imgrec.registry
from imgrec.errors import SpecError, UserError, nearest, suggestion
from imgrec.registry import Registry, as_list
from imgrec.utils.signature import Entry, check_type

TOYS: Registry[Any] = Registry("toy", "toys")


@TOYS.register("plain")
class Plain:
    """A toy without arguments."""


@TOYS.register("ball")
class Ball:
    """A round toy.

    More of it.

    Source: Newton, Principia, 1687,
    second edition.
    """

    def __init__(
        self,
        size: int,
        weight: float = 1.5,
        colour: Literal["red", "blue"] = "red",
        holes: list[float] | None = None,
        hollow: bool = False,
        num_classes: int = 7,
    ) -> None:
        if size < 0:
            raise UserError(f"size must be at least 0, got {size}")
        if size == 99:
            raise ValueError("nobody makes balls of 99")
        if size == 98:
            raise KeyError("a mistake of the toy, not of its user")
        self.values = (size, weight, colour, holes, hollow)
        self.num_classes = num_classes


@TOYS.register("box")
class Box:
    """A box of toys."""

    def __init__(
        self,
        lid: Annotated[Any, TOYS] = "plain",
        inside: Annotated[list[Any] | None, TOYS] = None,
    ) -> None:
        self.lid = lid
        self.inside = inside


class Parent:
    def __init__(self, height: int = 3, **more: Any) -> None:
        self.height = height
        self.more = more


class Child(Parent):
    """A child of Parent."""

    def __init__(self, age: int = 1, **rest: Any) -> None:
        super().__init__(**rest)
        self.age = age


class Base:
    def __init__(self, height: int = 3) -> None:
        self.height = height


class Narrow(Base):
    """Class whose ``**rest`` are passed to a base class with one argument."""

    def __init__(self, age: int = 1, **rest: Any) -> None:
        super().__init__(**rest)
        self.age = age


def not_a_class() -> int:
    return 1


CONSTANT = 3


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register this file under a module name that dotted paths can use."""
    import sys

    monkeypatch.setitem(sys.modules, "toy_module", sys.modules[__name__])


# ---------------------------------------------------------------- what a spec may say


def test_a_name_and_a_mapping_build_the_same() -> None:
    assert isinstance(TOYS.build("plain"), Plain)
    assert isinstance(TOYS.build({"name": "plain"}), Plain)
    assert TOYS.build({"name": "ball", "size": 3, "colour": "blue"}).values == (3, 1.5, "blue", None, False)


def test_spec_is_unchanged() -> None:
    spec = {"name": "box", "inside": [{"name": "ball", "size": 2}]}
    copy = {"name": "box", "inside": [{"name": "ball", "size": 2}]}
    TOYS.build(spec)
    TOYS.check(spec)
    assert spec == copy


@pytest.mark.parametrize("spec", [3, None, [], {}, {"size": 3}, {"name": 3}, ""])
def test_invalid_spec_is_rejected(spec: Any) -> None:
    with pytest.raises(SpecError, match=r"^model\.toy: expected the name of a toy, or a mapping with the key `name`"):
        TOYS.build(spec, "model.toy")


def test_lists_of_specs() -> None:
    assert as_list(None) == []
    assert as_list("ball") == ["ball"]
    assert as_list({"name": "ball"}) == [{"name": "ball"}]
    assert as_list(["ball", {"name": "box"}]) == ["ball", {"name": "box"}]


# ---------------------------------------------------------------- what is refused


def test_unknown_name_is_rejected_with_suggestions() -> None:
    with pytest.raises(SpecError) as refused:
        TOYS.build("bal", "model.toy")
    assert str(refused.value) == (
        'model.toy: no toy is called "bal". Did you mean "ball"? '
        "Accepted: one of ball, box, plain, or a dotted path to a class."
    )


def test_a_spec_error_is_a_user_error_and_a_value_error() -> None:
    assert issubclass(SpecError, UserError)
    assert issubclass(UserError, ValueError)


def test_unknown_argument_is_rejected_with_suggestions() -> None:
    for refuse in (TOYS.build, TOYS.check):
        with pytest.raises(SpecError) as refused:
            refuse({"name": "ball", "size": 1, "wieght": 2.0}, "model.toy")
        assert str(refused.value) == (
            'model.toy: the toy "ball" has no argument "wieght". Did you mean "weight"? '
            "Accepted: size, weight, colour, holes, hollow, num_classes."
        )
    with pytest.raises(SpecError, match=r'the toy "plain" has no argument "size"\. Accepted: no argument\.'):
        TOYS.build({"name": "plain", "size": 1})


def test_a_missing_argument_is_named() -> None:
    for refuse in (TOYS.build, TOYS.check):
        with pytest.raises(SpecError, match=r'^model\.toy: the toy "ball" needs the argument "size"\.$'):
            refuse("ball", "model.toy")


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("size", "many", "model.toy.size: expected int, got 'many' (str)."),
        ("size", 1.5, "model.toy.size: expected int, got 1.5 (float)."),
        ("size", True, "model.toy.size: expected int, got True (bool)."),
        ("size", None, "model.toy.size: expected int, got None."),
        ("weight", False, "model.toy.weight: expected float, got False (bool)."),
        ("weight", [1.0], "model.toy.weight: expected float, got [1.0] (list)."),
        ("hollow", None, "model.toy.hollow: expected bool, got None."),
        ("hollow", 1, "model.toy.hollow: expected bool, got 1 (int)."),
        ("colour", "green", "model.toy.colour: expected Literal['red', 'blue'], got 'green' (str)."),
        ("holes", ["a"], "model.toy.holes: expected list[float] | None, got ['a'] (list)."),
        ("holes", 1.0, "model.toy.holes: expected list[float] | None, got 1.0 (float)."),
    ],
)
def test_wrong_type_is_rejected_with_key(argument: str, value: Any, message: str) -> None:
    spec = {"name": "ball", "size": 1, argument: value}
    for refuse in (TOYS.build, TOYS.check):
        with pytest.raises(SpecError) as refused:
            refuse(spec, "model.toy")
        assert str(refused.value) == message


def test_int_is_converted_to_float() -> None:
    _, weight, _, holes, _ = TOYS.build({"name": "ball", "size": 1, "weight": 2, "holes": [1, 2.5]}).values
    assert (weight, type(weight)) == (2.0, float)
    assert (holes, [type(h) for h in holes]) == ([1.0, 2.5], [float, float])


def test_null_is_accepted_for_default_none() -> None:
    registry: Registry[Any] = Registry("toy", "toys")

    def lax(size: int = None) -> int | None:  # type: ignore[assignment]  # noqa: RUF013
        return size

    registry.register("lax")(lax)
    assert registry.build({"name": "lax", "size": None}) is None


def test_check_type_ignores_non_plain_types() -> None:
    value = object()
    assert check_type(value, Any, "x") is value
    assert check_type("3", str, "x") == "3"
    assert check_type(None, int | None, "x") is None
    assert check_type([1, 2], tuple[float, float], "x") == (1.0, 2.0)
    assert check_type(True, bool | str, "x") is True
    import torch

    tensor = torch.zeros(2)
    assert check_type(tensor, torch.Tensor, "x") is tensor
    assert check_type(3, Callable[[int], int] | int, "x") == 3


def test_error_of_constructor_has_key() -> None:
    with pytest.raises(SpecError, match=r"^model\.toy: size must be at least 0, got -1$"):
        TOYS.build({"name": "ball", "size": -1}, "model.toy")
    with pytest.raises(SpecError, match=r"^model\.toy: nobody makes balls of 99$"):
        TOYS.build({"name": "ball", "size": 99}, "model.toy")
    with pytest.raises(KeyError, match="a mistake of the toy"):
        TOYS.build({"name": "ball", "size": 98}, "model.toy")


def test_check_builds_nothing() -> None:
    TOYS.check({"name": "ball", "size": 98})
    TOYS.check({"name": "box", "inside": [{"name": "ball", "size": 98}]})


# ---------------------------------------------------------------- facts


def test_facts_are_passed_by_name() -> None:
    assert TOYS.build({"name": "ball", "size": 1}, num_classes=10, image_size=32).num_classes == 10
    assert isinstance(TOYS.build("plain", num_classes=10), Plain)
    assert TOYS.build({"name": "toy_module.Child"}, height=8, num_classes=10).more == {}


def test_spec_overrides_fact() -> None:
    assert TOYS.build({"name": "ball", "size": 1, "num_classes": 2}, num_classes=10).num_classes == 2


def test_fact_fills_required_argument() -> None:
    assert TOYS.build("ball", size=5).values[0] == 5
    TOYS.check("ball", facts={"size"})


def test_fact_named_like_parameter_of_build() -> None:
    registry: Registry[Any] = Registry("thing", "things")
    registry.register("dict")(lambda where, spec: (where, spec))
    assert registry.build("dict", "place", where=1, spec=2) == (1, 2)


# ---------------------------------------------------------------- nested specs


def test_specs_nest_and_list() -> None:
    facts = {"num_classes": 4}
    box = TOYS.build({"name": "box", "lid": {"name": "ball", "size": 1}, "inside": ["plain", {"name": "box"}]}, **facts)
    assert box.lid.num_classes == 4
    assert isinstance(box.inside[0], Plain)
    assert isinstance(box.inside[1], Box)
    assert TOYS.build({"name": "box", "inside": None}).inside is None


def test_error_in_nested_spec_has_key() -> None:
    spec = {"name": "box", "inside": ["plain", {"name": "ball", "size": "x"}]}
    for refuse in (TOYS.build, TOYS.check):
        with pytest.raises(SpecError, match=r"^model\.toy\.inside\[1\]\.size: expected int"):
            refuse(spec, "model.toy")
        with pytest.raises(SpecError, match=r'^lid: no toy is called "bx"\. Did you mean "box"'):
            refuse({"name": "box", "lid": "bx"})


def test_built_objects_are_passed_through() -> None:
    ball = Ball(1)
    assert TOYS.build({"name": "box", "lid": ball, "inside": [ball]}).inside == [ball]


# ---------------------------------------------------------------- subclasses and their **kwargs


def test_keywords_of_base_class_are_accepted() -> None:
    entry = Entry("narrow", Narrow)
    assert list(entry.parameters) == ["age", "height"]
    assert not entry.open
    built = TOYS.build({"name": "toy_module.Narrow", "age": 2, "height": 9})
    assert (built.age, built.height) == (2, 9)
    with pytest.raises(SpecError, match=r'has no argument "hieght".*Did you mean "height"'):
        TOYS.build({"name": "toy_module.Narrow", "hieght": 9})
    with pytest.raises(SpecError, match=r"^t\.height: expected int"):
        TOYS.build({"name": "toy_module.Narrow", "height": "tall"}, "t")


def test_variadic_keywords_are_passed_on() -> None:
    assert Entry("child", Child).open
    built = TOYS.build({"name": "toy_module.Child", "height": 9, "shoe": 42})
    assert (built.height, built.more) == (9, {"shoe": 42})


# ---------------------------------------------------------------- where names come from


def test_a_dotted_path_names_any_class_or_function() -> None:
    assert TOYS.build({"name": "toy_module.Ball", "size": 2}).values[0] == 2
    assert TOYS.build("toy_module.not_a_class") == 1
    assert TOYS.build({"name": "fractions.Fraction", "numerator": 3}) == 3


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("no_such_package.Ball", r't: the toy "no_such_package\.Ball" cannot be imported: No module named'),
        ("toy_module.Bal", r't: the toy "toy_module\.Bal" cannot be imported: .*has no attribute'),
        ("toy_module.CONSTANT", r't: "toy_module\.CONSTANT" is a int, not a class or function'),
        (".Ball", r't: the toy "\.Ball" cannot be imported'),
    ],
)
def test_invalid_dotted_path_is_rejected(path: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TOYS.build(path, "t")


def test_duplicate_is_rejected() -> None:
    registry: Registry[Any] = Registry("toy", "toys")
    registry.register("ball")(Ball)
    with pytest.raises(ValueError, match=r'toy "ball" is registered already, by .*\.Ball'):
        registry.register("ball")(Box)
    assert registry.entry("ball").factory is Ball


def test_register_returns_class() -> None:
    registry: Registry[Any] = Registry("toy", "toys")
    assert registry.register("ball")(Ball) is Ball


class _Point:
    """Replacement of the entry point of importlib.metadata."""

    def __init__(self, name: str, value: str, found: Any) -> None:
        self.name = name
        self.value = value
        self._found = found

    def load(self) -> Any:
        return self._found


def test_entry_points_add_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def entry_points(group: str) -> list[_Point]:
        asked.append(group)
        return [_Point("kite", "sky.toys:Ball", Ball)] if group == "imgrec.toys" else []

    monkeypatch.setattr(imgrec.registry, "entry_points", entry_points)
    assert TOYS.names() == ["ball", "box", "kite", "plain"]
    assert "kite" in TOYS
    assert TOYS.build({"name": "kite", "size": 4}).values[0] == 4
    assert [entry.name for entry in TOYS] == TOYS.names()
    assert set(asked) == {"imgrec.toys"}


def test_entry_point_cannot_override_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imgrec.registry, "entry_points", lambda group: [_Point("ball", "sky.toys:Kite", Box)])
    with pytest.raises(ValueError, match=r'toy "ball" is registered already. The .* sky\.toys:Kite has'):
        TOYS.names()


class _Shop:
    """A catalogue of two toys."""

    def names(self) -> Collection[str]:
        return ["train", "truck"]

    def find(self, name: str) -> Callable[..., Any] | None:
        return Ball if name in self.names() else None


def test_catalogue_accepts_unlisted_names() -> None:
    registry: Registry[Any] = Registry("toy", "toys", catalogue=_Shop())
    registry.register("plain")(Plain)
    assert registry.names() == ["plain"]
    assert "truck" in registry
    assert "trick" not in registry
    assert registry.build({"name": "truck", "size": 6}).values[0] == 6
    with pytest.raises(SpecError) as refused:
        registry.build("trick")
    assert str(refused.value) == (
        'no toy is called "trick". Did you mean "truck" or "train"? '
        "Accepted: see `imgrec list toys`, or a dotted path to a class."
    )


def test_entry_with_custom_check() -> None:
    class Even:
        def __init__(self, count: int = 0) -> None: ...

        @staticmethod
        def check_arguments(count: int = 0) -> None:
            if count % 2:
                raise UserError(f"count must be even, got {count}")

    registry: Registry[Any] = Registry("toy", "toys")
    registry.register("even")(Even)
    registry.check({"name": "even", "count": 2})
    with pytest.raises(SpecError, match=r"^model\.toy: count must be even, got 3$"):
        registry.check({"name": "even", "count": 3}, "model.toy")


# ---------------------------------------------------------------- what is listed and shown


def test_names_are_sorted_and_entries_come_in_their_order() -> None:
    assert TOYS.names() == ["ball", "box", "plain"]
    assert [entry.name for entry in TOYS] == ["ball", "box", "plain"]
    assert "ball" in TOYS
    assert "kite" not in TOYS


def test_entry_summary_without_building() -> None:
    entry = TOYS.entry("ball")
    assert entry.summary == "A round toy."
    assert entry.doc.startswith("A round toy.\n\nMore of it.")
    assert entry.reference == "Newton, Principia, 1687, second edition."
    assert TOYS.entry("plain").reference == ""
    assert [(a.name, a.type, a.default, a.required) for a in entry.arguments()] == [
        ("size", "int", "", True),
        ("weight", "float", "1.5", False),
        ("colour", "Literal['red', 'blue']", "'red'", False),
        ("holes", "list[float] | None", "None", False),
        ("hollow", "bool", "False", False),
        ("num_classes", "int", "7", False),
    ]
    assert TOYS.entry("plain").arguments() == []
    assert [a.type for a in TOYS.entry("box").arguments()] == ["Any", "list[Any] | None"]


def test_the_type_of_a_path_is_shown_without_its_module() -> None:
    def factory(path: Path, rest: dict[str, Path] | None = None) -> None: ...

    assert [a.type for a in Entry("f", factory).arguments()] == ["Path", "dict[str, Path] | None"]


# ---------------------------------------------------------------- the nearest word


def test_the_nearest_words_come_best_first_whatever_their_case() -> None:
    assert nearest("RESNET18", ["resnet18", "resnet34", "vgg11"]) == ["resnet18", "resnet34"]
    assert nearest("zzz", ["resnet18"]) == []
    assert suggestion("zzz", ["resnet18"]) == ""
    assert suggestion("resnet1", ["resnet18", "resnet10"]).startswith(' Did you mean "resnet1')
