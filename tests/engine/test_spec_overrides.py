"""A spec whose name changes keeps the arguments that mean the same, and names those that it drops."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from imgrec.cli.commands.list_show import REGISTRIES, registry
from imgrec.engine.config import merge, override
from imgrec.engine.spec_overrides import carried, registry_at
from imgrec.engine.tuning.short_run import read_configs
from imgrec.errors import UserError
from imgrec.metrics.registry import INPUTS
from imgrec.runs.config import _REGISTRIES, registry_of
from imgrec.spec_defaults import FACTS
from imgrec.utils import yaml
from imgrec.utils.signature import check_type
from tests.conftest import Cli


def config(part: str, key: str, spec: Any) -> dict[str, Any]:
    return {part: {"init_args": {key: spec}}}


def after(part: str, key: str, spec: Any, name: str) -> Any:
    return override(config(part, key, spec), f"{part}.{key}.name", name)[part]["init_args"][key]


@pytest.mark.parametrize(
    ("key", "spec", "name", "kept", "dropped"),
    [
        ("backbone", {"name": "resnet18", "pretrained": True}, "resnet34", {"pretrained": True}, []),
        ("backbone", {"name": "resnet18", "weights": "w"}, "torchvision/resnet18", {"weights": "w"}, []),
        ("backbone", {"name": "resnet18", "layers": [1, 1, 1, 1]}, "resnet34", {}, ["layers"]),
        ("backbone", {"name": "resnet18", "stem_width": 8}, "resnet9", {}, ["stem_width"]),
        ("optimizer", {"name": "adamw", "lr": 0.1, "weight_decay": 0.05, "betas": [0.8, 0.9]}, "sgd",
         {"lr": 0.1, "weight_decay": 0.05}, ["betas"]),
        ("optimizer", {"name": "adamw", "lr": 0.001, "weight_decay": 0.01}, "sgd",
         {"lr": 0.001, "weight_decay": 0.01}, []),
        ("optimizer", {"lr": 0.1}, "sgd", {"lr": 0.1}, []),
        ("optimizer", {"name": "rmsprop", "lr": 0.1, "alpha": 0.9}, "lookahead", {}, ["lr", "alpha"]),
        ("loss", {"name": "focal", "gamma": 3.0}, "cross_entropy", {}, ["gamma"]),
        ("loss", {"name": "focal", "alpha": "balanced"}, "symmetric_cross_entropy", {}, ["alpha"]),
        ("loss", {"name": "cross_entropy", "label_smoothing": 0.1}, "poly_1", {"label_smoothing": 0.1}, []),
        ("loss", {"name": "arcface", "margin": 0.5}, "hinge", {}, ["margin"]),
        ("schedule", {"name": "cosine", "warmup": 0.1, "final": 0.01}, "linear", {"warmup": 0.1, "final": 0.01}, []),
        ("schedule", {"name": "step", "gamma": 0.2}, "plateau", {}, ["gamma"]),
        ("head", {"name": "linear", "dropout": 0.2}, "mlp", {"dropout": 0.2}, []),
        ("neck", {"name": "fpn", "channels": 32, "norm": "group"}, "pan", {"channels": 32, "norm": "group"}, []),
    ],
)  # fmt: skip
def test_arguments_with_the_same_meaning_are_kept(
    key: str, spec: dict[str, Any], name: str, kept: dict[str, Any], dropped: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert after("model", key, spec, name) == {"name": name, **kept}
    output = capsys.readouterr()
    assert output.out == ""
    lines = [line for line in output.err.splitlines() if "is dropped with" in line]
    assert [line.partition(":")[0] for line in lines] == [f"model.{key}.{each}" for each in dropped]


def test_a_second_config_and_a_bare_name_follow_the_same_rule() -> None:
    base = config("model", "backbone", {"name": "resnet18", "pretrained": True})
    expected = config("model", "backbone", {"name": "resnet34", "pretrained": True})
    assert merge(base, config("model", "backbone", {"name": "resnet34"})) == expected
    assert merge(base, config("model", "backbone", "resnet34")) == expected
    assert read_configs(base, config("model", "backbone", "resnet34")) == expected
    fresh = merge(base, config("model", "backbone", {"name": "resnet34", "pretrained": False}))
    assert fresh == config("model", "backbone", {"name": "resnet34", "pretrained": False})


def test_new_spec_overrides_in_any_order() -> None:
    start = config("model", "optimizer", {"name": "adamw", "lr": 0.1})
    one = override(override(start, "model.optimizer.name", "sgd"), "model.optimizer.lr", 0.5)
    other = override(override(start, "model.optimizer.lr", 0.5), "model.optimizer.name", "sgd")
    assert one == other == config("model", "optimizer", {"name": "sgd", "lr": 0.5})


def test_nested_specs_follow_the_rule() -> None:
    spec = {"name": "sam", "rho": 0.1, "base": {"name": "adamw", "lr": 0.1, "betas": [0.8, 0.9]}}
    found = override(config("model", "optimizer", spec), "model.optimizer.base.name", "sgd")
    assert found["model"]["init_args"]["optimizer"]["base"] == {"name": "sgd", "lr": 0.1}
    inner = {"name": "csv", "file": "a.csv", "label_column": "y", "root": "r"}
    source = {"name": "subset", "count": 5, "source": inner}
    path = ("data", "init_args", "source", "source")
    base = config("data", "source", source)
    assert registry_at(path, base) is registry("sources")
    assert carried(path, base, inner, {"name": "parquet"}) == {"label_column": "y"}


def test_the_defaults_of_a_resolved_config_are_dropped_without_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    from imgrec.spec_defaults import complete_spec

    spec = complete_spec(registry("optimizers"), {"name": "adamw", "lr": 0.1})
    assert after("model", "optimizer", spec, "schedule_free_sgd")["lr"] == 0.1
    assert "is dropped" not in capsys.readouterr().err


def test_a_name_that_does_not_exist_is_refused_by_the_check() -> None:
    assert after("model", "optimizer", {"name": "adamw", "lr": 0.1}, "sgdd") == {"name": "sgdd", "lr": 0.1}


# ---------------------------------------------------------------- every registry


@pytest.mark.parametrize(("part", "key"), _REGISTRIES)
def test_the_rule_holds_for_every_pair_of_entries(part: str, key: str) -> None:
    found = registry_of(part, key)
    assert found is not None
    entries = [entry for entry in found if not entry.open]
    for first in entries[:12]:
        given = {
            n: list(p.default) if isinstance(p.default, tuple) else p.default
            for n, p in first.parameters.items()
            if isinstance(p.default, bool | int | float | str | tuple) and n not in FACTS
        }
        for second in entries[:12]:
            if second.name == first.name or not given:
                continue
            kept = carried((part, "init_args", key), {}, {"name": first.name, **given}, {"name": second.name})
            expected = {n for n in given if n in second.parameters and n not in found.specific}
            assert kept.keys() <= expected, (first.name, second.name)
            for n in expected - kept.keys():  # only values that the new annotation refuses
                with pytest.raises(UserError):
                    check_type(given[n], second.hints[n], n)
            assert all(kept[n] == given[n] for n in kept)


_REVIEWED = {
    "sources": "label_column classes image_column source seed",
    "augmentations": "interpolation amount p per_sample until fill antialias",
    "backbones": "weights",
    "edits": "scope reduction after rate",
    "necks": "channels levels norm activation",
    "heads": "dropout",
    "initializers": "mode nonlinearity slope scope bias gain",
    "losses": "class_weights reduction label_smoothing",
    "distillations": "temperature",
    "regularizers": "scope norm_and_bias epsilon random_start step_size loss",
    "optimizers": "lr weight_decay eps foreach maximize differentiable fused decay_norm_and_bias layer_decay "
    "lr_reference_batch groups betas amsgrad capturable decoupled_weight_decay base caution corrected_weight_decay "
    "momentum dampening nesterov",
    "schedules": "warmup warmup_start final milestones",
    "steps": "target epochs lr distill ema exclude",
    "runtimes": "network options",
}
"""Names that several entries of a registry share, with one meaning in all of them."""


@pytest.mark.parametrize("plural", REGISTRIES)
def test_the_meaning_of_every_shared_name_was_decided(plural: str) -> None:
    found = registry(plural)
    counts = Counter(name for entry in found for name in entry.parameters if name not in {*FACTS, *INPUTS})
    shared = {name for name, count in counts.items() if count > 1}
    decided = set(_REVIEWED.get(plural, "").split()) | found.specific
    assert shared - decided == set(), "decide: kept if the name of a spec changes, or specific to an entry"


def test_the_table_of_the_docs_is_the_declaration() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    for plural in REGISTRIES:
        found = registry(plural)
        if found.specific:
            title = "steps of a plan" if plural == "steps" else plural
            (line,) = [row for row in text.splitlines() if row.startswith(f"| {title} | `")]
            assert set(line.split("`")[1::2]) == found.specific


# ---------------------------------------------------------------- commands


def test_print_config_keeps_the_arguments(cli: Cli, tiny: Path) -> None:
    ended = cli("fit", "--config", tiny, "--model.optimizer.name", "sgd", "--print_config")
    assert ended.returncode == 0, ended.stderr
    optimizer = yaml.parse(ended.stdout)["model"]["init_args"]["optimizer"]
    assert (optimizer["name"], optimizer["lr"]) == ("sgd", 0.01)
    assert "model.optimizer: sgd keeps lr 0.01" in ended.stderr


def test_weights_of_another_architecture_are_refused_with_both_names(cli: Cli, tmp_path: Path) -> None:
    import torch

    from imgrec.export import save_model_folder
    from imgrec.models import build_classifier
    from imgrec.types import DataFacts

    facts = DataFacts(("a", "b"), (5, 5), image_size=32)
    specs = {"backbone": {"name": "test_vit"}, "head": "linear", "normalize": "auto"}
    torch.manual_seed(0)
    save_model_folder(tmp_path / "w", build_classifier(facts=facts, **specs), specs, facts)  # type: ignore[arg-type]
    (tmp_path / "a.yaml").write_text("model: {backbone: {name: test_vit, weights: w}}\ndata: {source: digits}\n")
    assert cli("fit", "--config", "a.yaml", "--print_config").returncode == 0
    for arguments in (["--model.backbone.name", "resnet18"], ["--model.backbone", "resnet18"]):
        ended = cli("fit", "--config", "a.yaml", *arguments)
        assert ended.returncode == 2
        assert 'expected weights of "resnet18", got weights of "test_vit"' in ended.stderr
        assert not (tmp_path / "runs").exists()
