from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint, Timer
from pytorch_lightning.loggers import CSVLogger

from imgrec import ClassificationTask
from imgrec import EarlyStopping as OurEarlyStopping
from imgrec.engine.instantiate import find_class, instantiate
from imgrec.errors import UserError

OWN = """
from typing import Any

from pytorch_lightning import Callback


class Quiet(Callback):
    def __init__(self, every: int = 2, inner: Any = None) -> None:
        if every < 1:
            raise ValueError("every must be positive")
        self.every, self.inner = every, inner


NOT_A_CLASS = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Custom module."""
    (tmp_path / "own_callbacks.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_callbacks", raising=False)


@pytest.mark.parametrize(
    ("path", "base", "cls"),
    [
        ("EarlyStopping", pl.Callback, OurEarlyStopping),
        ("Timer", pl.Callback, Timer),
        ("pytorch_lightning.callbacks.EarlyStopping", pl.Callback, EarlyStopping),
        ("CSVLogger", object, CSVLogger),
        ("ClassificationTask", pl.LightningModule, ClassificationTask),
        ("imgrec.ClassificationTask", pl.LightningModule, ClassificationTask),
    ],
)
def test_short_and_dotted_names(path: str, base: type, cls: type) -> None:
    assert find_class(path, base, "here") is cls


@pytest.mark.parametrize("name", ["EarlyStopping", "ModelCheckpoint", "LearningRateMonitor", "EMAWeightAveraging"])
def test_common_callbacks_have_short_names(name: str) -> None:
    assert find_class(name, pl.Callback, "here").__name__ == name


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("EarlyStoping", '"EarlyStopping"'),
        ("pytorch_lightning.callbacks.Timr", '"Timer"'),
        ("nowhere.Mine", "cannot be imported"),
        ("own_callbacks.NOT_A_CLASS", "no class"),
        ("imgrec.ClassificationTask", "no Callback"),
        ("GradientAccumulationScheduler", 'needs the argument "scheduling"'),
        ({"class_path": "Timer", "intervall": "step"}, '"interval"'),
        ({"class_path": "Timer", "init_args": {"interval": 3}}, "place.interval"),
        ({"class_path": "ModelCheckpoint", "monitor": "val/acc", "mode": "up"}, "refuses its arguments"),
        ({"class_path": "own_callbacks.Quiet", "every": "two"}, "place.every: expected int"),
        ({"class_path": "own_callbacks.Quiet", "every": True}, "place.every: expected int"),
        ({"name": "Timer"}, "expected a class path"),
        (3, "expected a class path"),
    ],
)
@pytest.mark.usefixtures("own")
def test_rejected_values_and_keys(value: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        instantiate(value, pl.Callback, "place")
    assert str(error.value).startswith("place")
    assert message in str(error.value)


@pytest.mark.usefixtures("own")
def test_arguments_in_init_args_or_next_to_class() -> None:
    for value in (
        {"class_path": "own_callbacks.Quiet", "init_args": {"every": 5}},
        {"class_path": "own_callbacks.Quiet", "every": 5},
    ):
        assert instantiate(value, pl.Callback, "here").every == 5
    assert instantiate("own_callbacks.Quiet", pl.Callback, "here").every == 2


@pytest.mark.usefixtures("own")
def test_classes_inside_of_arguments_are_built() -> None:
    inner = {"class_path": "Timer", "duration": {"hours": 1}}
    found = instantiate({"class_path": "own_callbacks.Quiet", "inner": [inner, 3]}, pl.Callback, "here")
    assert isinstance(found.inner[0], Timer)
    assert found.inner[0].time_remaining() == 3600
    assert found.inner[1] == 3
    single = instantiate({"class_path": "own_callbacks.Quiet", "inner": inner}, pl.Callback, "here")
    assert isinstance(single.inner, Timer)


@pytest.mark.usefixtures("own")
def test_error_in_custom_class_keeps_traceback() -> None:
    with pytest.raises(ValueError, match="every must be positive") as error:
        instantiate({"class_path": "own_callbacks.Quiet", "every": 0}, pl.Callback, "here")
    assert not isinstance(error.value, UserError)


def test_objects_are_passed_through() -> None:
    with pytest.raises(UserError, match="expected a class path"):
        instantiate(None, ModelCheckpoint, "here")
