"""Contract tests of all registry entries: documentation, default arguments and training."""

from __future__ import annotations

import csv
import io
import json
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
from imgrec.augment import AUGMENTATIONS, BatchRandom, BatchTransform, Transform
from imgrec.callbacks import PositionalSeeding
from imgrec.cli.commands.list_show import REGISTRIES, registry
from imgrec.data import SOURCES
from imgrec.losses import LOSSES
from imgrec.models import BACKBONES, HEADS
from imgrec.optim import OPTIMIZERS, SCHEDULES
from imgrec.registry import as_list
from imgrec.regularizers import REGULARIZERS
from imgrec.types import DataFacts
from tests.documented import documented, named

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
OTHER = ("runtimes", "formats", "metrics")
"""Registries whose entries have contract tests in the folder of their package."""
ENTRIES = [(p, name) for p in REGISTRIES if p not in OTHER for name in registry(p).names()]
NEEDED = {"regularizers": {"weight": 0.01}, "optimizers": {"lr": 0.05}}
"""Arguments per registry with which two steps change every weight."""
AROUND: dict[str, dict[str, Any]] = {"sam": {}, "asam": {}, "lookahead": {"every": 1}}
"""Optimizers that wrap another one."""


def needed(plural: str, name: str) -> dict[str, Any]:
    """Return the required arguments of an entry."""
    if plural == "optimizers" and name in AROUND:
        return {"base": {"name": "nesterov", **NEEDED["optimizers"]}, **AROUND[name]}
    return NEEDED.get(plural, {}) | ({"rank": 2, "scope": None} if name == "lora" else {})


LAYERS = {"attention": {"layers": {"layer1": "layer1"}}}
"""Required arguments of a distillation."""


# ---------------------------------------------------------------- what an entry says of itself


@pytest.mark.parametrize(("plural", "name"), ENTRIES)
def test_entry_has_summary_and_named_arguments(plural: str, name: str) -> None:
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


# ---------------------------------------------------------------- it shows how it is written

ROOMY = {**TINY, "channels": [16, 16, 16, 16], "stem_width": 16}


@pytest.mark.parametrize(("plural", "name"), ENTRIES)
def test_entry_has_valid_example(plural: str, name: str, trained: Path) -> None:
    """Each example is YAML, which is built here, or Python, which is executed as a doctest."""
    example = documented(plural, name)
    if example is None:
        assert ">>> " in registry(plural).entry(name).doc, f"show {name} in YAML or in Python"
        return
    key = {"views": "tta", "steps": "steps"}.get(plural) or REGISTRIES[plural][2].partition(",")[0].rpartition(".")[2]
    assert key in example, f"the example is of {', '.join(example)}, not of {key}"
    assert name in named(example[key])
    if plural in ("views", "steps"):
        for spec in as_list(example[key]):
            registry(plural).build(spec)
    elif REGISTRIES[plural][2].startswith("data."):
        if name == "hub":
            pytest.importorskip("datasets")
        ImageDataModule(**{"source": "digits", "image_size": 16, **example})
    elif plural == "distillations":
        DistillationTask(backbone=TINY, teacher=str(trained), **example)
    else:
        facts = DataFacts(FACTS["class_names"], FACTS["class_counts"], image_size=32)
        task = ClassificationTask(**{"backbone": ROOMY, **example}, facts=facts.to_dict(), load_weights=False)
        task.configure_model()
        with torch.no_grad():
            logits = task.model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
        assert torch.isfinite(logits).all()


# ---------------------------------------------------------------- it builds from its defaults


def write_images(root: Path) -> None:
    """Write twenty small JPEGs of two classes, their table, and parquet and tar files with the same images."""
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
    "dataset": lambda root: {
        "dataset": {"name": "torchvision.datasets.FakeData", "size": 40, "image_size": [3, 20, 20], "num_classes": 2}
    },
    "long_tail": lambda root: {"source": {"name": "folder", "root": str(root)}, "imbalance": 2},
    "label_noise": lambda root: {"source": {"name": "folder", "root": str(root)}, "rate": 0.2},
    "subset": lambda root: {"source": {"name": "folder", "root": str(root)}, "fraction": 0.9},
}
"""Minimal spec of each source."""


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
def test_augmentation_uses_given_generator_only(name: str) -> None:
    transform = AUGMENTATIONS.build(name, **{**FACTS, "in_channels": 3})
    images = torch.randint(256, (4, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 0])
    kept = images.clone()

    def changed(seed: int) -> Tensor:
        if isinstance(transform, Transform):
            return transform(images[0], torch.Generator().manual_seed(seed))
        draws = BatchRandom(torch.arange(4), seed)
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
    plain: Any = SCHEDULES.build(name)
    warmed: Any = SCHEDULES.build({"name": name, "warmup": 0.2})
    places = [i / 100 for i in range(101)]
    for schedule in (plain, warmed):
        factors = [schedule(place) for place in places]
        assert all(math.isfinite(factor) and 0 <= factor <= 1 for factor in factors)
    assert plain(0.0) == (plain.warmup_start if plain.warmup else 1.0)  # one that always rises first
    rising = [warmed(place) for place in places[:21]]
    assert rising == sorted(rising)
    assert 0 < rising[0] < 0.1
    assert rising[20] == pytest.approx(1.0)
    assert warmed(1.0) == plain(1.0)


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_optimizer_lowers_loss(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    inputs = torch.randn(60, 6)
    targets = inputs[:, :3].argmax(1)
    optimizer = OPTIMIZERS.build({"name": name, **needed("optimizers", name)}, model=model)

    def closure() -> Any:
        loss: Any = nn.functional.cross_entropy(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        return loss.detach()

    losses = [float(optimizer.step(closure)) for _ in range(30)]
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
"""Registries without a training step here. Backbones have separate tests. Views and compression follow training."""

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


FREEZING = ("lora",)
"""Entries that freeze a part of the network."""

TRAINED = [(plural, name) for plural, name in ENTRIES if plural not in UNTRAINED]


def training_of(plural: str, name: str, trained: Path, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of a small task and of its data that use the entry."""
    assert plural in PLACES, f"say in PLACES where a spec of {plural} stands"
    part, key = PLACES[plural]
    model: dict[str, Any] = {"backbone": TINY, "normalize": "half"}
    data: dict[str, Any] = {"source": "digits", "image_size": 16, "channels": 1, "batch_size": 8, "num_workers": 0}
    spec: Any = {"name": name, **needed(plural, name)}
    if plural == "sources":
        write_images(root)
        spec |= SOURCE_SPECS[name](root)
    if plural == "augmentations":
        square = isinstance(AUGMENTATIONS.build(name, **{**FACTS, "in_channels": 3}), Transform)
        spec = ["resize", spec, "center_crop"] if square else ["resize", "center_crop", spec]
    if plural == "presets":
        spec = name
    if plural == "necks":
        spec |= {"simple_pyramid": {"level": 1}}.get(name, {})  # what halves a map needs one of several pixels
    if plural == "losses":
        model["head"] = getattr(LOSSES.entry(name).factory, "needs_head", "linear")
    if name == "one_cycle":
        spec |= {"final": 0.5}  # the second of two steps is the last one
    if name == "lora":
        model["backbone"] = {**TINY, "zero_init_last": False}  # frozen at 0, a branch gives no gradient
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
    return model, data


def two_steps(
    model: dict[str, Any], data: dict[str, Any], *callbacks: pl.Callback
) -> tuple[ClassificationTask, pl.Trainer]:
    """Train for two steps."""
    task = (DistillationTask if "teacher" in model else ClassificationTask)(**model)
    trainer = pl.Trainer(
        max_steps=2,
        limit_val_batches=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
    )
    trainer.fit(task, datamodule=ImageDataModule(**data))
    assert trainer.global_step == 2
    assert math.isfinite(float(trainer.callback_metrics["train/loss"]))
    return task, trainer


@pytest.mark.parametrize(("plural", "name"), TRAINED)
def test_two_steps_of_training(
    plural: str, name: str, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    model, data = training_of(plural, name, trained, tmp_path)
    watch = Watch()
    task, trainer = two_steps(model, data, watch)
    training = {name: p for name, p in task.named_parameters() if p.requires_grad}
    assert (len(training) < len(list(task.parameters()))) == (name in FREEZING)
    assert set(watch.largest) == set(training)
    assert all(watch.largest[name] > 0 for name in training)
    for key, parameter in training.items():
        assert torch.isfinite(parameter).all(), key
        assert not torch.equal(parameter.detach(), watch.before[key]), key
    if PLACES[plural][0] == "model":
        check_that_it_loads_again(task, trainer, tmp_path / "task.ckpt")


def check_that_it_loads_again(task: ClassificationTask, trainer: pl.Trainer, path: Path) -> None:
    """Check that a checkpoint contains plain data only and restores a task with the same outputs."""
    trainer.save_checkpoint(path)
    held = torch.load(path, weights_only=True)
    assert json.loads(json.dumps(held["hyper_parameters"])) == held["hyper_parameters"]
    again = type(task).load_from_checkpoint(path, weights_only=True)
    images = torch.randint(256, (4, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again.eval()(images), task.eval()(images))


class Burn(pl.Callback):
    """Callback that draws ``n`` random numbers before each step. Functions of the position are independent of it."""

    def __init__(self, count: int) -> None:
        self.count = count

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        torch.rand(self.count)


@pytest.mark.slow
@pytest.mark.parametrize(("plural", "name"), [(p, n) for p, n in TRAINED if PLACES[p][0] == "model"])
def test_training_is_independent_of_random_state(plural: str, name: str, trained: Path, tmp_path: Path) -> None:
    model, data = training_of(plural, name, trained, tmp_path)
    data["train_transforms"] = ["resize", "center_crop", "cutout", "mixup"]
    weights = []
    for count in (0, 3):
        pl.seed_everything(0, verbose=False)
        task, _ = two_steps(model, data, Burn(count), PositionalSeeding())
        weights.append(task.state_dict())
    assert weights[0].keys() == weights[1].keys()
    for key, value in weights[0].items():
        assert torch.equal(value, weights[1][key]), key


PARTS = ("edits", "necks", "poolings", "heads", "initializers")
"""The registries whose entries are a part of a classifier."""


@pytest.mark.parametrize(("plural", "name"), [(p, n) for p, n in ENTRIES if p in PARTS])
def test_a_classifier_with_it_learns_and_takes_bfloat16(plural: str, name: str, trained: Path, tmp_path: Path) -> None:
    model, _ = training_of(plural, name, trained, tmp_path)
    torch.manual_seed(0)
    task = ClassificationTask(**model, facts=DataFacts(FACTS["class_names"], (4, 3, 2, 1), 16, channels=1).to_dict())
    task.configure_model()
    network = task.model
    images = torch.randint(256, (16, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(16) % 4
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.003)
    losses = []
    for _ in range(21):
        torch.manual_seed(0)  # same dropout, so only the step differs
        loss = nn.functional.cross_entropy(network(images), targets)
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    network.eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        half = network(images).float()
    with torch.no_grad():
        whole = network(images)
    assert float((half - whole).abs().max()) < 0.1 * float(whole.abs().max())


def test_all_registries_are_covered() -> None:
    assert {*UNTRAINED, *PLACES, *OTHER} == set(REGISTRIES)
    assert {LOSSES.plural, REGULARIZERS.plural} <= set(PLACES)
