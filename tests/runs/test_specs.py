"""Every default of every spec is written, and filled in when older runs are read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgrec.cli.commands.list_show import REGISTRIES, registry
from imgrec.compare.align import ComparedRun
from imgrec.compare.comparison import compare_runs
from imgrec.compare.groups import group_runs
from imgrec.errors import UserError
from imgrec.runs.config import complete_config, flat_config, registry_of
from imgrec.runs.folder import RunFolder
from imgrec.runs.resume import check_config_changes
from imgrec.runs.table import run_table
from imgrec.spec_defaults import FACTS, complete_spec
from imgrec.tasks.initial_weights import _normalized
from imgrec.utils import yaml
from tests.conftest import Cli, StoredRun


@pytest.mark.parametrize("plural", REGISTRIES)
def test_defaults_can_be_written_and_given(plural: str) -> None:
    found = registry(plural)
    for entry in found:
        done = complete_spec(found, entry.name)
        assert yaml.parse(yaml.dump(done)) == done
        assert complete_spec(found, done) == done
        defaults = {n for n, p in entry.parameters.items() if p.default is not p.empty and n not in FACTS}
        plain = {n for n in defaults if isinstance(entry.parameters[n].default, bool | int | float | str | None)}
        assert plain <= done.keys()
        if all(p.default is not p.empty or n in FACTS for n, p in entry.parameters.items()) and plural != "presets":
            found.check(done, plural, FACTS)


def test_stored_values_have_priority_and_nested_specs_are_complete() -> None:
    config = {
        "model": {
            "init_args": {
                "optimizer": {"name": "sam", "base": {"name": "sgd", "lr": 0.5}},
                "loss": ["focal", {"name": "bce", "weight": 0.5}],
                "regularizers": {"name": "fgsm", "weight": 0.1},
                "neck": None,
                "backbone": {"name": "my.own.Net", "k": 1},
            }
        },
        "data": {"init_args": {"source": {"name": "subset", "source": "digits"}, "train_transforms": "light"}},
    }
    done = complete_config(config, imports=False)
    model, data = done["model"]["init_args"], done["data"]["init_args"]
    assert model["optimizer"]["base"]["lr"] == 0.5
    assert model["optimizer"]["base"]["momentum"] == 0
    assert model["optimizer"]["rho"] == 0.05
    assert model["loss"][0] == {"name": "focal", "gamma": 2.0, "alpha": None} | model["loss"][0]
    assert model["loss"][1]["weight"] == 0.5
    assert model["regularizers"]["loss"]["name"] == "cross_entropy"
    assert model["neck"] is None
    assert model["backbone"] == {"name": "my.own.Net", "k": 1}
    assert data["source"]["source"]["name"] == "digits"
    assert data["train_transforms"] == "light"  # a preset
    assert "num_classes" not in str(done)
    assert complete_config(done, imports=False) == done


def test_a_received_config_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evilmod.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = {"model": {"init_args": {"loss": "evilmod.Loss", "head": {"name": "evilmod.Head"}}}}
    assert complete_config(config, imports=False) == config
    assert "evilmod" not in sys.modules


def test_config_yaml_holds_every_default_and_can_be_trained_again(trained: Path, cli: Cli) -> None:
    config = yaml.read(trained / "config.yaml")
    model = config["model"]["init_args"]
    assert model["optimizer"]["lr"] == 0.01
    assert model["optimizer"]["weight_decay"] == 0.01
    assert model["optimizer"]["betas"] == [0.9, 0.999]
    assert model["loss"]["label_smoothing"] == 0.0
    assert model["schedule"]["final"] == 0.0
    assert model["head"]["dropout"] == 0.0
    assert model["backbone"]["pretrained"] is False
    flat = flat_config(config)
    assert (flat["optimizer/eps"], flat["schedule/warmup"]) == (1e-08, 0.0)
    again = cli("fit", "--config", trained / "config.yaml", "--print_config")
    assert again.returncode == 0, again.stderr
    assert yaml.parse(again.stdout) == config


def test_a_run_of_an_earlier_version_resumes(trained: Path) -> None:
    now = yaml.read(trained / "config.yaml")
    before = {**now, "model": {**now["model"], "init_args": {**now["model"]["init_args"], "loss": "cross_entropy"}}}
    given = complete_config(before), complete_config(now)
    assert check_config_changes(trained, *given, [])[0] == {}
    other = complete_config({"model": {"init_args": {"optimizer": {"name": "adamw", "lr": 0.5}}}})
    with pytest.raises(UserError, match=r"optimizer/lr: 0.001 before, 0.5 now"):
        check_config_changes(trained, complete_config({"model": {"init_args": {"optimizer": "adamw"}}}), other, [])


def test_equal_parts_are_equal_with_and_without_defaults() -> None:
    for key, spec in (
        ("head", "linear"),
        ("neck", "fpn"),
        ("pooling", "gem"),
        ("edits", "se"),
        ("backbone", "resnet18"),
    ):
        found = registry_of("model", key)
        assert found is not None
        assert _normalized(key, spec) == _normalized(key, complete_spec(found, spec))


# ---------------------------------------------------------------- runs side by side


def store(stored_run: StoredRun, root: Path, seed: int, experiment: str = "pets", **config: Any) -> Path:
    return stored_run(root, experiment, seed, [i % 5 > 0 for i in range(60)], config=config)


def test_old_and_new_runs_are_one_recipe(stored_run: StoredRun, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    store(stored_run, root, 0, optimizer={"name": "adamw", "lr": 0.1}, head="linear")
    new = store(stored_run, root, 1, optimizer={"name": "adamw", "lr": 0.1}, head="linear")
    path = new / "config.yaml"
    path.write_text(yaml.dump(complete_config(yaml.read(path))))
    found = compare_runs([root])
    assert [(group.name, len(group.runs)) for group in found.groups] == [("pets", 2)]
    rows = run_table(root).rows
    assert [row["optimizer/weight_decay"] for row in rows] == [0.01, 0.01]
    assert RunFolder(new).config["model"]["init_args"]["optimizer"]["weight_decay"] == 0.01


@pytest.mark.parametrize("by", ["data/sampler", "data.sampler", "sampler"])
def test_a_prefix_groups_by_all_columns_below_it(by: str, stored_run: StoredRun, tmp_path: Path) -> None:
    key = "sampler" if by == "sampler" else None
    samplers: list[Any] = [None, {"name": "weighted", "power": 0.5}, {"name": "weighted", "power": 1.0}, "plain"]
    compared = []
    for i, sampler in enumerate([*samplers, samplers[1]]):
        run = RunFolder(store(stored_run, tmp_path / "runs", i, experiment=f"e{i}"))
        section = "model" if key else "data"
        run.config = {section: {"init_args": {"sampler": sampler}}, "seed_everything": i}
        compared.append(ComparedRun(run, np.zeros(3, bool), np.zeros(3, int), np.zeros(3, np.float32), 0.0, 0.0, 0))
    found = group_runs(compared, by)
    assert [(group.name, len(group.runs)) for group in found] == [
        ("no sampler", 1),
        ("weighted, power 0.5", 2),
        ("weighted, power 1", 1),
        ("plain", 1),
    ]


def test_unknown_column_is_rejected_with_a_suggestion(stored_run: StoredRun, tmp_path: Path) -> None:
    for seed in (0, 1):
        store(stored_run, tmp_path, seed, optimizer={"name": "adamw", "lr": 0.1 + seed})
    with pytest.raises(UserError, match=r'got "optimiser".*Did you mean "optimizer"'):
        compare_runs([tmp_path], group_by="optimiser")
    assert [g.name for g in compare_runs([tmp_path], group_by="optimizer/lr").groups] == ["lr 0.1", "lr 1.1"]
    assert [g.name for g in compare_runs([tmp_path], group_by="optimizer").groups] == ["adamw, lr 0.1", "adamw, lr 1.1"]
