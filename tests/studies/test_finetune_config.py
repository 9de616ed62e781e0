"""Config of a training step of a compression, and the stages of a plan."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from imgrec.compress.plan import Plan
from imgrec.compress.steps import Finetune, Mask, Qat, Training
from imgrec.errors import UserError
from imgrec.studies.compression.finetune_config import training_config
from imgrec.studies.compression.stages import plan_stages

RUN: dict[str, Any] = {
    "experiment": "digits/a",
    "runs": "runs",
    "seed_everything": 7,
    "model": {
        "class_path": "imgrec.ClassificationTask",
        "init_args": {
            "backbone": "resnet18",
            "loss": "focal",
            "optimizer": {"name": "sgd", "lr": 0.3, "momentum": 0.8},
        },
    },
    "data": {"class_path": "imgrec.ImageDataModule", "init_args": {"source": "digits"}},
    "trainer": {
        "max_epochs": 40,
        "max_steps": 900,
        "max_time": "00:01:00:00",
        "devices": 2,
        "strategy": "ddp",
        "precision": "bf16-mixed",
        "callbacks": [
            {"class_path": "EMA", "decay": 0.9},
            {"class_path": "imgrec.StructuredPruning", "init_args": {"target": {"macs": 0.5}}},
            "QAT",
            {"class_path": "Pruning", "sparsity": 0.5},
            "NaNGuard",
        ],
    },
}


def made(step: Training, **given: Any) -> dict[str, Any]:
    return training_config(RUN, step, "start", "teacher", **given)


def test_the_recipe_of_the_run_ends_with_the_epochs_of_the_step() -> None:
    before = copy.deepcopy(RUN)
    config = made(Finetune(epochs=3))
    assert before == RUN
    assert config["seed_everything"] == 7
    assert config["data"] == RUN["data"]
    model = config["model"]["init_args"]
    assert (model["loss"], model["init_from"]) == ("focal", "start")
    assert model["optimizer"] == {"name": "sgd", "lr": 0.03, "momentum": 0.8}
    trainer = config["trainer"]
    assert trainer["max_epochs"] == 3
    assert trainer["precision"] == "bf16-mixed"
    assert (trainer["devices"], trainer["strategy"]) == (1, "auto")
    assert not {"max_steps", "max_time"} & trainer.keys()
    assert trainer["callbacks"] == [{"class_path": "EMA", "decay": 0.9}, "NaNGuard"]


def test_the_default_learning_rate_is_a_fraction_of_that_of_the_run() -> None:
    def rate(step: Training, optimizer: Any) -> Any:
        run = copy.deepcopy(RUN)
        run["model"]["init_args"]["optimizer"] = optimizer
        return training_config(run, step, "", "")["model"]["init_args"]["optimizer"]["lr"]

    assert rate(Finetune(), {"name": "sgd", "lr": 0.3}) == 0.03
    assert rate(Qat(), {"name": "sgd", "lr": 0.3}) == 0.003
    assert rate(Finetune(lr=0.5), {"name": "sgd", "lr": 0.3}) == 0.5
    assert rate(Finetune(), "adamw") == pytest.approx(1e-4)  # the default of torch is 1e-3


def test_a_teacher_requires_a_distillation_task() -> None:
    config = made(Finetune(distill=True))
    assert config["model"]["class_path"] == "imgrec.DistillationTask"
    assert config["model"]["init_args"]["teacher"] == "teacher"
    own = copy.deepcopy(RUN)
    own["model"]["class_path"] = "mylab.Task"
    assert training_config(own, Finetune(), "", "")["model"]["class_path"] == "mylab.Task"
    with pytest.raises(UserError, match=r"got the custom task mylab.Task, which has no teacher"):
        training_config(own, Finetune(distill=True), "", "")


def test_masks_are_reached_once_and_kept_afterwards() -> None:
    def pruning(**given: Any) -> Any:
        (found,) = (c for c in made(Finetune(), **given)["trainer"]["callbacks"] if "Pruning" in str(c))
        return found["init_args"]

    reached = pruning(mask=Mask(sparsity=0.8, criterion="taylor"))
    assert reached == {
        "criterion": "taylor",
        "scope": "global",
        "start": 0.0,
        "sparsity": 0.8,
        "schedule": "cubic",
        "end": 0.5,
    }
    kept = pruning(mask=Mask(sparsity=0.8, criterion="taylor"), is_masked=True)
    assert kept == {"sparsity": 0.8, "scope": "global", "criterion": "magnitude", "schedule": "one_shot", "start": 0.0}
    assert pruning(mask=Mask(pattern="2:4"))["pattern"] == "2:4"
    assert "sparsity" not in pruning(mask=Mask(pattern="2:4"))


def test_the_average_of_a_step_replaces_that_of_the_run() -> None:
    callbacks = made(Finetune(ema=0.99))["trainer"]["callbacks"]
    assert callbacks == ["NaNGuard", {"class_path": "EMA", "init_args": {"decay": 0.99}}]
    assert made(Qat())["trainer"]["callbacks"][-1]["class_path"] == "QAT"


@pytest.mark.parametrize(
    ("steps", "stages"),
    [
        (["quantize"], [("quantize", ".")]),
        (["prune"], [("prune", ".")]),
        (["prune", "finetune", "quantize"], [("prune", "stages/1-prune"), ("finetune", "."), ("quantize", ".")]),
        (["finetune", "prune"], [("finetune", "stages/1-finetune"), ("prune", ".")]),
        (["mask"], [("mask", ".")]),
        (["mask", "finetune"], [("finetune", ".")]),
        (["prune", "mask", "quantize"], [("prune", "stages/1-prune"), ("mask", "."), ("quantize", ".")]),
    ],
)
def test_the_last_model_of_a_plan_is_in_the_folder_of_the_variant(steps: list[str], stages: list[Any]) -> None:
    found = plan_stages(Plan.from_specs(steps))
    assert [(stage.step.name, stage.place) for stage in found] == stages
