"""Distillation: the losses, the teacher, training and invalid arguments."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file

from imgrec import ClassificationTask, DistillationTask, UserError, load
from imgrec.export import save_model_folder
from imgrec.losses import softened_divergence
from imgrec.models import Classifier, build_classifier
from imgrec.tasks import BaseTask
from imgrec.types import Batch, DataFacts
from tests.conftest import Cli
from tests.tasks.conftest import TINY, make_digits, run_fit

Fit = Callable[..., tuple[BaseTask, pl.Trainer]]
DIGITS = DataFacts(tuple("0123456789"), (100,) * 10, 16, 1)
WIDE = {**TINY, "channels": [12, 12, 12, 12], "stem_width": 12, "drop_rate": 0.5}
HINTS = {"name": "features", "layers": {"layer[12]": "layer[12]"}, "weight": 1.0}
ALL = ["logits", HINTS, {"name": "attention", "layers": {"layer1": "layer2"}, "weight": 100.0}, "features"]


def teacher_folder(
    place: Path, facts: DataFacts = DIGITS, backbone: dict[str, Any] = WIDE, seed: int = 0
) -> tuple[str, Classifier]:
    """Save a model folder with random weights and non-trivial batch statistics."""
    torch.manual_seed(seed)
    model = build_classifier(backbone, "linear", "half", facts)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(16, facts.channels, facts.image_size, facts.image_size))
    save_model_folder(place, model.eval(), {"backbone": backbone, "head": "linear", "normalize": "half"}, facts, "")
    return str(place), model


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Classifier]:
    return teacher_folder(tmp_path_factory.mktemp("teacher") / "model")


def student(teacher: str, **arguments: Any) -> DistillationTask:
    given: dict[str, Any] = {"backbone": TINY, "normalize": "half", "optimizer": {"name": "adamw", "lr": 0.01}}
    return DistillationTask(teacher=teacher, **given | arguments)


def built(teacher: str, **arguments: Any) -> DistillationTask:
    task = student(teacher, facts=DIGITS.to_dict(), **arguments)
    task.configure_model()
    return task.train()


def batch(side: int = 16) -> Batch:
    images = torch.randint(256, (8, 1, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mixed = torch.rand(8, 10, generator=torch.Generator().manual_seed(1)).softmax(1)
    return Batch(images, mixed, tuple("abcdefgh"))


# ---------------------------------------------------------------- the loss


def test_the_loss_is_the_weighted_sum_of_label_loss_and_divergence(teacher: tuple[str, Classifier]) -> None:
    folder, network = teacher
    task = built(folder, distillation={"name": "logits", "temperature": 3.0, "weight": 0.7}, label_weight=0.2)
    output = task.model_step(batch())
    with torch.no_grad():
        taught = network.eval()(batch().images)
    expected = 0.2 * task.loss(output.logits, output.targets) + 0.7 * softened_divergence(output.logits, taught, 3.0)
    assert float(task.compute_loss(output)) == pytest.approx(float(expected), rel=1e-6)


def test_a_label_weight_of_0_ignores_the_labels(teacher: tuple[str, Classifier]) -> None:
    task = built(teacher[0], label_weight=0.0)
    output = task.model_step(batch())
    other = copy.copy(output)
    object.__setattr__(other, "targets", output.targets.flip(0))
    assert torch.equal(task.compute_loss(output), task.compute_loss(other))


@pytest.mark.parametrize("kind", ALL, ids=["logits", "layers", "attention", "pooled"])
def test_each_kind_trains_the_student_and_does_not_change_the_teacher(
    kind: Any, teacher: tuple[str, Classifier]
) -> None:
    task = built(teacher[0], distillation=kind, label_weight=0.0)
    first = task.compute_loss(task.model_step(batch()))
    first.backward()  # type: ignore[no-untyped-call]
    network = task._attach_teacher().classifier
    assert task.model.get_parameter("backbone.network.conv1.weight").grad is not None
    assert not network.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in network.parameters())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    optimizer = torch.optim.Adam(task.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        loss = task.compute_loss(task.model_step(batch()))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert float(loss) < 0.6 * float(first)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_teacher_is_neither_trained_nor_saved(teacher: tuple[str, Classifier]) -> None:
    task = built(teacher[0], distillation=ALL)
    own = set(map(id, task._attach_teacher().classifier.parameters()))
    assert not own & set(map(id, task.parameters()))
    assert not any("teacher" in name for name in task.state_dict())
    adapters = [name for name in task.state_dict() if name.startswith("distillation")]
    assert [tuple(task.state_dict()[name].shape) for name in adapters] == [(12, 8, 1, 1)] * 3
    assert copy.deepcopy(task)._teacher is task._teacher


def test_images_are_resized_for_a_teacher_of_another_size(tmp_path: Path) -> None:
    folder, network = teacher_folder(tmp_path / "model", DataFacts(DIGITS.class_names, DIGITS.class_counts, 32, 1))
    task = built(folder, label_weight=0.0)
    output = task.model_step(batch())
    larger = torch.nn.functional.interpolate(batch().images / 255, size=(32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = softened_divergence(output.logits, network(larger), 4.0)
    assert float(task.compute_loss(output)) == pytest.approx(float(expected), rel=1e-5)


def test_a_teacher_in_bfloat16_has_similar_logits(teacher: tuple[str, Classifier]) -> None:
    plain, low = built(teacher[0]), built(teacher[0], teacher_bf16=True)
    exact = plain._attach_teacher()(batch().images).logits
    rough = low._attach_teacher()(batch().images, bf16=True).logits
    assert rough.dtype == torch.bfloat16
    assert not torch.equal(rough.float(), exact)
    assert torch.allclose(rough.float(), exact, atol=0.05 * float(exact.abs().max()))
    loss = low.compute_loss(low.model_step(batch()))
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(plain.compute_loss(plain.model_step(batch()))), rel=0.05)


def test_validation_does_not_use_the_teacher(teacher: tuple[str, Classifier]) -> None:
    task = built(teacher[0], distillation=ALL).eval()
    task._attach_teacher = None  # type: ignore[method-assign, assignment]
    assert task.model_step(batch()).logits.shape == (8, 10)


# ---------------------------------------------------------------- training


def test_the_terms_are_logged_and_the_teacher_is_not_saved(
    teacher: tuple[str, Classifier], fit: Fit, tmp_path: Path
) -> None:
    task, trainer = fit(student(teacher[0], distillation=ALL), max_epochs=2)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    parts = [figures[f"train/distill/{name}"] for name in ("logits", "features", "attention", "features_2", "labels")]
    assert all(part > 0 for part in parts)
    assert figures["train/loss"] == pytest.approx(sum(parts), rel=1e-5)
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    held = torch.load(path, weights_only=True)
    names = {name.partition(".")[0] for name in held["state_dict"]}
    assert names == {"model", "distillation"}
    trained = sum(len(group["params"]) for group in held["optimizer_states"][0]["param_groups"])
    assert trained == len(list(task.parameters()))


def test_a_checkpoint_is_evaluated_without_its_teacher(fit: Fit, tmp_path: Path) -> None:
    folder, _ = teacher_folder(tmp_path / "model")
    task, trainer = fit(student(folder, distillation=ALL))
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    shutil.rmtree(folder)
    found = DistillationTask.load_from_checkpoint(path, weights_only=True)
    assert not any(name.startswith("distillation") for name in found.state_dict())
    images = batch().images
    with torch.no_grad():
        assert torch.equal(found.eval()(images), task.eval()(images))


def test_a_changed_teacher_raises(fit: Fit, tmp_path: Path) -> None:
    folder, _ = teacher_folder(tmp_path / "model")
    _, trainer = fit(student(folder))
    path = tmp_path / "a.ckpt"
    trainer.save_checkpoint(path)
    shutil.rmtree(folder)
    teacher_folder(tmp_path / "model", seed=1)
    again = pl.Trainer(max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with pytest.raises(UserError, match="expected the weights with which the training started"):
        again.fit(student(folder), datamodule=make_digits(), ckpt_path=path, weights_only=True)


def test_a_backbone_with_weights_teaches_its_features(tmp_path: Path, fit: Fit) -> None:
    folder, network = teacher_folder(tmp_path / "model", DataFacts(("x", "y"), (1, 1), 16, 1))
    spec = {**WIDE, "weights": folder}
    with pytest.raises(UserError, match="has no head for"):
        student(spec)  # type: ignore[arg-type]
    for given in (spec, folder):  # the classes of the classifier are not used
        task, _ = fit(student(given, distillation=HINTS))  # type: ignore[arg-type]
        assert isinstance(task, DistillationTask)
        name = "backbone.network.layer1.0.conv1.weight"
        assert torch.equal(task._attach_teacher().classifier.get_parameter(name), network.get_parameter(name))


def test_a_distilled_student_has_a_plain_model_folder(trained: Path, cli: Cli, tiny: Path, tmp_path: Path) -> None:
    """The teacher is a run folder, and the model folder of the run contains the student only."""
    words = ["--model.class_path", "imgrec.DistillationTask", "--model.init_args.teacher", trained]
    done = cli("fit", "--config", tiny, *words, "--model.init_args.distillation", "[logits, features]")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs/tiny").iterdir()
    assert done.stderr.count("model.teacher: ") == 1
    theirs = load_file(trained / "model/model.safetensors")
    assert {k: v.shape for k, v in load_file(run / "model/model.safetensors").items()} == {
        k: v.shape for k, v in theirs.items()
    }
    assert load(run).facts.class_names == tuple("0123456789")
    assert "train/distill/logits" in (run / "metrics.csv").read_text().splitlines()[0]
    assert cli("test", run).returncode == 0


# ---------------------------------------------------------------- invalid arguments


def test_other_classes_channels_or_another_order_raise(tmp_path: Path) -> None:
    cases = {
        "3 classes (a, b, c)": DataFacts(("a", "b", "c"), (1, 1, 1), 16, 1),
        "10 classes (9, 8, 7": DataFacts(DIGITS.class_names[::-1], DIGITS.class_counts, 16, 1),
        "images of 3 channel(s)": DataFacts(DIGITS.class_names, DIGITS.class_counts, 16, 3),
    }
    for i, (message, facts) in enumerate(cases.items()):
        folder, _ = teacher_folder(tmp_path / str(i), facts)
        with pytest.raises(UserError) as refused:
            run_fit(student(folder))
        assert str(refused.value).startswith(f"model.teacher: {folder}")
        assert message in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teacher": "nowhere"}, "model.teacher: run folder, checkpoint or model folder not found"),
        ({"teacher": "resnet18"}, "{name: resnet18, pretrained: true} or {name: resnet18, weights: FOLDER}"),
        ({"teacher": {"name": "resnet18"}}, "model.teacher: expected `pretrained: true` or `weights: FOLDER`"),
        (
            {"teacher": {"name": "resnet81", "pretrained": True}, "distillation": "features"},
            'model.teacher: no backbone is called "resnet81"',
        ),
        ({"label_weight": -1.0}, "model.label_weight: expected "),
        ({"distillation": "logit"}, 'Did you mean "logits"'),
        ({"distillation": HINTS, "compile": True}, "model.compile: expected false"),
    ],
)
def test_an_invalid_argument_raises_before_data_is_read(
    arguments: dict[str, Any], message: str, teacher: tuple[str, Classifier]
) -> None:
    with pytest.raises(UserError) as refused:
        student(**{"teacher": teacher[0], **arguments})
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            {"name": "attention", "layers": {"layr1": "layer1"}},
            'the student: the network has no layer "layr1". Did you',
        ),
        ({"name": "attention", "layers": {"layer1": "blocks.1"}}, 'the teacher: the network has no layer "blocks.1"'),
        ({"name": "features", "layers": {"layer[12]": "layer?"}}, '"layer[12]" matches 2 layers of the student'),
        (
            {"name": "attention", "layers": {"head.linear": "layer1"}},
            "attention: layers: expected maps of more than one position",
        ),
    ],
)
def test_layers_that_do_not_match_raise_before_training(
    kind: dict[str, Any], message: str, teacher: tuple[str, Classifier]
) -> None:
    with pytest.raises(UserError) as refused:
        run_fit(student(teacher[0], distillation=kind))
    assert str(refused.value).startswith("model.distillation: ")
    assert message in str(refused.value)


# ---------------------------------------------------------------- learning


@pytest.mark.slow
def test_a_student_learns_the_classes_from_its_teacher_alone(tmp_path: Path) -> None:
    """The weight of the labels is 0."""
    usual: dict[str, Any] = {"normalize": "half", "optimizer": {"name": "adamw", "lr": 0.01}}
    whole: dict[str, Any] = {"max_epochs": 6, "limit_train_batches": 1.0}
    _, trainer = run_fit(ClassificationTask(backbone={**WIDE, "drop_rate": 0.0}, **usual), **whole)
    trainer.save_checkpoint(tmp_path / "teacher.ckpt")
    taught = float(trainer.callback_metrics["val/acc"])
    assert taught > 0.9
    longer = {**whole, "max_epochs": 15}  # the student is the smaller one
    _, trainer = run_fit(student(str(tmp_path / "teacher.ckpt"), label_weight=0.0), **longer)
    assert float(trainer.callback_metrics["val/acc"]) > taught - 0.1
