from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from imgrec.types import Batch, DataFacts, StepOutput
from imgrec.utils.seeding import position_seed


def batch() -> Batch:
    return Batch(
        images=torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4),
        targets=torch.tensor([1, 0]),
        ids=("a.png", "b.png"),
        skipped=(("c.png", "cut off"),),
    )


def facts() -> DataFacts:
    return DataFacts(
        class_names=("cat", "dog", "owl"),
        class_counts=(5, 3, 2),
        image_size=32,
        channels=1,
        eval_transforms=("resize", {"name": "center_crop", "size": [32, 32]}),
    )


def test_a_batch_counts_its_images() -> None:
    assert len(batch()) == 2
    assert len(Batch(torch.empty(0, 3, 4, 4), torch.empty(0, dtype=torch.int64), ())) == 0


def test_a_batch_moves_its_tensors_and_keeps_the_rest() -> None:
    before = batch()
    after = before.to("meta")
    assert after.images.device.type == after.targets.device.type == "meta"
    assert (after.ids, after.skipped) == (before.ids, before.skipped)
    assert before.images.device.type == "cpu"
    back = before.to(torch.device("cpu"), non_blocking=True)
    assert torch.equal(back.images, before.images)
    assert torch.equal(back.targets, before.targets)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs a GPU")
def test_a_batch_is_pinned() -> None:
    pinned = batch().pin_memory()
    assert pinned.images.is_pinned()
    assert pinned.targets.is_pinned()
    assert pinned.ids == batch().ids


def test_lightning_moves_batches_and_outputs() -> None:
    from lightning_fabric.utilities import move_data_to_device

    assert move_data_to_device(batch(), torch.device("meta")).images.device.type == "meta"
    tensor = torch.zeros(1)
    output = StepOutput(tensor, tensor, tensor, tensor, epoch=3, auxiliary=(tensor,))
    moved = move_data_to_device(output, torch.device("meta"))
    tensors = (moved.images, moved.targets, moved.logits, moved.features, *moved.auxiliary)
    assert [each.device.type for each in tensors] == ["meta"] * 5
    assert moved.epoch == 3


def test_batch_has_key_of_each_id() -> None:
    keys = batch().keys
    assert keys.tolist() == [position_seed("a.png"), position_seed("b.png")]
    assert keys.dtype == torch.int64
    assert batch().to("meta").keys.device.type == "meta"
    given = dataclasses.replace(batch(), keys=torch.tensor([1, 2]), epoch=3)
    assert given.to("cpu").keys.tolist() == [1, 2]
    assert given.to("cpu").epoch == 3


def test_batches_and_outputs_are_immutable() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch().ids = ()  # type: ignore[misc]
    output = StepOutput(torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.zeros(1), epoch=3)
    assert output.auxiliary == ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.epoch = 4  # type: ignore[misc]


def test_facts_survive_a_checkpoint_and_json(tmp_path: Path) -> None:
    plain = facts().to_dict()
    torch.save(plain, tmp_path / "facts.pt")
    assert DataFacts.from_dict(torch.load(tmp_path / "facts.pt", weights_only=True)) == facts()
    assert DataFacts.from_dict(json.loads(json.dumps(plain))) == facts()


def test_facts_in_plain_data_share_nothing_with_the_facts() -> None:
    one = facts()
    plain = one.to_dict()
    plain["class_names"].append("yak")
    plain["eval_transforms"][1]["size"] = [1, 1]
    assert one == facts()


def test_facts_have_documented_names() -> None:
    assert facts().num_classes == 3
    assert facts().for_registry() == {
        "num_classes": 3,
        "class_names": ("cat", "dog", "owl"),
        "class_counts": (5, 3, 2),
        "image_size": 32,
        "in_channels": 1,
    }
