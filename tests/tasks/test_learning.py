"""A task learns, and its checkpoint is all that is needed to have it again."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from imgrec import ClassificationTask, ImageDataModule

Learnt = tuple[ClassificationTask, pl.Trainer, Path, list[dict[str, float]]]


def test_the_loss_falls_and_the_digits_are_learnt(learnt: Learnt) -> None:
    figures = learnt[3]
    assert len(figures) == 6
    losses = [epoch["train/loss"] for epoch in figures]
    assert losses[-1] < 0.3 * losses[0]
    assert all(later < earlier for earlier, later in itertools.pairwise(losses[:4]))
    last = figures[-1]
    assert last["val/acc"] > 0.9  # chance is 0.1
    assert last["train/acc"] > 0.9
    assert last["val/loss"] < 0.5 * figures[0]["val/loss"]


def test_every_parameter_has_moved_and_is_finite(learnt: Learnt, tiny_backbone: dict[str, Any]) -> None:
    task = learnt[0]
    assert task.facts is not None
    torch.manual_seed(0)
    fresh = ClassificationTask(**{**dict(task.hparams), "facts": task.facts.to_dict()})
    fresh.configure_model()
    for (name, parameter), before in zip(task.named_parameters(), fresh.parameters(), strict=True):
        assert torch.isfinite(parameter).all(), name
        assert not torch.equal(parameter.detach(), before.detach()), name


@pytest.mark.parametrize("options", [{}, {"weights_only": True}, {"map_location": "cpu", "weights_only": True}])
def test_a_checkpoint_loads_with_no_further_argument(learnt: Learnt, options: dict[str, Any]) -> None:
    task, _, path, _ = learnt
    again = ClassificationTask.load_from_checkpoint(path, **options)
    ours, theirs = task.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.facts == task.facts
    data = ImageDataModule("digits", image_size=16, channels=1, batch_size=32, num_workers=0)
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    with torch.no_grad():
        expected, found = task.eval()(batch.images), again.eval()(batch.images)
    assert torch.equal(expected, found)
    assert (found.argmax(1) == batch.targets).float().mean() > 0.9
    logits = torch.randn(4, 10)
    assert torch.equal(task.loss(logits, torch.arange(4)), again.loss(logits, torch.arange(4)))


def test_a_checkpoint_holds_plain_data_only(learnt: Learnt) -> None:
    task, _, path, _ = learnt
    checkpoint = torch.load(path, weights_only=True)
    given = checkpoint["hyper_parameters"]
    assert json.loads(json.dumps(given)) == given
    assert given["loss"][0] == {"name": "cross_entropy", "class_weights": "balanced"}
    assert given["head"] == {"name": "linear", "dropout": 0.1}
    assert given["load_weights"] is False
    assert task.facts is not None
    assert given["facts"] == task.facts.to_dict()
    data = checkpoint["datamodule_hyper_parameters"]
    assert json.loads(json.dumps(data)) == data
    assert checkpoint["imgrec"]["task"] == "imgrec.ClassificationTask"
    assert checkpoint["imgrec"]["data"] == "imgrec.ImageDataModule"


def test_the_task_itself_still_loads_weights_after_a_checkpoint_was_written(learnt: Learnt) -> None:
    assert learnt[0].load_weights is True
    assert learnt[0].hparams["load_weights"] is True


def test_a_checkpoint_asks_for_no_pretrained_weights_again(fit: Any, tmp_path: Path) -> None:
    """The file that the weights came from may be gone."""
    import timm

    network = timm.create_model("test_resnet.r160_in1k", pretrained=False, in_chans=1)
    weights = tmp_path / "weights.safetensors"
    from safetensors.torch import save_file

    save_file(network.state_dict(), weights)
    task = ClassificationTask({"name": "test_resnet", "weights": str(weights)}, normalize="half")
    _, trainer = fit(task, limit_val_batches=0)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    weights.unlink()
    again = ClassificationTask.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert all(torch.equal(a, b) for a, b in zip(task.parameters(), again.parameters(), strict=True))
    assert again.hparams["backbone"]["weights"] == str(weights)


def test_the_network_depends_on_the_seed_and_on_nothing_drawn_before(
    tiny_backbone: dict[str, Any], digits: ImageDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits.setup("fit")

    def made() -> torch.Tensor:
        task = ClassificationTask(tiny_backbone, normalize="half", facts=digits.facts.to_dict())
        task.configure_model()
        return torch.cat([p.detach().flatten() for p in task.parameters()])

    first = made()
    torch.rand(17)
    assert torch.equal(made(), first)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(made(), first)
