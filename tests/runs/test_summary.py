from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from imgrec.errors import UserError
from imgrec.runs.folder import RunFolder
from imgrec.runs.summary import update_summary


def test_mappings_are_merged_and_other_values_replaced(run: RunFolder) -> None:
    update_summary(run, {"status": "running", "val": {"acc": 0.5, "loss": 1.0}, "sizes": [1, 2]})
    update_summary(run.path, {"status": "finished", "val": {"acc": 0.75}, "test": {"acc": 0.5}, "sizes": [3]})
    assert run.summary == {
        "status": "finished",
        "val": {"acc": 0.75, "loss": 1.0},
        "sizes": [3],
        "test": {"acc": 0.5},
    }


def test_scalars_become_numbers_and_nan_becomes_null(tmp_path: Path) -> None:
    update_summary(
        tmp_path,
        {
            "a": np.float32(0.5),
            "b": torch.tensor(2),
            "c": float("nan"),
            "d": np.float64("inf"),
            "e": Path("x"),
            "f": (1,),
        },
    )
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text) == {"a": 0.5, "b": 2, "c": None, "d": None, "e": "x", "f": [1]}
    assert "NaN" not in text
    with pytest.raises(TypeError, match="plain values"):
        update_summary(tmp_path, {"g": object()})
    assert (tmp_path / "summary.json").read_text() == text


def test_a_broken_summary_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text("{broken")
    with pytest.raises(UserError, match=r"summary\.json is not valid JSON"):
        update_summary(tmp_path, {"a": 1})
    assert (tmp_path / "summary.json").read_text() == "{broken"
