"""Contract tests of all entries: a resumed training equals an uninterrupted one bit for bit.

Each test runs in one process, with two steps before and two after the checkpoint, within one epoch. The soak tests kill
processes that run complete configs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from imgrec import ClassificationTask, DistillationTask, ImageDataModule
from imgrec import callbacks as own_callbacks
from imgrec.augment import AUGMENTATIONS
from imgrec.callbacks import LastCheckpoint, PositionalSeeding, ResumeState
from imgrec.data import SAMPLERS
from imgrec.losses import DISTILLATIONS, LOSSES
from imgrec.models import HEADS
from imgrec.optim import OPTIMIZERS, SCHEDULES
from imgrec.regularizers import REGULARIZERS
from tests.soak.harness import unlike, without_place

BACKBONE = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8], "stem_width": 8, "drop_rate": 0.1}
STEPS = 4

DROPPING = {"name": "linear", "dropout": 0.3}
WRAPPED = {"base": {"name": "nesterov", "lr": 0.01}}


def optimizer(name: str) -> dict[str, Any]:
    """Return the spec of the optimizer, with a base optimizer if it is a wrapper."""
    return {"name": name, **(WRAPPED if "base" in OPTIMIZERS.entry(name).parameters else {"lr": 0.01})}


def head(loss: str) -> str:
    """Return the head that a loss requires."""
    return getattr(LOSSES.entry(loss).factory, "needs_head", None) or "linear"


ENTRIES: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    *(("loss", name, {"loss": name, "head": head(name)}, {}) for name in LOSSES.names()),
    *(
        ("regularizer", name, {"regularizers": {"name": name, "weight": 0.01}, "head": DROPPING}, {})
        for name in REGULARIZERS.names()
    ),
    *(("head", name, {"head": name}, {}) for name in HEADS.names()),
    *(("optimizer", name, {"optimizer": optimizer(name)}, {}) for name in OPTIMIZERS.names()),
    *(("schedule", name, {"schedule": {"name": name, "warmup": 0.3}}, {}) for name in SCHEDULES.names()),
    *(("augmentation", name, {}, {"train_transforms": name, "channels": 3}) for name in AUGMENTATIONS.names()),
    *(("sampler", name, {}, {"sampler": name}) for name in SAMPLERS.names()),
]
LAYERS = {"attention": {"layers": {"layer1": "layer2"}}}
"""Required arguments of a distillation."""

CALLBACKS: dict[str, dict[str, Any]] = {
    "EMA": {"decay": 0.5},
    "EarlyStopping": {"monitor": "val/loss"},
    "NaNGuard": {},
    "AugmentationStrength": {"start": 0.2},
    "Freeze": {"scope": ["backbone"], "until": 0.75},
    "GradualUnfreezing": {"start": 0.1, "end": 0.8},
    "ImageSizeSchedule": {},
    "LayerStatistics": {"every_n_steps": 1},
    "StructuredPruning": {"target": {"parameters": 0.7}, "start": 0.3, "end": 0.8, "rounds": 2},
    "Pruning": {"sparsity": 0.8, "criterion": "movement", "start": 0.0, "end": 0.8},
}
"""Callbacks that affect training, with their arguments."""


def train(
    folder: Path, model: dict[str, Any], data: dict[str, Any], callbacks: list[pl.Callback], resume: Path | None = None
) -> dict[str, Any]:
    """Return the state after training. ``last-2.ckpt`` is the checkpoint after two steps."""
    pl.seed_everything(0, verbose=False)
    kind = DistillationTask if "teacher" in model else ClassificationTask
    task = kind(**{"backbone": BACKBONE, "normalize": "half", **model})
    module = ImageDataModule("digits", **{"channels": 1, "batch_size": 16, "num_workers": 0, **data})
    trainer = pl.Trainer(
        max_epochs=1,
        limit_train_batches=STEPS,
        limit_val_batches=0 if not callbacks else 1,
        num_sanity_val_steps=0,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            ResumeState(),
            LastCheckpoint(every_steps=2, keep=3, dirpath=str(folder)),
            PositionalSeeding(),
            *callbacks,
        ],
    )
    trainer.fit(task, module, ckpt_path=resume, weights_only=True)
    found: dict[str, Any] = torch.load(folder / "last.ckpt", weights_only=True)
    assert found["global_step"] == STEPS
    return found


def check(folder: Path, model: dict[str, Any], data: dict[str, Any], make: Any = list) -> None:
    whole = train(folder / "whole", model, data, make())
    middle = folder / "whole/last-2.ckpt"
    assert torch.load(middle, weights_only=True)["global_step"] == 2
    resumed = train(folder / "resumed", model, data, make(), middle)
    whole, resumed = without_place(whole, ""), without_place(resumed, "")
    begun = torch.load(middle, weights_only=True)
    assert unlike(begun["state_dict"], whole["state_dict"]) != []  # something was learnt since
    assert unlike(whole, resumed) == []


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name", "model", "data"), ENTRIES, ids=[f"{e[0]}-{e[1]}" for e in ENTRIES])
def test_every_entry_resumes_exactly(
    kind: str, name: str, model: dict[str, Any], data: dict[str, Any], tmp_path: Path
) -> None:
    check(tmp_path, model, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", DISTILLATIONS.names())
def test_every_distillation_resumes_exactly(name: str, trained: Path, tmp_path: Path) -> None:
    spec = {"name": name, **LAYERS.get(name, {})}
    check(tmp_path, {"teacher": str(trained), "distillation": spec}, {"train_transforms": ["cutout", "mixup"]})


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLBACKS)
def test_every_callback_resumes_exactly(name: str, tmp_path: Path) -> None:
    kind = getattr(own_callbacks, name)
    check(tmp_path, {}, {"train_transforms": ["cutout", "mixup"]}, lambda: [kind(**CALLBACKS[name])])
