"""Freeze and GradualUnfreezing: unchanged weights, the step of the thaw, and a bit-equal resume."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import BackboneFinetuning
from torch import Tensor, nn

from imgrec import EMA, QAT, ClassificationTask, Freeze, GradualUnfreezing, NaNGuard, Pruning, StructuredPruning
from imgrec.callbacks.finetuning.base import Freezing
from imgrec.errors import UserError
from tests.callbacks.small_training import BACKBONE, digits, in_two_parts, same, task, trainer

STEPS = 12


class Watching(pl.Callback):
    """Recorder of the names of trained parameters and batch norms at each step."""

    def __init__(self) -> None:
        self.trains: list[set[str]] = []
        self.norms: list[set[str]] = []

    def on_before_zero_grad(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        model: Any = pl_module.model
        self.trains.append({name for name, p in model.named_parameters() if p.requires_grad})
        norms = {name: each for name, each in model.named_modules() if isinstance(each, nn.BatchNorm2d)}
        self.norms.append({name for name, each in norms.items() if each.training})


def fit(place: Path, *callbacks: pl.Callback, of: ClassificationTask | None = None, **options: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    made = trainer(place, callbacks, enable_checkpointing=False, **options)
    made.fit(task() if of is None else of, datamodule=digits())
    return made


def state_of(made: pl.Trainer) -> dict[str, Tensor]:
    model: Any = made.lightning_module.model
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def begun() -> dict[str, Tensor]:
    """Return the state of the model before the first step."""
    pl.seed_everything(0, verbose=False)
    return dict(built().model.state_dict())


# ------------------------------------------------------------------ what is frozen stays as it is


@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "lamb"])
def test_frozen_weights_are_bit_equal_with_any_optimizer(
    optimizer: str, begun: dict[str, Tensor], tmp_path: Path
) -> None:
    """Weight decay, momentum and batch statistics do not change them either."""
    spec = {"name": optimizer, "lr": 0.1, "weight_decay": 0.1, "decay_norm_and_bias": True}
    ended = state_of(fit(tmp_path, Freeze("backbone"), of=task(optimizer=spec), max_epochs=1))
    for name, value in ended.items():
        assert torch.equal(value, begun[name]) == (not name.startswith("head.")), name


def test_frozen_backbone_computes_the_features_of_evaluation(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    class Look(pl.Callback):
        def on_train_batch_start(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
        ) -> None:
            model: Any = pl_module.model
            if len(seen) < 2:
                seen.append(model.forward_features(batch.images).detach())
                modes = {module: module.training for module in model.modules()}
                seen.append(model.eval().forward_features(batch.images).detach())
                for module, mode in modes.items():
                    module.training = mode

    plain = {**BACKBONE, "drop_rate": 0.0}
    fit(tmp_path, Freeze("backbone"), Look(), of=task(backbone=plain), max_epochs=1, limit_train_batches=1)
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("policy", ["frozen", "statistics", "trained"])
def test_batch_norm_follows_its_policy(policy: Any, begun: dict[str, Tensor], tmp_path: Path) -> None:
    ended = state_of(fit(tmp_path, Freeze("backbone", batch_norm=policy), max_epochs=1))
    moved = {name for name, value in ended.items() if not torch.equal(value, begun[name])}
    statistics = any(name.endswith("running_var") for name in moved)
    weights = any(re.search(r"bn\d\.weight$", name) for name in moved)
    assert (statistics, weights) == {"frozen": (False, False), "statistics": (True, False), "trained": (True, True)}[
        policy
    ]
    assert not any("conv" in name for name in moved)
    assert "head.linear.weight" in moved


# ------------------------------------------------------------------ when it thaws


def test_frozen_part_trains_from_a_fraction_of_training(tmp_path: Path) -> None:
    watch = Watching()
    fit(tmp_path, Freeze("backbone", until=0.5), watch)
    everything = {name for name, _ in built().model.named_parameters()}
    head = {"head.linear.weight", "head.linear.bias"}
    assert watch.trains == [head] * 6 + [everything] * 6
    assert [len(norms) for norms in watch.norms] == [0] * 6 + [len(watch.norms[-1])] * 6
    assert len(watch.norms[-1]) > 3


def test_frozen_part_trains_after_epochs_between_two_accumulations(tmp_path: Path) -> None:
    watch = Watching()
    fit(tmp_path, Freeze("layer4", epochs=1), watch, accumulate_grad_batches=2)
    assert ["layer4" in " ".join(names) for names in watch.trains] == [False] * 3 + [True] * 3


def test_stages_are_unfrozen_from_the_head_backwards(tmp_path: Path) -> None:
    watch = Watching()
    fit(tmp_path, GradualUnfreezing(start=0.25, end=0.75), watch)
    stages = [sorted({name.split(".")[2] for name in names if name.startswith("backbone")}) for names in watch.trains]
    counts = [len(each) for each in stages]
    # at 3, 4.5, 6, 7.5 and 9 of 12 steps: layer4, layer3, layer2, layer1, and conv1 with bn1
    assert counts == [0, 0, 0, 1, 2, 2, 3, 3, 4, 6, 6, 6]
    assert stages[3] == ["layer4"]
    assert stages[8] == ["layer1", "layer2", "layer3", "layer4"]


def test_named_stages_are_unfrozen_in_their_order(tmp_path: Path) -> None:
    watch = Watching()
    stages: list[str | list[str]] = ["layer1", ["layer2", "layer4.0.conv*"]]
    fit(tmp_path, GradualUnfreezing(every_n_epochs=1, stages=stages), watch, max_epochs=4, limit_train_batches=1)
    short = [
        {name.removeprefix("backbone.network.")[:6] for name in names if "layer" in name} for names in watch.trains
    ]
    assert short[:3] == [set(), {"layer1"}, {"layer1", "layer2", "layer4"}]
    assert "backbone.network.layer4.0.bn1.weight" not in watch.trains[2]
    assert watch.trains[3] == {name for name, _ in built().model.named_parameters()}


def test_too_few_epochs_for_all_stages_warn(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fit(tmp_path, GradualUnfreezing(every_n_epochs=1), limit_train_batches=1)
    assert "5 stages, one every 1 epoch(s), do not fit in 2 epochs" in caplog.text


def test_several_callbacks_freeze_the_union(tmp_path: Path) -> None:
    watch = Watching()
    fit(
        tmp_path,
        Freeze(["conv1", "bn1"]),
        GradualUnfreezing(start=0.25, end=0.5),
        Freeze("head.linear.bias", until=0.25),
        watch,
    )
    assert not any("backbone.network.conv1.weight" in names for names in watch.trains)
    assert ["head.linear.bias" in names for names in watch.trains] == [False] * 3 + [True] * 9
    assert ["backbone.network.layer1.0.conv1.weight" in names for names in watch.trains][-6:] == [True] * 6


def test_unfrozen_part_has_its_learning_rate_and_new_moments(tmp_path: Path) -> None:
    optimizer = {"name": "adamw", "lr": 0.01, "layer_decay": 0.5}
    with_it = fit(tmp_path, Freeze("backbone", until=0.5), of=task(optimizer=optimizer))
    without = fit(tmp_path, of=task(optimizer=optimizer))
    groups = [
        [{k: v for k, v in group.items() if k != "params"} for group in made.optimizers[0].param_groups]
        for made in (with_it, without)
    ]
    assert groups[0] == groups[1]
    states = {
        name: int(with_it.optimizers[0].state[parameter]["step"])
        for name, parameter in with_it.lightning_module.named_parameters()
    }
    assert {count for name, count in states.items() if "head" in name} == {STEPS}
    assert {count for name, count in states.items() if "backbone" in name} == {STEPS // 2}


# ------------------------------------------------------------------ a resumed run

WAYS: dict[str, Callable[[], list[pl.Callback]]] = {
    "for good": lambda: [Freeze("backbone")],
    "for a while": lambda: [Freeze("backbone", until=0.5, batch_norm="statistics")],
    "by stages": lambda: [GradualUnfreezing(start=0.1, end=0.8), EMA(decay=0.5), NaNGuard()],
    "by epochs, and some for good": lambda: [Freeze("layer1", epochs=1), Freeze(None, all_but=["head", "*.bias"])],
}


@pytest.mark.parametrize(
    ("way", "at_step"),
    [("for good", 4), ("for a while", 5), ("for a while", 6), ("by stages", 7), ("by epochs, and some for good", 9)],
)
def test_a_resumed_run_ends_in_the_same_bits(way: str, at_step: int, tmp_path: Path) -> None:
    whole, resumed = in_two_parts(tmp_path, WAYS[way], at_step)
    for part in ("state_dict", "optimizer_states", "lr_schedulers"):
        assert same(whole[part], resumed[part]), part


# ------------------------------------------------------------------ beside others


@pytest.mark.slow
def test_masks_and_int8_start_after_unfreezing(tmp_path: Path) -> None:
    later = [Pruning(sparsity=0.5, start=0.4, end=0.6), QAT(start=0.6, freeze_observers=0.9, freeze_batchnorm=0.9)]
    watch = Freeze("backbone", until=0.3)
    made = fit(tmp_path, watch, *later, EMA(decay=0.5))
    assert all(parameter.requires_grad for parameter in made.lightning_module.parameters())
    assert type(made.lightning_module.model).__name__ == "QuantizedClassifier"


@pytest.mark.slow
def test_resume_after_masks_and_int8_is_bit_equal(tmp_path: Path) -> None:
    """The quantized model has other names of parameters."""

    def both() -> list[pl.Callback]:
        return [GradualUnfreezing(start=0.1, end=0.4), QAT(start=0.5, freeze_observers=0.9, freeze_batchnorm=0.9)]

    whole, resumed = in_two_parts(tmp_path, both, 9)
    assert same(whole["state_dict"], resumed["state_dict"])
    assert same(whole["optimizer_states"], resumed["optimizer_states"])


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (lambda: Pruning(sparsity=0.5, start=0.4), "Pruning"),
        (lambda: QAT(start=0.5), "QAT"),
        (lambda: StructuredPruning(start=0.1, end=0.9), "StructuredPruning"),
    ],
)
def test_model_change_while_frozen_raises(other: Callable[[], pl.Callback], name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"expected {name} to start after Freeze unfroze"):
        fit(tmp_path, Freeze("backbone", until=0.5), other())


@pytest.mark.parametrize("fails", [False, True])
def test_model_is_restored_after_training(fails: bool, tmp_path: Path) -> None:
    class Fails(pl.Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            raise RuntimeError("no more")

    made = task()
    if fails:
        with pytest.raises(RuntimeError, match="no more"):
            fit(tmp_path, Freeze("backbone"), Fails(), of=made, max_epochs=1)
    else:
        fit(tmp_path, Freeze("backbone"), of=made, max_epochs=1)
    assert all(parameter.requires_grad for parameter in made.parameters())
    assert all(module.training for module in made.modules() if isinstance(module, nn.BatchNorm2d))


# ------------------------------------------------------------------ what is refused


def test_lightning_finetuning_raises(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected Freeze alone, got BackboneFinetuning"):
        fit(tmp_path, Freeze("backbone"), BackboneFinetuning())


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (lambda: [Freeze("layer5")], 'Freeze.scope: the pattern "layer5" matches no parameter. Did you mean "layer'),
        (lambda: [Freeze(None)], "everything freezes every parameter"),
        (lambda: [Freeze(["backbone", "head.*"])], "backbone, head.* freezes every parameter"),
        (lambda: [Freeze("head", all_but="*.bias"), Freeze("backbone"), Freeze("head.linear.bias")], "Freeze together"),
        (lambda: [Freeze("backbone", all_but="fc")], 'all_but: the pattern "fc" matches no parameter'),
        (lambda: [Freeze("head", all_but="head")], "head except head selects no parameter to freeze"),
        (
            lambda: [GradualUnfreezing(stages=["layer4", "layer4.0"])],
            r"stages\[1\]: layer4.0 matches no parameter that is frozen",
        ),
        (lambda: [GradualUnfreezing(stages=["layer9"])], r'stages\[0\]: the pattern "layer9" matches no parameter'),
        (lambda: [GradualUnfreezing("layer4")], "expected at least two stages"),
    ],
)
def test_invalid_scope_raises_before_the_first_step(
    callbacks: Callable[[], list[Freezing]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message.replace(".*", r"\.\*") if "[" not in message else message):
        fit(tmp_path, *callbacks())


def built() -> ClassificationTask:
    """Return the task with its model, as in a trainer."""
    facts = {"class_names": list("0123456789"), "class_counts": [1] * 10, "image_size": 16, "channels": 1}
    made = task(facts=facts)
    made.configure_model()
    return made
