from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import imgrec
from imgrec import ClassificationTask
from imgrec.compress import drop_blocks, prune_channels, surgery_of
from imgrec.errors import UserError
from imgrec.export import load_model_folder, read_origin, save_model_folder
from imgrec.models import Classifier, build_classifier
from imgrec.types import DataFacts

TINY: dict[str, Any] = {"name": "resnet18", "layers": [2, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
SPECS = {"backbone": TINY, "head": "linear", "normalize": "half"}
NAMES = tuple("0123456789")


def pruned(names: tuple[str, ...] = NAMES) -> tuple[Classifier, DataFacts]:
    facts = DataFacts(names, (1,) * len(names), image_size=16, channels=1)
    torch.manual_seed(3)
    model = build_classifier(TINY, "linear", "half", facts)
    prune_channels(model, torch.rand(2, 1, 16, 16), {"macs": 0.6})
    drop_blocks(model, torch.rand(2, 1, 16, 16), {"macs": 0.95})
    return model.eval(), facts


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model folder of a pruned network for the digits."""
    model, facts = pruned()
    return save_model_folder(tmp_path_factory.mktemp("pruned") / "model", model, SPECS, facts)


def task(**arguments: Any) -> ClassificationTask:
    return ClassificationTask(**SPECS | arguments)


def test_training_starts_from_a_pruned_network_and_its_checkpoint_loads_without_it(
    folder: Path, fit: Callable[..., Any], tmp_path: Path
) -> None:
    start, _ = load_model_folder(folder)
    trained, trainer = fit(task(init_from=str(folder), optimizer={"name": "sgd", "lr": 0.0}))
    assert surgery_of(trained.model) == surgery_of(start) != []
    for (name, ours), (_, theirs) in zip(trained.model.named_parameters(), start.named_parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    trainer.save_checkpoint(tmp_path / "task.ckpt")
    content = torch.load(tmp_path / "task.ckpt", weights_only=True)
    content["hyper_parameters"]["init_from"] = "not/there/any/more"
    torch.save(content, tmp_path / "task.ckpt")
    again = ClassificationTask.load_from_checkpoint(tmp_path / "task.ckpt", weights_only=True).eval()
    images = torch.rand(2, 1, 16, 16)
    assert torch.equal(again.model(images), trained.model.eval()(images))
    origin = read_origin(tmp_path / "task.ckpt")
    assert torch.equal(origin.classifier(images), again.model(images))
    assert surgery_of(origin.classifier) == surgery_of(start)


def test_a_task_becomes_what_its_checkpoint_is(folder: Path, fit: Callable[..., Any], tmp_path: Path) -> None:
    """Dense to pruned, pruned to dense, and built as expected from the start."""
    narrow, trainer = fit(task(init_from=str(folder)))
    trainer.save_checkpoint(tmp_path / "narrow.ckpt")
    wide, trainer = fit(task())
    trainer.save_checkpoint(tmp_path / "wide.ckpt")
    sizes = [sum(p.numel() for p in each.parameters()) for each in (narrow, wide)]
    for each, path, size in ((wide, "narrow.ckpt", sizes[0]), (narrow, "wide.ckpt", sizes[1])):
        checkpoint = torch.load(tmp_path / path, weights_only=True)
        each.on_load_checkpoint(checkpoint)
        each.load_state_dict(checkpoint["state_dict"])
        assert sum(p.numel() for p in each.parameters()) == size
    checkpoint = torch.load(tmp_path / "narrow.ckpt", weights_only=True)
    fresh = task(init_from=str(folder), facts=checkpoint["hyper_parameters"]["facts"])
    fresh.prepare_for_checkpoint(checkpoint)
    fresh.configure_model()
    assert {n: p.shape for n, p in fresh.named_parameters()} == {
        n: v.shape for n, v in checkpoint["state_dict"].items() if n in dict(fresh.named_parameters())
    }


def test_a_start_that_does_not_fit_is_refused(folder: Path, fit: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.init_from: .* not found"):
        task(init_from=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"model\.init_from: .* is no run folder with a trained model"):
        task(init_from=str(tmp_path))
    with pytest.raises(UserError, match=r"model\.init_from: .*model\.backbone is 'resnet34'"):
        task(init_from=str(folder), backbone="resnet34")
    with pytest.raises(UserError, match=r"model\.init_from: .*model\.head is 'cosine'"):
        task(init_from=str(folder), head="cosine")
    model, facts = pruned(tuple("abc"))
    save_model_folder(tmp_path / "letters", model, SPECS, facts)
    with pytest.raises(UserError, match=r"letters was trained on 3 classes \(a, b, c\)"):
        fit(task(init_from=str(tmp_path / "letters")))
    with pytest.raises(UserError, match="init_from"):
        task(backbone={**TINY, "weights": str(folder)})


def test_a_pruned_model_loads_without_torch_pruning(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load_model_folder(folder)
    images = torch.rand(2, 1, 16, 16)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)  # an import of it fails
    loaded = imgrec.load(str(folder), device="cpu").classifier
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    with pytest.raises(UserError, match=re.escape("needs the package torch-pruning: pip install 'imgrec[compress]'")):
        prune_channels(loaded, images, {"macs": 0.5})
