from __future__ import annotations

from typing import Any

import pytest
from pytorch_lightning.loggers import TensorBoardLogger

from imgrec.utils.signature import Entry


class Base:
    def __init__(self, root: str, size: int, depth: int = 3) -> None: ...


class ByKeyword(Base):
    def __init__(self, k: int = 1, **more: Any) -> None:
        super().__init__(root="here", size=k, **more)


class ByPlace(Base):
    def __init__(self, k: int = 1, **more: Any) -> None:
        super().__init__("here", **more)


class Through(Base):
    def __init__(self, k: int = 1, **more: Any) -> None:
        super().__init__(**more)


class Starred(Base):
    def __init__(self, *places: Any, k: int = 1, **more: Any) -> None:
        super().__init__(*places, **more)


class Twice(Through):
    def __init__(self, **more: Any) -> None:
        super(Twice, self).__init__(size=2, **more)  # noqa: UP008


class OwnName(Base):
    def __init__(self, depth: int = 5, **more: Any) -> None:
        super().__init__(depth=depth, **more)


@pytest.mark.parametrize(
    ("factory", "names"),
    [
        (Base, ["root", "size", "depth"]),
        (ByKeyword, ["k", "depth"]),
        (ByPlace, ["k", "size", "depth"]),
        (Through, ["k", "root", "size", "depth"]),
        (Starred, ["k", "root", "size", "depth"]),
        (Twice, ["k", "root", "depth"]),
        (OwnName, ["depth", "root", "size"]),
    ],
)
def test_arguments_set_for_base_class_are_rejected(factory: type, names: list[str]) -> None:
    entry: Entry[Any] = Entry("it", factory)
    assert list(entry.parameters) == names
    assert not entry.open
    assert [a.name for a in entry.arguments()] == names
    defaults = {argument.name: argument.default for argument in entry.arguments()}
    assert defaults["depth"] == ("5" if factory is OwnName else "3")


def test_the_tensorboard_logger_needs_no_root_dir() -> None:
    """The class sets `root_dir` of its base class from `save_dir`."""
    entry: Entry[Any] = Entry("TensorBoardLogger", TensorBoardLogger)
    assert "save_dir" in entry.parameters
    assert "root_dir" not in entry.parameters
