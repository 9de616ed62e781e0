"""Tests of `imgrec cost`: compared steps, table, file and rejected options."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import imgrec
from imgrec.engine.config import merge, normal_form
from imgrec.engine.tuning.short_run import prepare_experiment
from imgrec.errors import UserError
from imgrec.studies.cost import StepCost
from imgrec.studies.technique_costs import step_costs
from imgrec.utils import yaml
from tests.conftest import TINY, Cli

WITH_MANY = """
model:
  head: {name: mlp, hidden: 5}
  neck: {name: fpn, channels: 4}
  regularizers: [{name: center, weight: 0.1}, {name: l2, weight: 0.001}]
  edits: {name: se, reduction: 2}
  optimizer: {name: sam, base: {name: momentum, lr: 0.01}}
"""


SMALL = """
model:
  backbone: {name: resnet9, channels: [4, 4, 4, 8], blocks: [0, 0, 1], block_depth: 1}
"""


def config(*more: str) -> dict[str, Any]:
    found = normal_form(yaml.parse(TINY))
    for text in (SMALL, *more):
        found = merge(found, normal_form(yaml.parse(text)))
    return merge(found, {"trainer": {"precision": "32-true"}, "data": {"init_args": {"batch_size": 4}}})


def costs(*more: str, **options: Any) -> dict[str, StepCost]:
    found = imgrec.technique_costs(config(*more), rounds=1, **options)
    assert all(isinstance(each, StepCost) for each in found.values()), found
    return found  # type: ignore[return-value]


def test_each_technique_of_a_config_is_left_out_once() -> None:
    found = costs(WITH_MANY)
    assert list(found) == [
        "neck fpn",
        "head mlp",
        "regularizers center",
        "regularizers l2",
        "edits se",
        "optimizer sam",
    ]
    assert found["regularizers center"].parameters == 10 * 12  # a centre a class, as long as three maps' vectors
    assert found["head mlp"].parameters == (12 * 5 + 5 + 5 * 10 + 10) - (12 * 10 + 10)
    assert found["edits se"].parameters > 0
    assert found["neck fpn"].macs > 0
    assert [found[name].parameters for name in ("regularizers l2", "optimizer sam")] == [0, 0]
    assert found["optimizer sam"].memory > 0  # copy of the unperturbed weights


def test_toggle_replaces_or_extends_config() -> None:
    more = "model: {regularizers: [{name: l2, weight: 0.1}], edits: [se]}"
    center = {"name": "center", "weight": 1.0}
    found = costs(more, toggles={"model.regularizers+": center, "model.edits": None, "model.head": "cosine"})
    assert list(found) == ["regularizers center", "edits none", "head cosine"]
    assert found["regularizers center"].parameters == 10 * 8
    assert found["edits none"].parameters < 0
    assert found["head cosine"].parameters == -10  # no bias


def test_cost_of_toggle_equals_cost_of_removal() -> None:
    """Counted figures, not times: with and without is the same difference from either side."""
    toggled = costs(toggles={"model.edits": {"name": "se", "reduction": 2}})["edits se"]
    named = costs("model: {edits: {name: se, reduction: 2}}")["edits se"]
    assert (toggled.memory, toggled.parameters, toggled.macs) == (named.memory, named.parameters, named.macs)


def test_measuring_leaves_the_random_generators_as_they_were() -> None:
    experiment = prepare_experiment(config("model: {head: {name: linear, dropout: 0.5}, edits: se}"))
    before = torch.get_rng_state()
    step_costs(experiment, [], rounds=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_required_part_cannot_be_removed() -> None:
    found = imgrec.technique_costs(config("model: {head: cosine, loss: arcface}"), rounds=1)
    assert isinstance(found["loss arcface"], StepCost)
    assert 'arcface requires the head "cosine"' in str(found["head cosine"])


def test_the_precision_is_the_trainings() -> None:
    with pytest.raises(UserError, match=r"trainer\.precision: expected one of .*, got 64-true"):
        imgrec.technique_costs(
            config("{model: {edits: se}, trainer: {precision: 64-true}}"), {"trainer": {"precision": "64-true"}}
        )
    halves = imgrec.technique_costs(config("model: {edits: se}"), {"trainer": {"precision": "bf16-mixed"}}, rounds=1)
    assert isinstance(halves["edits se"], StepCost)


def test_a_table_and_a_file_and_nothing_else(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    arguments = ["--toggle.model.edits", "se", "--toggle.model.loss", "{name: focal}", "--rounds", 1]
    done = cli("cost", tiny, *arguments, "--csv", "costs.csv")
    assert done.returncode == 0, done.stderr
    assert "edits se" in done.stdout
    assert "loss focal" in done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["costs.csv", tiny.name]
    with (tmp_path / "costs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["technique"] for row in rows] == ["edits se", "loss focal"]
    assert all(float(row["ratio"]) > 0 for row in rows)
    assert int(rows[0]["parameters"]) > 0 == int(rows[1]["parameters"])


def test_one_technique_in_two_sizes_has_two_rows(cli: Cli, tiny: Path) -> None:
    arguments = ["--toggle.model.edits", "{name: se, reduction: 2}", "--toggle.model.edits", "{name: se, reduction: 4}"]
    done = cli("cost", tiny, *arguments, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert "edits se      " in done.stdout
    assert "edits se (2)  " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "this config has no technique to remove"),
        (["--rounds", "0"], "--rounds: expected int > 0, got 0"),
        (["--toggle", "se"], "expected a key under `model`"),
        (["--toggle.trainer.max_epochs", "3"], "toggle trainer.max_epochs: expected a key under `model`"),
        (["--toggle.model.neck", "fpm"], 'no neck is called "fpm". Did you mean "fpn"'),
        (["--toggle.model.nick", "fpn"], "nick"),
    ],
)
def test_invalid_request_is_one_error(cli: Cli, tiny: Path, arguments: list[str], message: str) -> None:
    done = cli("cost", tiny, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_missing_config_is_one_error(cli: Cli) -> None:
    assert "cost needs a config" in cli("cost").stderr
    assert "usage: imgrec cost" in cli("cost", "--help").stdout
