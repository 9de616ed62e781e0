"""DistillationTask: training with the labels and the outputs of a teacher model."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from imgrec.errors import UserError
from imgrec.losses import Distillation, DistillationSum, Signals, build_distillations, check_distillations
from imgrec.losses.base import in_range
from imgrec.models.utils.forward import evaluating
from imgrec.models.utils.layers import LayerOutputs, find_layers
from imgrec.registry import Spec, Specs
from imgrec.tasks.classification import ClassificationTask
from imgrec.tasks.teacher import Teacher, check_teacher, read_teacher
from imgrec.types import Batch, DataFacts, StepOutput
from imgrec.utils.ranges import NonNegativeFloat
from imgrec.utils.seeding import run_seed, seed_defaults

logger = logging.getLogger(__name__)

_WHERE = "model.distillation"
_PREFIX = "distillation."


class DistillationTask(ClassificationTask):
    """Task for knowledge distillation from the logits, features or attention maps of a teacher.

    The objective is ``label_weight`` times the loss on the labels plus the weighted sum of the distillation losses. The
    teacher receives the same augmented and mixed batch as the student. It is required for training only and is stored
    neither in checkpoints nor in the model folder.

    Args:
        teacher: Run folder, checkpoint or model folder of a model with the same classes. Its architecture and image
            size may differ. For distillation of features, also the spec of a backbone with ``pretrained`` or
            ``weights``.
        distillation: Specs of :data:`imgrec.losses.DISTILLATIONS`, each with an optional ``weight``, 1 by default.
            Defaults to ``logits``.
        label_weight: Weight of the loss on the labels, >= 0. 0 disables it. Defaults to 0.1.
        teacher_bf16: True to run the teacher in bfloat16 (autocast), independent of the precision of the student.
            Defaults to False.
        **kwargs: Arguments of :class:`ClassificationTask`, for the student.

    Raises:
        UserError: If an argument is invalid, or if the teacher does not exist.

    Example::

        model:
          class_path: imgrec.DistillationTask
          init_args:
            teacher: runs/sign_digits/finetune_lite0/20261122-101500
            distillation: {name: logits, temperature: 4, weight: 0.9}
            backbone: resnet18

    Sources: Hinton, Vinyals and Dean, 2015, "Distilling the knowledge in a neural network", arXiv 1503.02531. Beyer et
    al., 2022, "Knowledge distillation: a good teacher is patient and consistent", arXiv 2106.05237 (the same batch for
    both).
    """

    distillation: DistillationSum

    def __init__(
        self,
        teacher: Spec,
        distillation: Specs = "logits",
        label_weight: NonNegativeFloat = 0.1,
        teacher_bf16: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.teacher_spec = teacher
        self.distillation_specs = distillation
        self.teacher_bf16 = teacher_bf16
        self.label_weight = in_range("model.label_weight", label_weight)
        check_distillations(distillation, _WHERE)
        self._teacher: Teacher | None = None
        self._layers: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._counts: tuple[int, ...] = ()
        self._maps: tuple[Tensor, ...] = ()
        kinds = [kind for _, kind in build_distillations(distillation, _WHERE).named_kinds]
        self.reads_layers = any(kind.layers for kind in kinds)
        if self.compiling is not False and self.reads_layers:
            raise UserError(
                "model.compile: expected false, because model.distillation reads outputs of layers, which a compiled "
                "model does not provide."
            )
        if self.load_weights:
            check_teacher(teacher, any(kind.needs_logits for kind in kinds))

    # ---------------------------------------------------------------- the teacher

    def setup(self, stage: str) -> None:
        """Load the teacher before training."""
        super().setup(stage)
        if stage == TrainerFn.FITTING and self.facts is not None:
            rank_zero_only(logger.info)(f"model.teacher: {self._load_teacher(self.facts)}")

    def configure_model(self) -> None:
        """Build the student and the adapters of the distillation losses. Evaluation requires no teacher."""
        if hasattr(self, "model"):
            return
        super().configure_model()
        assert self.facts is not None
        self.distillation = build_distillations(self.distillation_specs, _WHERE, **self.facts.for_registry())
        fitting = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if fitting or self.load_weights:
            self._attach_teacher()

    def _load_teacher(self, facts: DataFacts) -> Teacher:
        if self._teacher is None:
            kinds = build_distillations(self.distillation_specs, _WHERE, **facts.for_registry()).named_kinds
            self._teacher = read_teacher(self.teacher_spec, facts, any(kind.needs_logits for _, kind in kinds))
        return self._teacher

    def _attach_teacher(self) -> Teacher:
        """Return the teacher on the device of the student. The first call finds layers and builds adapters."""
        assert self.facts is not None
        is_attached = self._teacher is not None and bool(self._counts)
        teacher = self._load_teacher(self.facts)
        teacher.move_to(self.model, self.channels_last is True)
        if not is_attached:
            self._find_layers(teacher)
            if any(
                kind.layers or type(kind).fit_to is not Distillation.fit_to for _, kind in self.distillation.named_kinds
            ):
                seed_defaults(run_seed(), "distillation")
                self._build_adapters(teacher, self.facts)
        return teacher

    def _find_layers(self, teacher: Teacher) -> None:
        ours: list[str] = []
        theirs: list[str] = []
        counts = []
        for name, kind in self.distillation.named_kinds:
            before = len(ours)
            for student_pattern, teacher_pattern in kind.layers.items():
                mine = find_layers(self.model, student_pattern, f"{_WHERE}: {name}: the student")
                other = find_layers(teacher.classifier, teacher_pattern, f"{_WHERE}: {name}: the teacher")
                if len(mine) != len(other):
                    raise UserError(
                        f"{_WHERE}: {name}: expected as many layers of the student as of the teacher, because they "
                        f'are paired in order. "{student_pattern}" matches {len(mine)} layers of the student '
                        f'({", ".join(mine[:6])}), "{teacher_pattern}" matches {len(other)} layers of the teacher '
                        f"({', '.join(other[:6])})."
                    )
                ours += mine
                theirs += other
            counts.append(len(ours) - before)
        self._layers, self._counts = (tuple(ours), tuple(theirs)), tuple(counts)

    def _build_adapters(self, teacher: Teacher, facts: DataFacts) -> None:
        """Build the adapters between student and teacher for the output shapes of one black image."""
        device = next(self.model.parameters()).device
        image = torch.zeros(1, facts.channels, facts.image_size, facts.image_size, dtype=torch.uint8, device=device)
        # autocast is off, because it would cache the cast weights of the student without their gradient
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            with evaluating(self.model), LayerOutputs(self.model, self._layers[0]) as layers:
                logits, features, _ = self.model.forward_all(image)
            student = Signals(logits, features, layers.take())
            taught = teacher(image, self._layers[1])
        try:
            self.distillation.fit_to(student, taught, self._counts)
        except UserError as error:
            raise UserError(f"{_WHERE}: {error}") from error
        self.distillation.to(device)
        if self._device_mesh is not None and any(True for _ in self.distillation.parameters()):
            raise UserError(
                "trainer.strategy: fsdp2 shards the student only. Adapters of the distillation would differ between "
                "processes. Use strategy: ddp, or distill logits or attention."
            )

    # ---------------------------------------------------------------- steps

    def model_step(self, batch: Batch) -> StepOutput:
        """Compute logits and features of the student, and store the layer outputs that the loss reads in training."""
        if not self.training:
            return super().model_step(batch)
        self._attach_teacher()
        with LayerOutputs(self.model, self._layers[0]) as layers:
            output = super().model_step(batch)
        self._maps = layers.take()
        return output

    def compute_loss(self, output: StepOutput) -> Tensor:
        """Compute the weighted loss on the labels plus the distillation losses."""
        taught = self._attach_teacher()(output.images, self._layers[1], self.teacher_bf16)
        student = Signals(output.logits, output.features, self._maps)
        self._maps = ()
        total: Tensor
        total, parts = self.distillation(student, taught, output.targets, self._counts)
        if self.label_weight:
            labels = self.label_weight * super().compute_loss(output)
            parts["labels"] = labels.detach()
            total = total + labels
        self._running.start_epoch(self.current_epoch)
        for name, value in parts.items():
            self._running.add(f"train/distill/{name}", value, len(output.logits))
        return total

    # ---------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the fingerprint of the weights of the teacher."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["imgrec"]["teacher"] = self._teacher.fingerprint if self._teacher is not None else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Load a checkpoint. Without a teacher, the adapters of the distillation are ignored.

        Raises:
            UserError: If the weights of the teacher changed since the training started.
        """
        theirs, state = checkpoint.get("imgrec", {}).get("teacher"), checkpoint.get("state_dict")
        same_name = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("teacher") == self.teacher_spec
        if self._teacher is not None and theirs and same_name and theirs != self._teacher.fingerprint:
            raise UserError(
                f"model.teacher: expected the weights with which the training started, got other weights in "
                f"{self._teacher.title}."
            )
        if self._teacher is None and state:
            own = self.state_dict()
            for key in [key for key in state if key.startswith(_PREFIX) and key not in own]:
                del state[key]
        super().on_load_checkpoint(checkpoint)
