"""How a task comes to its network, loss, regularizers and metrics: from specs, from data, and from a checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
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
from imgrec.tasks.compatibility import refuse_other_architecture, refuse_other_classes
from imgrec.tasks.epoch_metrics import EpochMetrics, Metrics
from imgrec.tasks.plain_batches import facts_of_loader
from imgrec.tasks.strategies import shard
from imgrec.trust import Trust, allow, current, declare, in_own_scope, reading
from imgrec.types import PART_FACTS, DataFacts
from imgrec.utils.seeding import run_seed, seed_defaults

_PARTS = ("loss.", "regularizers.")
"""Where the tensors of the loss and of the regularizers stand in a task's state dict."""


class BuiltTask(pl.LightningModule, ABC):
    """What a task is made of, built once the data is known, or as a checkpoint has it.

    Args:
        regularizers: see :class:`imgrec.tasks.BaseTask`, as for the others.
        facts: what the data said; left out, the data module is asked.
        load_weights: whether the specs' pretrained weights are loaded.
        channels_last: the order of weights and images in memory.
        compile: whether, and how, the network is compiled.
        class_names: Names of the classes for a DataLoader without a data module. Defaults to those of its data set.
    """

    model: nn.Module
    loss: nn.Module
    regularizers: RegularizerSum
    image_dtype: str = "any"
    """Images that the steps accept, for :class:`imgrec.data.ImageDataModule`: ``any``, ``uint8`` or ``float32``."""
    reads_layers: bool = False
    """Whether the loss reads what single layers give, which a traced or compiled network does not show."""

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
            raise UserError(f"model.channels_last: accepted are true, false and auto, got {channels_last!r}.")
        check_compile(compile, "model.compile")

    # ---------------------------------------------------------------- the parts

    @abstractmethod
    def build_model(self, facts: DataFacts) -> nn.Module:
        """The network."""

    @abstractmethod
    def build_loss(self, facts: DataFacts) -> nn.Module:
        """What is minimised: ``forward(logits, targets) -> scalar``."""

    def build_regularizers(self, facts: DataFacts) -> RegularizerSum:
        """The penalties added to the loss."""
        return build_regularizers(self.regularizer_specs, "model.regularizers", **self.part_facts(facts))

    def part_facts(self, facts: DataFacts) -> dict[str, Any]:
        """What the constructor of a loss or a regularizer may name: what the data says, and what the network does.

        That is ``feature_dim`` and, of a cosine head with a fixed scale, ``logit_scale``. The network is built by then;
        one of a researcher's own that has neither gives neither.
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
        """Take the facts of the data module; refuse data of other classes than this task was built for."""
        facts = self._facts_of_data()
        if facts is None:
            return
        if self.facts is not None:
            refuse_other_classes(self.facts, facts, "this model")
        if self.facts is None or stage == "fit":
            self._adopt(facts)

    @in_own_scope
    def configure_model(self) -> None:
        """Build the network, the loss, the regularizers and the metrics, once; seeded by position."""
        if hasattr(self, "model"):
            return
        if self.facts is None and (facts := self._facts_of_data()) is not None:
            self._adopt(facts)  # a callback may ask for the model before `setup`, as Lightning's WeightAveraging does
        if self.facts is None:
            raise UserError(
                "task: expected facts of the data before the model is built, got none. Fit the task with an "
                "imgrec.ImageDataModule or a DataLoader, or pass facts=datamodule.facts.to_dict()."
            )
        seed_defaults(run_seed(), "initialization")
        self.model = self._laid_out(self._pruned(self.build_model(self.facts), self._expected))
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
                "trainer.strategy: fsdp2 shares out the network alone, and what a loss or a regularizer learns itself "
                f"({min(self.no_weight_decay())}) would differ between processes: take strategy: ddp."
            )

    def no_weight_decay(self) -> set[str]:
        """The parameters that the loss and the regularizers own (centres, say): they train with the network's.

        They have no weight decay, are in the checkpoint, and are not exported.
        """
        return {name for name, _ in self.named_parameters() if name.startswith(_PARTS)}

    def expect(self, checkpoint: Mapping[str, Any]) -> None:
        """Have the network built, without weights to start from, as the checkpoint has it that is loaded afterwards.

        Callbacks that copy the network before the checkpoint is loaded copy one of the right shapes then.
        """
        self.load_weights = False
        self._expected = surgery_in(checkpoint)

    def _laid_out(self, model: nn.Module) -> nn.Module:
        if self.channels_last is True:
            set_channels_last(model)
        compile_network(model, self.compiling)
        return model

    def _operate(self, steps: list[dict[str, Any]]) -> None:
        """Make the network, which is built, the one that a checkpoint's record of surgery describes."""
        assert self.facts is not None
        if surgery_of(self.model) == steps:
            return
        if self._device_mesh is not None:
            raise UserError("trainer.strategy: a network that was pruned cannot be shared out over devices yet.")
        model, loads = self.model, self.load_weights
        if surgery_of(model):  # there is no way back from surgery: the network as its specs build it
            self.load_weights = False
            with torch.random.fork_rng(devices=[]):
                model = self.build_model(self.facts)
            self.load_weights = loads
        device = next(self.model.parameters()).device
        self.model = self._laid_out(self._pruned(model, steps).to(device))

    def _pruned(self, model: nn.Module, steps: list[dict[str, Any]]) -> nn.Module:
        return rebuild(model, steps, "the checkpoint's record of surgery") if steps else model

    def _facts_of_data(self) -> DataFacts | None:
        facts = getattr(getattr(self._trainer, "datamodule", None), "facts", None)
        if isinstance(facts, DataFacts):
            return facts
        return facts_of_loader(self._trainer, self.class_names) if self._trainer and self.facts is None else None

    def _adopt(self, facts: DataFacts) -> None:
        self.facts = facts
        self.hparams["facts"] = facts.to_dict()

    # ---------------------------------------------------------------- checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *given: Any, trust: Trust = None, **named: Any) -> Self:
        """Return the task of a checkpoint, as Lightning does; its hyper-parameters name registered entries only.

        Args:
            checkpoint_path: a ``.ckpt`` file.
            trust: names of classes and modules that may be imported in addition; ``True`` allows every name.
            *given: the positional arguments of Lightning's method.
            **named: its other arguments, and arguments of the task that replace those of the
                checkpoint.

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
        """Say which class this is, and that its weights are here already."""
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]["load_weights"] = False
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        checkpoint["imgrec"] = {
            "task": _path(self),
            "data": _path(data) if data is not None else None,
            "data_fingerprint": getattr(data, "fingerprint", None),
            "surgery": surgery_of(self.model),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other classes or of another architecture; become as pruned as it is."""
        theirs = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("facts")
        if theirs and self.facts:
            refuse_other_classes(DataFacts.from_dict(theirs), self.facts, "the checkpoint")
        self._operate(surgery_in(checkpoint))
        if checkpoint.get("state_dict") and not self._fitting:
            self._take_parts(checkpoint["state_dict"])
        if checkpoint.get("state_dict"):  # a strategy that shards has loaded it itself, and leaves it out
            refuse_other_architecture(checkpoint["state_dict"], self.state_dict())

    @property
    def _fitting(self) -> bool:
        return self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING

    def _take_parts(self, state: dict[str, Tensor]) -> None:
        """Where nothing is trained, what another loss or other regularizers had learnt may be missing or too much."""
        own = {name: value for name, value in self.state_dict().items() if name.startswith(_PARTS)}
        for name in [name for name in state if name.startswith(_PARTS) and name not in own]:
            del state[name]
        for name, value in own.items():
            state.setdefault(name, value)


def surgery_in(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The record of surgery in a checkpoint; empty where it holds none."""
    steps: list[dict[str, Any]] = checkpoint.get("imgrec", {}).get("surgery", [])
    return steps


def _path(part: object) -> str:
    return f"{type(part).__module__}.{type(part).__qualname__}"
