"""DistillationTask: a network that learns from another one, beside its labels."""

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
from imgrec.utils.seeding import run_seed, seed_defaults

logger = logging.getLogger(__name__)

_WHERE = "model.distillation"
_OWN = "distillation."


class DistillationTask(ClassificationTask):
    """A classification that is learnt from a teacher, too: from what it says, or from what it sees.

    What is minimised is ``label_weight`` times the loss on the labels, and the weighted sum of the distillations. The
    teacher is given exactly the student's batch, augmented and mixed as it is, and is in no checkpoint and no model
    folder: only training needs it.

    Args:
        teacher: a run folder, a checkpoint or a model folder of the same classes, of any architecture and image size;
            or the spec of a backbone with ``pretrained`` or ``weights``, whose features can be learnt.
        distillation: specs of :data:`imgrec.losses.DISTILLATIONS`, each with a ``weight``, 1 if not given.
        label_weight: the factor of the loss on the labels; 0 learns from the teacher alone.
        teacher_bf16: the teacher computes in bfloat16 (autocast), whatever the student's precision.
        **kwargs: those of :class:`ClassificationTask`, which are the student's.

    Example::

        model:
          class_path: imgrec.DistillationTask
          init_args:
            teacher: runs/sign_digits/finetune_lite0/20261122-101500
            distillation: {name: logits, temperature: 4, weight: 0.9}
            backbone: resnet18

    Source: Hinton, Vinyals and Dean, 2015, "Distilling the knowledge in a neural network", arXiv 1503.02531; the same
    batch for both: Beyer et al., 2022, "Knowledge distillation: a good teacher is patient and consistent",
    arXiv 2106.05237.
    """

    distillation: DistillationSum

    def __init__(
        self,
        teacher: Spec,
        distillation: Specs = "logits",
        label_weight: float = 0.1,
        teacher_bf16: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.teacher_spec = teacher
        self.distillation_specs = distillation
        self.teacher_bf16 = teacher_bf16
        try:
            self.label_weight = in_range("label_weight", label_weight)
        except UserError as error:
            raise UserError(f"model.label_weight: {error}") from error
        check_distillations(distillation, _WHERE)
        self._teacher: Teacher | None = None
        self._layers: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
        self._counts: tuple[int, ...] = ()
        self._maps: tuple[Tensor, ...] = ()
        kinds = [kind for _, kind in build_distillations(distillation, _WHERE).each]
        self.reads_layers = any(kind.layers for kind in kinds)
        if self.compiling is not False and self.reads_layers:
            raise UserError("model.compile: what layers give cannot be learnt from a compiled network; leave one away.")
        if self.load_weights:
            check_teacher(teacher, any(kind.needs_logits for kind in kinds))

    # ---------------------------------------------------------------- the teacher

    def setup(self, stage: str) -> None:
        """Read the teacher before anything is trained."""
        super().setup(stage)
        if stage == TrainerFn.FITTING and self.facts is not None:
            rank_zero_only(logger.info)(f"model.teacher: {self._meet(self.facts)}")

    def configure_model(self) -> None:
        """Build the student, and what has to fit both networks; a checkpoint that is evaluated needs no teacher."""
        if hasattr(self, "model"):
            return
        super().configure_model()
        assert self.facts is not None
        self.distillation = build_distillations(self.distillation_specs, _WHERE, **self.facts.for_registry())
        fitting = self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING
        if fitting or self.load_weights:
            self._begin()

    def _meet(self, facts: DataFacts) -> Teacher:
        if self._teacher is None:
            kinds = build_distillations(self.distillation_specs, _WHERE, **facts.for_registry()).each
            self._teacher = read_teacher(self.teacher_spec, facts, any(kind.needs_logits for _, kind in kinds))
        return self._teacher

    def _begin(self) -> Teacher:
        """The teacher where the student is; at the first time the layers are found, and what fits them is made."""
        assert self.facts is not None
        begun = self._teacher is not None and bool(self._counts)
        teacher = self._meet(self.facts)
        teacher.go_to(self.model, self.channels_last is True)
        if not begun:
            self._find_layers(teacher)
            if any(kind.layers or type(kind).fit_to is not Distillation.fit_to for _, kind in self.distillation.each):
                seed_defaults(run_seed(), "distillation")
                self._fit(teacher, self.facts)
        return teacher

    def _find_layers(self, teacher: Teacher) -> None:
        ours: list[str] = []
        theirs: list[str] = []
        counts = []
        for name, kind in self.distillation.each:
            before = len(ours)
            for student_pattern, teacher_pattern in kind.layers.items():
                mine = find_layers(self.model, student_pattern, f"{_WHERE}: {name}: the student")
                other = find_layers(teacher.classifier, teacher_pattern, f"{_WHERE}: {name}: the teacher")
                if len(mine) != len(other):
                    raise UserError(
                        f'{_WHERE}: {name}: "{student_pattern}" means {len(mine)} layers of the student '
                        f'({", ".join(mine[:6])}), "{teacher_pattern}" {len(other)} of the teacher '
                        f"({', '.join(other[:6])}): they are paired in order, so there must be as many"
                    )
                ours += mine
                theirs += other
            counts.append(len(ours) - before)
        self._layers, self._counts = (tuple(ours), tuple(theirs)), tuple(counts)

    def _fit(self, teacher: Teacher, facts: DataFacts) -> None:
        """Show both networks one black image, and make what has to fit what their layers give."""
        device = next(self.model.parameters()).device
        image = torch.zeros(1, facts.channels, facts.image_size, facts.image_size, dtype=torch.uint8, device=device)
        # without autocast, which would keep the student's weights as it casts them here, without their gradient
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
                "trainer.strategy: fsdp2 shares out the student alone, and what the distillation learns itself would "
                "differ between processes: take strategy: ddp, or learn logits or attention."
            )

    # ---------------------------------------------------------------- a step

    def model_step(self, batch: Batch) -> StepOutput:
        """One pass through the student; in training, what its named layers give is kept for the loss."""
        if not self.training:
            return super().model_step(batch)
        self._begin()
        with LayerOutputs(self.model, self._layers[0]) as layers:
            output = super().model_step(batch)
        self._maps = layers.take()
        return output

    def compute_loss(self, output: StepOutput) -> Tensor:
        """The loss on the labels with its weight, and what is to be learnt from the teacher."""
        taught = self._begin()(output.images, self._layers[1], self.teacher_bf16)
        student = Signals(output.logits, output.features, self._maps)
        self._maps = ()
        total: Tensor
        total, parts = self.distillation(student, taught, output.targets, self._counts)
        if self.label_weight:
            labels = self.label_weight * super().compute_loss(output)
            parts["labels"] = labels.detach()
            total = total + labels
        self._running.enter(self.current_epoch)
        for name, value in parts.items():
            self._running.add(f"train/distill/{name}", value, len(output.logits))
        return total

    # ---------------------------------------------------------------- checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say which weights it is learnt from."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["imgrec"]["teacher"] = self._teacher.fingerprint if self._teacher is not None else None

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with a teacher that has changed; without one, leave what only training needs."""
        theirs, state = checkpoint.get("imgrec", {}).get("teacher"), checkpoint.get("state_dict")
        same_name = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("teacher") == self.teacher_spec
        if self._teacher is not None and theirs and same_name and theirs != self._teacher.fingerprint:
            raise UserError(
                f"model.teacher: the weights of {self._teacher.title} are not those that training began with"
            )
        if self._teacher is None and state:
            own = self.state_dict()
            for key in [key for key in state if key.startswith(_OWN) and key not in own]:
                del state[key]
        super().on_load_checkpoint(checkpoint)
