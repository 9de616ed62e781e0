"""LoRA: formula, trainable parameters, resume, merge into the model folder."""

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
from torch import nn

from imgrec import EMA, QAT, ClassificationTask, NaNGuard, Pruning, StructuredPruning
from imgrec.errors import UserError
from imgrec.export import load_model_folder, read_origin, save_model_folder
from imgrec.models import ClassifierSpecs
from imgrec.models.edits.lora import LoRA, LowRank, low_rank_change
from tests.callbacks.small_training import digits, same, task, trainer
from tests.models.small_models import GRAY_FACTS, edited_classifier, gray_images

VIT: dict[str, Any] = {"name": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 16, "num_heads": 2, "patch_size": 8}
SPECS = ClassifierSpecs(VIT, "linear", "half", edits={"name": "lora", "rank": 2})
SMALL = {"backbone": VIT, "edits": {"name": "lora", "rank": 2}, "optimizer": {"name": "adamw", "lr": 0.01}}


# ------------------------------------------------------------------ formula


def test_update_formula() -> None:
    generator = np.random.default_rng(0)
    up, down = generator.normal(size=(6, 2)), generator.normal(size=(2, 12))
    expected = np.einsum("or,ri->oi", up, down).reshape(6, 3, 2, 2) * 5.0
    found = low_rank_change(torch.tensor(up), torch.tensor(down), 5.0, torch.Size([6, 3, 2, 2]))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert np.linalg.matrix_rank(expected.reshape(6, 12)) == 2
    assert LowRank(torch.zeros(6, 12), rank=2, alpha=10.0).scale == 5.0


@pytest.mark.parametrize("layer", [nn.Linear(6, 4), nn.Conv2d(3, 4, 3, padding=1, stride=2)], ids=["linear", "conv"])
def test_layer_equals_two_paths_of_the_paper(layer: nn.Module) -> None:
    """Compare with the paper: the frozen layer plus a layer to `rank` outputs and one from there."""
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


def test_initial_output_and_trainable_parameters() -> None:
    plain, edited = edited_classifier(VIT), edited_classifier(VIT, SPECS.edits)
    assert torch.equal(edited.forward_features(gray_images()), plain.forward_features(gray_images()))
    trains = {name: p.numel() for name, p in edited.named_parameters() if p.requires_grad}
    assert {name.rpartition(".")[2] for name in trains if name.startswith("backbone")} == {"up", "down"}
    # two layers of qkv (48, 16) and proj (16, 16), of rank 2
    assert sum(n for name, n in trains.items() if name.startswith("backbone")) == 2 * 2 * (48 + 16 + 16 + 16)
    assert {name for name in trains if name.startswith("head")} == {"head.linear.weight", "head.linear.bias"}


def test_train_argument() -> None:
    edited = edited_classifier(VIT, {"name": "lora", "rank": 2, "scope": "blocks.1.mlp", "train": ["*.bias", "norm"]})
    trains = {name.removeprefix("backbone.network.") for name, p in edited.named_parameters() if p.requires_grad}
    assert {"norm.weight", "norm.bias", "blocks.0.attn.qkv.bias"} <= trains
    assert "blocks.0.attn.qkv.weight" not in trains
    assert {name.rpartition(".parametrizations")[0] for name in trains} == {"", "blocks.1.mlp.fc1", "blocks.1.mlp.fc2"}


def test_autocast_equals_merged_weights(tmp_path: Path) -> None:
    model = edited_classifier(VIT, SPECS.edits, trained=True)
    save_model_folder(tmp_path / "model", model, SPECS, GRAY_FACTS)
    merged, _ = load_model_folder(tmp_path / "model")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert torch.equal(model(gray_images()), merged(gray_images()))


# ------------------------------------------------------------------ model folder


@pytest.mark.parametrize(
    ("backbone", "scope"),
    [
        (VIT, "*.attn.*"),
        ({"name": "beit_base_patch16_224", "depth": 1, "embed_dim": 16, "num_heads": 2, "patch_size": 8}, "*.attn.*"),
        ({"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}, "layer*"),
    ],
    ids=["vit", "beit, which reads its weights directly", "resnet"],
)
def test_model_folder_contains_plain_backbone(backbone: dict[str, Any], scope: str, tmp_path: Path) -> None:
    edits: list[Any] = [{"name": "lora", "rank": 2, "scope": scope}]
    plain, model = edited_classifier(backbone), edited_classifier(backbone, edits, trained=True)
    expected = model(gray_images())
    assert not torch.allclose(expected, plain(gray_images()))
    folder = save_model_folder(tmp_path / "model", model, ClassifierSpecs(backbone, edits=edits), GRAY_FACTS)
    torch.testing.assert_close(model(gray_images()), expected, rtol=0, atol=0)  # the model is unchanged
    loaded, _ = load_model_folder(folder)
    assert loaded.state_dict().keys() == plain.state_dict().keys()
    torch.testing.assert_close(loaded(gray_images()), expected)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, operator.attrgetter(name)(model)), name
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert "edits" not in config["imgrec"]["specs"]
    by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    torch.testing.assert_close(by_timm(model.normalize(gray_images())), expected)


def test_other_edits_remain_in_model_folder(tmp_path: Path) -> None:
    edits: list[Any] = [{"name": "swap_activation", "to": "relu"}, {"name": "lora", "rank": 2}]
    model = edited_classifier(VIT, edits, trained=True)
    folder = save_model_folder(
        tmp_path / "model", model, ClassifierSpecs(VIT, "linear", "half", edits=edits), GRAY_FACTS
    )
    loaded, _ = load_model_folder(folder)
    assert torch.equal(loaded(gray_images()), model(gray_images()))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["imgrec"]["specs"]["edits"] == [{"name": "swap_activation", "to": "relu"}]


def test_init_from_network_without_lora(tmp_path: Path) -> None:
    plain = edited_classifier(VIT, trained=True)
    save_model_folder(tmp_path / "model", plain, ClassifierSpecs(VIT, "linear", "half"), GRAY_FACTS)
    start = {"path": str(tmp_path / "model"), "partial": True}
    made = task(**SMALL, init_from=start, facts=GRAY_FACTS.to_dict())
    made.configure_model()
    report = made.loaded_weights
    assert report is not None
    assert report.unknown == ()
    assert {name.rpartition(".")[2] for name in report.fresh} == {"up", "down", "mean", "std"}  # normalize: half
    assert torch.equal(made.model.eval()(gray_images()), plain(gray_images()))


# ------------------------------------------------------------------ training


def trained(place: Path, *callbacks: pl.Callback, **options: Any) -> tuple[ClassificationTask, pl.Trainer]:
    pl.seed_everything(0, verbose=False)
    made, with_it = task(**SMALL), trainer(place, callbacks, enable_checkpointing=False, max_epochs=1, **options)
    with_it.fit(made, datamodule=digits())
    return made, with_it


def test_training_changes_updates_and_head_only(tmp_path: Path) -> None:
    made, with_it = trained(tmp_path, EMA(decay=0.5), NaNGuard(every_n_steps=2), accumulate_grad_batches=2)
    held = [p for group in with_it.optimizers[0].param_groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in made.parameters() if p.requires_grad}
    before = task(**SMALL, facts=made.facts.to_dict() if made.facts else None)
    before.configure_model()
    moved = {n for n, value in made.model.state_dict().items() if not torch.equal(value, before.model.state_dict()[n])}
    assert {name.rpartition(".")[2] for name in moved if name.startswith("backbone")} == {"up", "down"}
    assert sum(name.endswith("up") for name in moved) == 4


def test_checkpoint_resumes_exactly_and_loads(tmp_path: Path) -> None:
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
    assert torch.equal(loaded.model.eval()(gray_images()), whole.model.eval()(gray_images()))
    assert torch.equal(origin.classifier(gray_images()), whole.model(gray_images()))


# ------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"rank": 0}, r"rank: expected int > 0, got 0"),
        ({"alpha": 0.0}, r"alpha: expected float > 0, got 0"),
        ({"rank": 17}, r"rank: expected at most 16, the rank of the weight of blocks.0.attn.qkv, got 17"),
        ({"scope": "*.attention"}, r'the pattern "\*.attention" matches no layer'),
        ({"scope": "*.norm1"}, r'the pattern "\*.norm1" matches no linear or convolutional layer'),
        ({"train": "*.biases"}, r'train: the pattern "\*.biases" matches no parameter'),
    ],
)
def test_invalid_argument_raises_in_task(edit: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=r"model.edits.*" + message):
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
def test_compression_of_parametrized_weights_raises(callback: Callable[[], pl.Callback], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"blocks.0.attn.qkv: its weight is computed from other tensors \(LowRank\)"):
        trained(tmp_path, callback())
