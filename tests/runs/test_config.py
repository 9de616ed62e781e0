"""A config as one flat row."""

from __future__ import annotations

from typing import Any

from imgrec.runs.config import config_differences, flat_config


def test_flat_config_has_one_column_per_argument() -> None:
    config = {
        "experiment": "digits/a",
        "model": {
            "class_path": "imgrec.ClassificationTask",
            "init_args": {
                "loss": "focal",
                "normalize": "auto",
                "optimizer": {"name": "adamw", "lr": 0.1},
                "regularizers": [{"name": "l1", "weight": 0.5}],
            },
        },
        "data": {
            "class_path": "imgrec.ImageDataModule",
            "init_args": {"source": "digits", "train_transforms": ["hflip"]},
        },
        "trainer": {"max_epochs": 3, "callbacks": []},
    }
    assert flat_config(config) == {
        "experiment": "digits/a",
        "model/class_path": "imgrec.ClassificationTask",
        "loss/name": "focal",
        "normalize": "auto",
        "optimizer/name": "adamw",
        "optimizer/lr": 0.1,
        "regularizers/0/name": "l1",
        "regularizers/0/weight": 0.5,
        "data/class_path": "imgrec.ImageDataModule",
        "data/source/name": "digits",
        "data/train_transforms": ["hflip"],
        "trainer/max_epochs": 3,
        "trainer/callbacks": [],
    }


def test_config_differences_contain_only_different_columns() -> None:
    def config(**task: Any) -> dict[str, Any]:
        return {"model": {"init_args": {"loss": "focal", **task}}, "runs": "runs"}

    assert config_differences({"a": config(), "b": config()}) == {}
    assert config_differences({"a": config(), "b": config(loss={"name": "focal"})}) == {}
    assert config_differences({"a": config(), "b": config(loss="cross_entropy", k=1)}) == {
        "loss/name": {"a": "focal", "b": "cross_entropy"},
        "k": {"b": 1},
    }
