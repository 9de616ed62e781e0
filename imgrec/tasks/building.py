"""BuiltTask: model, loss, regularizers and metrics of a task, built from specs, facts and checkpoints."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, Self

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from imgrec.compress.surgery import rebuild, surgery_of
from imgrec.errors import UserError
from imgrec.export.trained_model import origin_of, refuse_instantiator
from imgrec.models import check_compile, compile_network, set_channels_last
from imgrec.registry import Specs
from imgrec.regularizers import RegularizerSum, build_regularizers, check_regularizers
from imgrec.tasks.compatibility import check_same_classes, check_state_dict
from imgrec.tasks.epoch_metrics import EpochMetrics, Metrics
from imgrec.tasks.plain_batches import facts_of_loader
from imgrec.tasks.strategies import shard
from imgrec.trust import Trust, allow, current, declare, in_own_scope, reading
from imgrec.types import PART_FACTS, DataFacts
from imgrec.utils.seeding import run_seed, seed_defaults

_PARTS = ("loss.", "regularizers.")
"""Prefixes of the tensors of the loss and of the regularizers in the state dict of a task."""


class BuiltTask(pl.LightningModule, ABC):
    """Base class of tasks that builds all parts once, after the facts of the data are available.

    Args:
        regularizers: See :class:`imgrec.tasks.BaseTask`.
        facts: See :class:`imgrec.tasks.BaseTask`.
        load_weights: See :class:`imgrec.tasks.BaseTask`.
        channels_last: See :class:`imgrec.tasks.BaseTask`.
        compile: See :class:`imgrec.tasks.BaseTask`.
        class_names: Names of the classes for a DataLoader without a data module. Defaults to those of its data set.

    Raises:
        UserError: If an argument is invalid.
    """

    model: nn.Module
    loss: nn.Module
    regularizers: RegularizerSum
    image_dtype: str = "any"
    """Type of images that the steps accept, for :class:`imgrec.data.ImageDataModule`: any, uint8 or float32."""
    reads_layers: bool = False
    """True if the loss reads outputs of layers, which traced and compiled models do not provide."""

    def __init__(
        self,
        regularizers: Specs | None,
        facts: dict[str, Any] | None,
        load_weights: bool,
        channels_last: bool | Literal["auto"],
        compile: bool | dict[str, Any],
        class_names: tuple[str, ...] | None = None,
    ) -> None:
        super().__init__()
        self.opened = current()
        self.class_names = class_names
        self.regularizer_specs = regularizers
        self.load_weights = load_weights
        self.channels_last = channels_last
        self.compiling = compile
        self.facts = DataFacts.from_dict(facts) if facts else None
        self._expected: list[dict[str, Any]] = []
        check_regularizers(regularizers, "model.regularizers", PART_FACTS)
        if channels_last not in (True, False, "auto"):
            raise UserError(f"model.channels_last: expected true, false or auto, got {channels_last!r}.")
        check_compile(compile, "model.compile")

    # ---------------------------------------------------------------- parts

    @abstractmethod
    def build_model(self, facts: DataFacts) -> nn.Module:
        """Build the model."""

    @abstractmethod
    def build_loss(self, facts: DataFacts) -> nn.Module:
        """Build the loss, a module with ``forward(logits, targets) -> scalar``."""

    def build_regularizers(self, facts: DataFacts) -> RegularizerSum:
        """Build the penalties that are added to the loss."""
        return build_regularizers(self.regularizer_specs, "model.regularizers", **self.part_facts(facts))

    def part_facts(self, facts: DataFacts) -> dict[str, Any]:
        """Return the facts of the data and of the built model for the constructors of losses and regularizers.

        The facts of the model are ``feature_dim`` and, for a cosine head with a fixed scale, ``logit_scale``. They
        are absent if a custom model does not have them.
        """
        dim = getattr(self.model, "feature_dim", None)
        scale = getattr(getattr(self.model, "head", None), "logit_scale", None)
        known = {"feature_dim": dim} if isinstance(dim, int) else {}
        return {**facts.for_registry(), **known, **({"logit_scale": scale} if isinstance(scale, float) else {})}

    @abstractmethod
    def build_metrics(self, facts: DataFacts) -> Metrics:
        """Return the metrics of validation and test.

        Returns:
            An argument of :class:`imgrec.tasks.epoch_metrics.EpochMetrics`, for example a function of all logits
            ``(samples, num_classes)`` and targets ``(samples,)``. The function returns numbers by name.
        """

    # ---------------------------------------------------------------- from the data to the model

    def setup(self, stage: str) -> None:
        """Store the facts of the data module.

        Raises:
            UserError: If the model was trained on other classes or channels than the data has.
        """
        facts = self._facts_of_data()
        if facts is None:
            return
        if self.facts is not None:
            check_same_classes(self.facts, facts, "this model")
        if self.facts is None or stage == "fit":
            self._set_facts(facts)

    @in_own_scope
    def configure_model(self) -> None:
        """Build the model, the loss, the regularizers and the metrics once, with random numbers seeded by position.

        Raises:
            UserError: If the task has no facts, or if a part does not support the strategy.
        """
        if hasattr(self, "model"):
            return
        if self.facts is None and (facts := self._facts_of_data()) is not None:
            self._set_facts(facts)  # a callback may require the model before `setup`: WeightAveraging of Lightning
        if self.facts is None:
            raise UserError(
                "task: expected facts of the data before the model is built, got none. Fit the task with an "
                "imgrec.ImageDataModule or a DataLoader, or pass facts=datamodule.facts.to_dict()."
            )
        seed_defaults(run_seed(), "initialization")
        self.model = self._compiled(self._operated(self.build_model(self.facts), self._expected))
        if self._device_mesh is not None:
            strategy: Any = self.trainer.strategy
            if strategy._layer_sync is not None:
                self.model = strategy._layer_sync.apply(self.model)
            shard(self.model, self._device_mesh["data_parallel"])
        self.loss = self.build_loss(self.facts)
        self.regularizers = self.build_regularizers(self.facts)
        self.regularizers.check_model(self.model)
        self.metrics = EpochMetrics(self.build_metrics(self.facts))
        if self._device_mesh is not None and self.no_weight_decay():
            raise UserError(
                "trainer.strategy: fsdp2 shards the model only. Parameters of a loss or a regularizer "
                f"({min(self.no_weight_decay())}) would differ between processes. Use strategy: ddp."
            )

    def no_weight_decay(self) -> set[str]:
        """Return the names of the parameters of the loss and of the regularizers, for example class centers.

        They are trained with the model, have no weight decay, are in the checkpoint, and are not exported.
        """
        return {name for name, _ in self.named_parameters() if name.startswith(_PARTS)}

    def prepare_for_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Set the architecture of a checkpoint, so that the model is built with its shapes and without weights.

        Call it before the model is built. Callbacks may copy the model before the checkpoint is loaded.
        """
        self.load_weights = False
        self._expected = read_surgery(checkpoint)

    def _compiled(self, model: nn.Module) -> nn.Module:
        if self.channels_last is True:
            set_channels_last(model)
        compile_network(model, self.compiling)
        return model

    def _apply_surgery(self, steps: list[dict[str, Any]]) -> None:
        """Change the built model to the architecture that the surgery steps of a checkpoint describe."""
        assert self.facts is not None
        if surgery_of(self.model) == steps:
            return
        if self._device_mesh is not None:
            raise UserError("trainer.strategy: fsdp2 does not support a pruned model. Use strategy: ddp.")
        model, loads = self.model, self.load_weights
        if surgery_of(model):  # surgery cannot be reverted, so that the model is built again
            self.load_weights = False
            with torch.random.fork_rng(devices=[]):
                model = self.build_model(self.facts)
            self.load_weights = loads
        device = next(self.model.parameters()).device
        self.model = self._compiled(self._operated(model, steps).to(device))

    def _operated(self, model: nn.Module, steps: list[dict[str, Any]]) -> nn.Module:
        return rebuild(model, steps, "the checkpoint's record of surgery") if steps else model

    def _facts_of_data(self) -> DataFacts | None:
        facts = getattr(getattr(self._trainer, "datamodule", None), "facts", None)
        if isinstance(facts, DataFacts):
            return facts
        return facts_of_loader(self._trainer, self.class_names) if self._trainer and self.facts is None else None

    def _set_facts(self, facts: DataFacts) -> None:
        self.facts = facts
        self.hparams["facts"] = facts.to_dict()

    # ---------------------------------------------------------------- checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *given: Any, trust: Trust = None, **named: Any) -> Self:
        """Load the task of a checkpoint whose hyper-parameters contain names of registered entries only.

        Args:
            checkpoint_path: Path of a ``.ckpt`` file.
            trust: Names of further classes and modules that may be imported. ``True`` allows every name. Defaults to
                None.
            *given: Positional arguments of the method of Lightning.
            **named: Keyword arguments of that method, and arguments of the task that replace those of the checkpoint.

        Raises:
            UserError: If the file cannot be read, or names a class that is neither registered nor trusted.
        """
        declare(cls)
        with reading(origin_of(checkpoint_path), trust):
            allow(named)
            refuse_instantiator(checkpoint_path)
            found: Self = super().load_from_checkpoint(checkpoint_path, *given, **{"weights_only": True, **named})
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the class of the task, the fingerprint of the data and the surgery of the model."""
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]["load_weights"] = False
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["imgrec"] = {
            "task": _class_path(self),
            "data": _class_path(data) if data is not None else None,
            "data_fingerprint": getattr(data, "fingerprint", None),
            "surgery": surgery_of(self.model),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Apply the surgery of a checkpoint to the model.

        Raises:
            UserError: If the checkpoint is of other classes or of another architecture.
        """
        theirs = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("facts")
        if theirs and self.facts:
            check_same_classes(DataFacts.from_dict(theirs), self.facts, "the checkpoint")
        self._apply_surgery(read_surgery(checkpoint))
        if checkpoint.get("state_dict") and not self._fitting:
            self._match_parts(checkpoint["state_dict"])
        if checkpoint.get("state_dict"):  # a sharding strategy loads the weights itself and omits them here
            check_state_dict(checkpoint["state_dict"], self.state_dict())

    @property
    def _fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def _match_parts(self, state: dict[str, Tensor]) -> None:
        """Accept a state dict of another loss or other regularizers for evaluation.

        Their additional tensors are removed, and missing ones are filled from this task.
        """
        own = {name: value for name, value in self.state_dict().items() if name.startswith(_PARTS)}
        for name in [name for name in state if name.startswith(_PARTS) and name not in own]:
            del state[name]
        for name, value in own.items():
            state.setdefault(name, value)


def read_surgery(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the surgery steps that a checkpoint contains, an empty list for a model without surgery."""
    steps: list[dict[str, Any]] = checkpoint.get("imgrec", {}).get("surgery", [])
    return steps


def _class_path(part: object) -> str:
    """Return the dotted path of a class, with a short path such as ``imgrec.ClassificationTask`` for a public class."""
    cls = type(part)
    public = getattr(import_module("imgrec"), cls.__qualname__, None)
    return f"imgrec.{cls.__qualname__}" if public is cls else f"{cls.__module__}.{cls.__qualname__}"
