"""Parameters of a loss or a regularizer: they are trained with the model and are not part of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from imgrec import ClassificationTask, UserError
from imgrec.export import save_model_folder
from imgrec.regularizers import REGULARIZERS
from imgrec.types import StepOutput

Fit = Callable[..., Any]
CENTER = {"name": "center", "weight": 0.01}
OWN = "regularizers.regularizers.0.centers"


class Scaled(nn.Module):
    """Cross-entropy of learned linear combinations of the logits, with the fact ``feature_dim``."""

    def __init__(self, feature_dim: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.matrix = nn.Parameter(torch.eye(10))

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits @ self.matrix, targets)


def task(tiny_backbone: dict[str, Any], **arguments: Any) -> ClassificationTask:
    given = {"optimizer": {"name": "adamw", "lr": 0.01, "weight_decay": 0.5}, "regularizers": CENTER}
    return ClassificationTask(**{"backbone": tiny_backbone, "normalize": "half"} | given | arguments)


def test_owned_parameters_have_no_weight_decay(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    made, trainer = fit(task(tiny_backbone, loss=f"{__name__}.Scaled"))
    assert made.loss.feature_dim == made.model.feature_dim == 8
    names = {id(parameter): name for name, parameter in made.named_parameters()}
    decays = {
        names[id(p)]: group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]
    }
    assert set(decays) == set(names.values())
    assert {name for name, decay in decays.items() if decay and not name.startswith("model.")} == set()
    assert made.no_weight_decay() == {OWN, "loss.matrix"}
    assert decays["model.head.linear.weight"] == 0.5
    assert made.get_parameter(OWN).abs().max() > 0
    assert not torch.equal(made.get_parameter("loss.matrix"), torch.eye(10))
    assert float(trainer.callback_metrics["train/reg/center"]) > 0


def test_owned_parameters_are_saved_and_not_exported(fit: Fit, tiny_backbone: dict[str, Any], tmp_path: Path) -> None:
    made, trainer = fit(task(tiny_backbone))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    again = ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    torch.testing.assert_close(again.get_parameter(OWN), made.get_parameter(OWN))
    assert made.facts is not None
    save_model_folder(tmp_path / "model", made.model, made.specs, made.facts)
    kept = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert b"centers" not in kept


def test_an_evaluation_ignores_parameters_of_another_loss(
    fit: Fit, tiny_backbone: dict[str, Any], tmp_path: Path
) -> None:
    _, trainer = fit(task(tiny_backbone))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    for regularizers, loss in ((None, "cross_entropy"), (CENTER, f"{__name__}.Scaled")):
        other = ClassificationTask.load_from_checkpoint(
            tmp_path / "a.ckpt", weights_only=True, regularizers=regularizers, loss=loss
        )
        assert hasattr(other.loss, "matrix") == (loss != "cross_entropy")


def test_training_resumes_with_the_same_loss_and_regularizers_only(
    fit: Fit, tiny_backbone: dict[str, Any], tmp_path: Path
) -> None:
    _, trainer = fit(task(tiny_backbone))
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=r"trained with another loss or other regularizers\. .*1 are unknown .*centers"):
        trainer.fit(
            task(tiny_backbone, regularizers=None), datamodule=trainer.datamodule, ckpt_path=tmp_path / "a.ckpt"
        )


def test_an_inactive_regularizer_has_gradients_for_ddp(tiny_backbone: dict[str, Any]) -> None:
    from imgrec.regularizers import build_regularizers

    made = build_regularizers({**CENTER, "ramp": [0.5, 1.0]}, "r", num_classes=3, feature_dim=4)
    output = StepOutput(torch.zeros(1), torch.tensor([0]), torch.zeros(1, 3), torch.ones(1, 4), epoch=0)
    made(output, nn.Identity(), 0.0)[0].backward()
    (centers,) = made.parameters()
    assert centers.grad is not None
    assert not centers.grad.any()


def test_regularizers_check_the_model_before_training(fit: Fit, tiny_backbone: dict[str, Any]) -> None:
    specs = [{"name": "l2", "weight": 1e-4}, {"name": "l1", "weight": 1e-4, "scope": "layr1"}]
    with pytest.raises(
        UserError,
        match=r'^model\.regularizers\[1\]: scope: the pattern "layr1" matches no parameter\. Did you mean "layer1"',
    ):
        fit(task(tiny_backbone, regularizers=specs))
    with pytest.raises(UserError, match=r"^model\.regularizers: r_drop requires a network with dropout"):
        fit(task(tiny_backbone, regularizers={"name": "r_drop", "weight": 1.0}))


def test_entries_with_parameters() -> None:
    facts = {"num_classes": 3, "feature_dim": 4}
    owners = {name for name in REGULARIZERS.names() if list(REGULARIZERS.build(name, "", **facts).parameters())}
    assert owners == {"center"}
