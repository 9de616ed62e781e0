"""LoRA: the same change of low rank whichever way it is computed, nothing else moves, and nothing of it is shared."""

from __future__ import annotations

import copy
import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import timm
import torch
from torch import Tensor, nn

from imgrec import EMA, QAT, ClassificationTask, NaNGuard, Pruning, StructuredPruning
from imgrec.errors import UserError
from imgrec.export import load_model_folder, read_origin, save_model_folder
from imgrec.models import Classifier, ClassifierSpecs
from imgrec.models.edits.lora import LoRA, LowRank, low_rank_change
from imgrec.types import DataFacts
from tests.callbacks.small_training import digits, same, task, trainer

VIT: dict[str, Any] = {"name": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 16, "num_heads": 2, "patch_size": 8}
FACTS = DataFacts(tuple("0123456789"), (1,) * 10, image_size=16, channels=1)
SPECS = ClassifierSpecs(VIT, "linear", "half", edits={"name": "lora", "rank": 2})
SMALL = {"backbone": VIT, "edits": {"name": "lora", "rank": 2}, "optimizer": {"name": "adamw", "lr": 0.01}}


def built(edits: Any = None, backbone: dict[str, Any] | None = None, trained: bool = False) -> Classifier:
    torch.manual_seed(0)
    model = ClassifierSpecs(backbone or VIT, "linear", "half", edits=edits).build(FACTS).eval()
    if trained:
        for parameter in model.parameters():
            if parameter.requires_grad:
                nn.init.normal_(parameter, std=0.1)
    return model


def images() -> Tensor:
    return torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ the mathematics


def test_the_change_is_the_product_of_the_two_over_the_rank() -> None:
    generator = np.random.default_rng(0)
    up, down = generator.normal(size=(6, 2)), generator.normal(size=(2, 12))
    expected = np.einsum("or,ri->oi", up, down).reshape(6, 3, 2, 2) * 5.0
    found = low_rank_change(torch.tensor(up), torch.tensor(down), 5.0, torch.Size([6, 3, 2, 2]))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert np.linalg.matrix_rank(expected.reshape(6, 12)) == 2
    assert LowRank(torch.zeros(6, 12), rank=2, alpha=10.0).scale == 5.0


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(3, 4, 3, padding=1, stride=2)], ids=["linear", "conv"])
def test_a_layer_gives_what_two_paths_would(layer: nn.Module) -> None:
    """As in the paper: the frozen layer, and beside it one to `rank` outputs with one from there."""
    first = copy.deepcopy(layer)
    network: Any = LoRA(rank=2, alpha=3.0, scope=None)(nn.Sequential(layer))
    edited = network[0]
    change = edited.parametrizations.weight[0]
    nn.init.normal_(change.up)
    down: Any = copy.deepcopy(first)
    up: Any = nn.Linear(2, 4) if isinstance(first, nn.Linear) else nn.Conv2d(2, 4, 1)
    with torch.no_grad():
        down.weight = nn.Parameter(change.down.detach().view(2, *first.get_parameter("weight").shape[1:]))
        down.bias = up.bias = None
        up.weight = nn.Parameter(change.up.detach().view(up.get_parameter("weight").shape))
    given = torch.randn(5, 6) if isinstance(first, nn.Linear) else torch.randn(5, 3, 8, 8)
    torch.testing.assert_close(edited(given), first(given) + 1.5 * up(down(given)))


def test_at_first_nothing_is_changed_and_then_only_what_is_small_trains() -> None:
    plain, edited = built(), built(SPECS.edits)
    assert torch.equal(edited.forward_features(images()), plain.forward_features(images()))
    trains = {name: p.numel() for name, p in edited.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in trains if name.startswith("backbone")} == {"up", "down"}
    # two layers of qkv (48, 16) and proj (16, 16), of rank 2
    assert sum(n for name, n in trains.items() if name.startswith("backbone")) == 2 * 2 * (48 + 16 + 16 + 16)
    assert {name for name in trains if name.startswith("head")} == {"head.linear.weight", "head.linear.bias"}


def test_what_is_named_trains_as_it_is() -> None:
    edited = built({"name": "lora", "rank": 2, "scope": "blocks.1.mlp", "train": ["*.bias", "norm"]})
    trains = {name.removeprefix("backbone.network.") for name, p in edited.named_parameters() if p.requires_grad}
    assert {"norm.weight", "norm.bias", "blocks.0.attn.qkv.bias"} <= trains
    assert "blocks.0.attn.qkv.weight" not in trains
    assert {name.rpartition(".parametrizations")[0] for name in trains} == {"", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2"}


def test_it_is_the_same_under_autocast_as_what_is_merged(tmp_path: Path) -> None:
    model = built(SPECS.edits, trained=True)
    save_model_folder(tmp_path / "model", model, SPECS, FACTS)
    merged, _ = load_model_folder(tmp_path / "model")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(model(images()), merged(images()))


# ------------------------------------------------------------------ what is shared is an ordinary network


@pytest.mark.parametrize(
    ("backbone", "scope"),
    [
        (VIT, "*.attn.*"),
        ({"name": "beit_base_patch16_224", "depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 8}, "*.attn.*"),
        ({"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}, "layer*"),
    ],
    ids=["vit", "beit, which uses its weights by itself", "resnet"],
)
def test_the_model_folder_is_that_of_the_plain_backbone(backbone: dict[str, Any], scope: str, tmp_path: Path) -> None:
    edits: list[Any] = [{"name": "lora", "rank": 2, "scope": scope}]
    plain, model = built(None, backbone), built(edits, backbone, trained=True)
    expected = model(images())
    assert not torch.allclose(expected, plain(images()))
    folder = save_model_folder(tmp_path / "model", model, ClassifierSpecs(backbone, edits=edits), FACTS)
    torch.testing.assert_close(model(images()), expected, rtol=0, atol=0)  # it goes on as it was
    loaded, _ = load_model_folder(folder)
    assert loaded.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(loaded(images()), expected)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, operator.attrgetter(name)(model)), name
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "edits" not in said["imgrec"]["specs"]
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.testing.assert_close(by_timm(model.normalize(images())), expected)


def test_other_edits_stay_when_it_goes(tmp_path: Path) -> None:
    edits: list[Any] = [{"name": "swap_activation", "to": "relu"}, {"name": "lora", "rank": 2}]
    model = built(edits, trained=True)
    folder = save_model_folder(tmp_path / "model", model, ClassifierSpecs(VIT, "linear", "half", edits=edits), FACTS)
    loaded, _ = load_model_folder(folder)
    assert torch.equal(loaded(images()), model(images()))
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert said["imgrec"]["specs"]["edits"] == [{"name": "swap_activation", "to": "relu"}]


def test_a_network_that_was_trained_without_it_is_what_it_starts_from(tmp_path: Path) -> None:
    plain = built(trained=True)
    save_model_folder(tmp_path / "model", plain, ClassifierSpecs(VIT, "linear", "half"), FACTS)
    start = {"path": str(tmp_path / "model"), "partial": True}
    made = task(**SMALL, init_from=start, facts=FACTS.to_dict())
    made.configure_model()
    assert made.loaded_weights is not None
    assert made.loaded_weights.unknown == ()
    assert {name.rpartition(".")[2] for name in made.loaded_weights.fresh} == {
        "up",
        "down",
        "mean",
        "std",
    }  # normalize: half
    assert torch.equal(made.model.eval()(images()), plain(images()))


# ------------------------------------------------------------------ training


def trained(place: Path, *callbacks: pl.Callback, **options: Any) -> tuple[ClassificationTask, pl.Trainer]:
    pl.seed_everything(0, verbose=False)
    made, with_it = task(**SMALL), trainer(place, callbacks, enable_checkpointing=False, max_epochs=1, **options)
    with_it.fit(made, datamodule=digits())
    return made, with_it


def test_only_the_change_and_the_head_move_and_the_optimizer_knows_no_more(tmp_path: Path) -> None:
    made, with_it = trained(tmp_path, EMA(decay=0.5), NaNGuard(every_n_steps=2), accumulate_grad_batches=2)
    held = [p for group in with_it.optimizers[0].param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in made.parameters() if p.requires_grad}
    before = task(**SMALL, facts=made.facts.to_dict() if made.facts else None)
    before.configure_model()
    moved = {n for n, value in made.model.state_dict().items() if not torch.equal(value, before.model.state_dict()[n])}
    assert {name.rpartition(".")[2] for name in moved if name.startswith("backbone")} == {"up", "down"}
    assert sum(name.endswith("up") for name in moved) == 4


def test_a_checkpoint_goes_on_exactly_and_loads_by_itself(tmp_path: Path) -> None:
    class Save(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                trainer.save_checkpoint(tmp_path / "half.ckpt")

    whole, with_it = trained(tmp_path, Save())
    with_it.save_checkpoint(tmp_path / "end.ckpt")
    again = task(**SMALL)
    trainer(tmp_path, [], enable_checkpointing=False, max_epochs=1).fit(
        again, datamodule=digits(), ckpt_path=tmp_path / "half.ckpt", weights_only=True
    )
    assert same(dict(again.state_dict()), dict(whole.state_dict()))
    loaded = ClassificationTask.load_from_checkpoint(tmp_path / "end.ckpt", weights_only=True)
    origin = read_origin(tmp_path / "end.ckpt")
    assert torch.equal(loaded.model.eval()(images()), whole.model.eval()(images()))
    assert torch.equal(origin.classifier(images()), whole.model(images()))


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"rank": 0}, r"`rank` is 1 or more, got 0"),
        ({"alpha": 0.0}, r"`alpha` is above 0, got 0"),
        ({"rank": 17}, r"`rank` 17 is more than the 16 that the weight of blocks.0.attn.qkv has"),
        ({"scope": "*.attention"}, r'the pattern "\*.attention" matches no layer'),
        ({"scope": "*.norm1"}, r'the pattern "\*.norm1" matches no linear or convolutional layer'),
        ({"train": "*.biases"}, r'train: the pattern "\*.biases" matches no parameter'),
    ],
)
def test_what_cannot_be_is_refused_when_the_task_is_made(edit: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"model.edits: .*" + message):
        ClassificationTask(backbone=VIT, edits={"name": "lora", **edit})


@pytest.mark.parametrize(
    "callback",
    [
        lambda: Pruning(sparsity=0.5),
        lambda: StructuredPruning(target={"macs": 0.8}, start=0.3, rounds=1),
        lambda: QAT(start=0.5),
    ],
    ids=["Pruning", "StructuredPruning", "QAT"],
)
def test_masks_channels_and_int8_come_after_the_training(callback: Callable[[], pl.Callback], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"blocks.0.attn.qkv has its weight computed from other tensors \(LowRank\)"):
        trained(tmp_path, callback())
