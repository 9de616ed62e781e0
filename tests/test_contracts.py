"""What holds for every entry of every registry: it says what it is, builds from its defaults, and trains."""

from __future__ import annotations

import csv
import io
import math
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn

from imgrec import ClassificationTask, DistillationTask, ImageDataModule
from imgrec.augment import AUGMENTATIONS, BatchTransform, Draws, Transform
from imgrec.cli.listing import REGISTRIES, registry
from imgrec.data import SOURCES
from imgrec.losses import LOSSES
from imgrec.models import BACKBONES, HEADS
from imgrec.optim import OPTIMIZERS, SCHEDULES
from imgrec.regularizers import REGULARIZERS

TINY = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8}
FACTS: dict[str, Any] = {
    "num_classes": 4,
    "class_names": ("cat", "dog", "owl", "yak"),
    "class_counts": (4, 3, 2, 1),
    "image_size": 16,
    "in_channels": 1,
    "feature_dim": 8,
    "logit_scale": 16.0,
}
ENTRIES = [(plural, name) for plural in REGISTRIES for name in registry(plural).names()]
NEEDED = {"regularizers": {"weight": 0.01}, "optimizers": {"lr": 0.05}}
"""What a spec of a registry has to say for two steps to be seen in every weight."""
LAYERS = {"attention": {"layers": {"layer1": "layer1"}}}
"""What a distillation cannot do without."""


# ---------------------------------------------------------------- what an entry says of itself


@pytest.mark.parametrize(("plural", "name"), ENTRIES)
def test_it_says_in_one_line_what_it_is_and_takes_only_what_it_names(plural: str, name: str) -> None:
    entry = registry(plural).entry(name)
    assert entry.summary.endswith(".")
    assert 10 < len(entry.summary) < 120
    for argument in entry.arguments():
        assert argument.type, f"{name}.{argument.name} has no annotation"


@pytest.mark.parametrize("plural", REGISTRIES)
def test_a_registry_is_called_as_the_command_line_calls_it(plural: str) -> None:
    found = registry(plural)
    assert found.plural == plural
    assert plural == "backbones" or found.names()
    assert found.kind != plural


def test_backbones_are_a_catalogue() -> None:
    assert BACKBONES.catalogue is not None
    names = BACKBONES.catalogue.names()
    assert {"resnet18", "vit_tiny_patch16_224", "torchvision/googlenet", "torchvision/densenet121"} <= set(names)
    assert len(names) == len(set(names)) > 1000


# ---------------------------------------------------------------- it builds from its defaults


def write_images(root: Path) -> None:
    """Twenty small JPEGs of two classes, a table that names them, and parquet and tar files that hold them."""
    generator = np.random.default_rng(0)
    rows = []
    for i in range(20):
        path = root / ("light" if i % 2 else "dark") / f"{i:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 128, (20, 20, 3), dtype=np.uint8) + 127 * (i % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
        rows.append((path.relative_to(root).as_posix(), path.parent.name))
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    images = [(root / path).read_bytes() for path, _ in rows]
    pq.write_table(pa.table({"image": images, "label": [label for _, label in rows]}), root / "table.parquet")
    with tarfile.open(root / "shard.tar", "w") as tar:
        for (name, label), image in zip(rows, images, strict=True):
            for ending, data in (("jpg", image), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{Path(name).stem}.{ending}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def saved_for_the_hub(root: Path) -> dict[str, Any]:
    datasets = pytest.importorskip("datasets")
    rows = pq.read_table(root / "table.parquet").to_pydict()
    rows["image"] = [{"bytes": data, "path": None} for data in rows["image"]]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(root / ".saved"))
    return {"dataset": str(root / ".saved")}


SOURCE_SPECS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "digits": lambda root: {},
    "folder": lambda root: {"root": str(root)},
    "csv": lambda root: {"file": str(root / "table.csv")},
    "torchvision": lambda root: {"dataset": "FakeData", "options": {"size": 40, "num_classes": 3}},
    "parquet": lambda root: {"path": str(root / "table.parquet")},
    "tar": lambda root: {"path": str(root / "shard.tar")},
    "concat": lambda root: {"sources": [{"name": "folder", "root": str(root)}, "digits"], "weights": [2.5, 0.1]},
    "hub": saved_for_the_hub,
    "long_tail": lambda root: {"source": {"name": "folder", "root": str(root)}, "imbalance": 2},
    "label_noise": lambda root: {"source": {"name": "folder", "root": str(root)}, "rate": 0.2},
    "subset": lambda root: {"source": {"name": "folder", "root": str(root)}, "fraction": 0.9},
}
"""For each source the least that a spec must say."""


@pytest.mark.parametrize("name", SOURCES.names())
def test_a_source_gives_images_and_stable_ids(name: str, tmp_path: Path) -> None:
    assert name in SOURCE_SPECS, f"say in SOURCE_SPECS what the source {name} needs"
    write_images(tmp_path)
    spec = {"name": name, **SOURCE_SPECS[name](tmp_path)}
    source, again = SOURCES.build(spec), SOURCES.build(spec)
    assert source.ids == again.ids
    assert source.fingerprint() == again.fingerprint()
    image = source.load(0)
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] in (1, 3)
    assert torch.equal(image, again.load(0))
    assert str(tmp_path) not in "".join(source.ids)


@pytest.mark.parametrize("name", AUGMENTATIONS.names())
def test_an_augmentation_draws_from_what_it_is_handed_alone(name: str) -> None:
    transform = AUGMENTATIONS.build(name, **{**FACTS, "in_channels": 3})
    images = torch.randint(256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0])
    kept = images.clone()

    def changed(seed: int) -> Tensor:
        if isinstance(transform, Transform):
            return transform(images[0], torch.Generator().manual_seed(seed))
        draws = Draws(torch.arange(4), seed)
        if isinstance(transform, BatchTransform):
            result = transform(images, draws)
            assert result.shape == images.shape
            return result
        mixed, soft = transform(images, targets, draws)
        assert torch.allclose(soft.sum(dim=1), torch.ones(4))
        return mixed

    before = torch.random.get_rng_state()
    results = [changed(seed) for seed in (0, 0, *range(1, 20))]
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(images, kept)
    assert torch.equal(results[0], results[1])
    random = any(r.shape != results[0].shape or not torch.equal(r, results[0]) for r in results)
    assert random == (name not in ("resize", "center_crop", "squash"))


@pytest.mark.parametrize("name", HEADS.names())
def test_a_head_gives_logits_and_every_parameter_a_gradient(name: str) -> None:
    head = HEADS.build(name, **FACTS)
    features = torch.randn(16, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    logits = head(features)
    assert logits.shape == (16, 4)
    loss = nn.functional.cross_entropy(logits, torch.arange(16) % 4)
    for gradient in torch.autograd.grad(loss, [*head.parameters(), features]):
        assert torch.isfinite(gradient).all()
        assert (gradient != 0).any()


@pytest.mark.parametrize("name", SCHEDULES.names())
def test_a_schedule_is_a_finite_factor_that_warms_up(name: str) -> None:
    plain, warmed = SCHEDULES.build(name), SCHEDULES.build({"name": name, "warmup": 0.2})
    places = [i / 100 for i in range(101)]
    for schedule in (plain, warmed):
        factors = [schedule(place) for place in places]
        assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)
    assert plain(0.0) == 1.0
    rising = [warmed(place) for place in places[:21]]
    assert rising == sorted(rising)
    assert 0 < rising[0] < 0.1
    assert rising[20] == pytest.approx(1.0)
    assert warmed(1.0) == plain(1.0)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_an_optimizer_goes_down(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    inputs = torch.randn(60, 6)
    targets = inputs[:, :3].argmax(1)
    optimizer = OPTIMIZERS.build({"name": name, "lr": 0.05}, model=model)
    losses = []
    for _ in range(30):
        loss: Any = nn.functional.cross_entropy(model(inputs), targets)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize(("plural", "name"), [(p, n) for p, n in ENTRIES if p in ("losses", "regularizers")])
def test_a_loss_and_a_regularizer_are_modules(plural: str, name: str) -> None:
    assert isinstance(registry(plural).build(name, **FACTS), nn.Module)


# ---------------------------------------------------------------- it composes into a training


class Watch(pl.Callback):
    """The gradients of two steps, and the weights before them."""

    def __init__(self) -> None:
        self.largest: dict[str, float] = {}
        self.before: dict[str, Tensor] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = {n: p.detach().clone() for n, p in pl_module.named_parameters()}

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        for name, parameter in pl_module.named_parameters():
            if parameter.grad is not None:
                assert torch.isfinite(parameter.grad).all(), name
                self.largest[name] = max(self.largest.get(name, 0.0), float(parameter.grad.abs().max()))


UNTRAINED = ("backbones", "views", "steps")
"""Backbones have tests of their own; views are looked at after training, steps of compression are taken after it."""

PLACES: dict[str, tuple[str, str]] = {
    "edits": ("model", "edits"),
    "necks": ("model", "neck"),
    "poolings": ("model", "pooling"),
    "heads": ("model", "head"),
    "initializers": ("model", "init"),
    "losses": ("model", "loss"),
    "regularizers": ("model", "regularizers"),
    "optimizers": ("model", "optimizer"),
    "schedules": ("model", "schedule"),
    "distillations": ("model", "distillation"),
    "augmentations": ("data", "train_transforms"),
    "presets": ("data", "train_transforms"),
    "sources": ("data", "source"),
    "samplers": ("data", "sampler"),
}


@pytest.mark.parametrize(("plural", "name"), [(p, n) for p, n in ENTRIES if p not in UNTRAINED])
def test_two_steps_of_training(
    plural: str, name: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    assert plural in PLACES, f"say in PLACES where a spec of {plural} stands"
    part, key = PLACES[plural]
    model: dict[str, Any] = {"backbone": TINY, "normalize": "half"}
    data: dict[str, Any] = {"source": "digits", "image_size": 16, "channels": 1, "batch_size": 8, "num_workers": 0}
    spec: Any = {"name": name, **NEEDED.get(plural, {})}
    if plural == "sources":
        write_images(tmp_path)
        spec |= SOURCE_SPECS[name](tmp_path)
    if plural == "augmentations":
        square = isinstance(AUGMENTATIONS.build(name, **{**FACTS, "in_channels": 3}), Transform)
        spec = ["resize", spec, "center_crop"] if square else ["resize", "center_crop", spec]
    if plural == "presets":
        spec = name
    if plural == "necks":
        spec |= {"simple_pyramid": {"level": 1}}.get(name, {})  # what halves a map needs one of several pixels
    if plural == "losses":
        model["head"] = getattr(LOSSES.entry(name).factory, "needs_head", "linear")
    if name == "r_drop":
        model["head"] = {"name": "linear", "dropout": 0.3}  # what two passes differ by
    if plural == "poolings":
        model["neck"] = "concat"  # of a single pixel, every pooling is the same
    if plural == "distillations":
        model["teacher"] = str(trained)
        spec |= LAYERS.get(name, {})
    if plural in ("augmentations", "presets"):
        data["channels"] = 3  # some change colours
    {"model": model, "data": data}[part][key] = spec
    watch = Watch()
    task = (DistillationTask if plural == "distillations" else ClassificationTask)(**model)
    trainer = pl.Trainer(
        max_steps=2,
        limit_val_batches=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    )
    trainer.fit(task, datamodule=ImageDataModule(**data))
    assert trainer.global_step == 2
    assert math.isfinite(float(trainer.callback_metrics["train/loss"]))
    names = {name for name, _ in task.named_parameters()}
    assert set(watch.largest) == names
    assert all(watch.largest[name] > 0 for name in names)
    for key, parameter in task.named_parameters():
        assert torch.isfinite(parameter).all(), key
        assert not torch.equal(parameter.detach(), watch.before[key]), key


def test_the_places_are_all_there_is() -> None:
    assert {*UNTRAINED, *PLACES} == set(REGISTRIES)
    assert {LOSSES.plural, REGULARIZERS.plural} <= set(PLACES)
