"""ClassificationTask: classification with one label per image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses import build_loss, check_losses
from imgrec.models import Classifier, ClassifierSpecs, MultiSampleDropoutHead, Normalize, clear_blind_gradients
from imgrec.models.pretrained.partial import PartialLoad
from imgrec.registry import Spec, Specs
from imgrec.tasks.base import BaseTask
from imgrec.tasks.epoch_metrics import classification_metrics
from imgrec.tasks.initial_weights import InitialWeights
from imgrec.tasks.loss_checks import check_cosine_scale, check_head_of_loss, check_mixed_targets, check_mixing
from imgrec.tasks.plain_batches import facts_of_images
from imgrec.types import PART_FACTS, Batch, DataFacts, StepOutput


class ClassificationTask(BaseTask):
    """Task for image classification: normalization, backbone, neck, pooling, head, and a loss on the logits.

    Args:
        backbone: Spec of a backbone: any timm name (``resnet18``) or ``torchvision/<name>``, with ``pretrained``,
            ``weights`` and the arguments of the model. Defaults to ``resnet18``.
        head: Spec of :data:`imgrec.models.HEADS`. Defaults to ``linear``.
        loss: Spec of :data:`imgrec.losses.LOSSES`, or a list of specs for their weighted sum. Defaults to
            ``cross_entropy``.
        regularizers: See :class:`BaseTask`.
        optimizer: See :class:`BaseTask`.
        schedule: See :class:`BaseTask`.
        normalize: ``auto`` for the mean and standard deviation of the backbone, ``imagenet``, ``half`` (0.5 and 0.5),
            or ``{mean: [...], std: [...]}`` in [0, 1], with one value per channel. Defaults to ``auto``.
        neck: Spec of :data:`imgrec.models.NECKS`, which fuses the maps of several stages of the backbone. Defaults to
            no neck.
        pooling: Spec of :data:`imgrec.models.POOLINGS`. Defaults to the pooling of the backbone, and with a neck to
            the mean of each map.
        edits: Specs of :data:`imgrec.models.EDITS`, which insert or replace layers of the backbone. Defaults to none.
        init: Specs of :data:`imgrec.models.INITIALIZERS` for the initial weights. With loaded weights, each requires a
            ``scope``. Defaults to the initialization of the layers.
        auxiliary_weight: Weight of the loss on the logits of auxiliary classifiers (Inception, GoogLeNet).
            Defaults to 0.4.
        init_from: Run folder, checkpoint or model folder of the same architecture and classes, from whose weights and
            pruned shapes training starts. ``{path: ..., partial: true}`` loads the matching tensors of a source with
            other classes, layers or image size, or of any safetensors file or checkpoint. ``scope`` restricts the
            loaded tensors, and ``rename: {"encoder.": "backbone.network."}`` replaces prefixes of names.
            ``init_from.json`` in the run folder lists the loaded tensors. Checkpoints do not depend on the source.
            Defaults to none.
        facts: See :class:`BaseTask`.
        load_weights: See :class:`BaseTask`.
        channels_last: See :class:`BaseTask`.
        compile: See :class:`BaseTask`.
        num_classes: See :class:`BaseTask`.
        class_names: See :class:`BaseTask`.

    Example of a research idea in a separate file::

        class Confident(ClassificationTask):
            def compute_loss(self, output):
                return super().compute_loss(output) - 0.1 * output.logits.softmax(1).amax(1).mean()
    """

    model: Classifier

    def __init__(
        self,
        backbone: Spec = "resnet18",
        head: Spec = "linear",
        loss: Specs = "cross_entropy",
        regularizers: Specs | None = None,
        optimizer: Spec = "adamw",
        schedule: Spec = "cosine",
        normalize: Normalize = "auto",
        neck: Spec | None = None,
        pooling: Spec | None = None,
        edits: Specs | None = None,
        init: Specs | None = None,
        auxiliary_weight: float = 0.4,
        init_from: str | dict[str, Any] | None = None,
        facts: dict[str, Any] | None = None,
        load_weights: bool = True,
        channels_last: bool | Literal["auto"] = "auto",
        compile: bool | dict[str, Any] = False,
        num_classes: int | None = None,
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            schedule=schedule,
            regularizers=regularizers,
            facts=facts,
            load_weights=load_weights,
            channels_last=channels_last,
            compile=compile,
            num_classes=num_classes,
            class_names=class_names,
        )
        self.specs = ClassifierSpecs(backbone, head, normalize, neck, pooling, edits, init)
        self.loss_spec = loss
        self.auxiliary_weight = auxiliary_weight
        self.init_from = init_from
        self.initial_weights = None if init_from is None else InitialWeights.parse(init_from)
        self.loaded_weights: PartialLoad | None = None
        loads_all = self.initial_weights is not None and not self.initial_weights.partial
        self.specs.check("model", load_weights=load_weights and not loads_all)
        if init is not None and loads_all:
            raise UserError(
                "model.init: expected no initializer, because model.init_from loads all values. "
                "Use model.init_from: {path: ..., partial: true} to initialize the others."
            )
        if self.initial_weights is not None and load_weights:
            self.initial_weights.check(self.specs)
        check_losses(loss, "model.loss", PART_FACTS)
        check_head_of_loss(loss, self.specs.head, self.specs.backbone)

    def _facts_of_data(self) -> DataFacts | None:
        facts = super()._facts_of_data()
        if facts is not None and facts.multi_label:
            raise UserError(
                f"data: expected one class per image, because {type(self).__name__} is not multi-label, got "
                f"{facts.num_classes} labels of which an image may have any number (multi-label). "
                "Select one column with one label per row."
            )
        return facts

    def build_model(self, facts: DataFacts) -> Classifier:
        """Build the classifier for this data, with its initial weights."""
        initial = self.initial_weights if self.load_weights else None
        model = self.specs.build(facts, load_weights=self.load_weights and (initial is None or initial.partial))
        if initial is not None and initial.partial:
            self.loaded_weights = initial.load_matching(model, facts, self.specs.normalize)
        elif initial is not None:
            model = initial.load_classifier(model, facts)
        clear_blind_gradients(model, facts.channels, facts.image_size)
        return model

    def build_loss(self, facts: DataFacts) -> nn.Module:
        """Build the loss of the spec."""
        loss = build_loss(self.loss_spec, "model.loss", **self.part_facts(facts))
        check_cosine_scale(loss, self.model)
        return loss

    def check_data_module(self, data: Any) -> None:
        """Check before any data is read that the loss accepts the targets of a data module.

        Args:
            data: Data module. One without the attribute ``mixing`` is not checked.

        Raises:
            UserError: If the data module mixes images and the loss does not accept class probabilities.
        """
        check_mixing(self.loss_spec, getattr(data, "mixing", None))

    def on_fit_start(self) -> None:
        """Check that the loss accepts the targets of the data module.

        Raises:
            UserError: If the data module mixes images and the loss does not accept class probabilities.
        """
        super().on_fit_start()
        training = getattr(getattr(self.trainer, "datamodule", None), "training", None)
        if self.facts is not None:
            check_mixed_targets(self.loss, getattr(training, "mix", None), self.facts.num_classes, self.device)

    def build_metrics(self, facts: DataFacts) -> Any:
        """Return :func:`imgrec.tasks.epoch_metrics.classification_metrics`: every metric of METRICS.

        Example of a further metric::

            def build_metrics(self, facts):
                return [super().build_metrics(facts), {"kappa": torchmetrics.CohenKappa("multiclass", num_classes=10)}]
        """
        return classification_metrics

    def model_step(self, batch: Batch) -> StepOutput:
        """Compute logits and features of a batch."""
        logits, features, auxiliary = self.model.forward_all(batch.images)
        return StepOutput(
            images=batch.images,
            targets=batch.targets,
            logits=logits,
            features=features,
            epoch=self.current_epoch,
            auxiliary=auxiliary,
            keys=batch.keys,
        )

    def compute_loss(self, output: StepOutput) -> Tensor:
        """Compute the loss on the logits plus the weighted loss on the logits of auxiliary classifiers.

        With a head of several dropout masks, the loss is averaged over the masks.
        """
        head = getattr(self.model, "head", None)  # a custom model may have no head
        if isinstance(head, MultiSampleDropoutHead) and self.training:
            each = [replace(output, logits=logits) for logits in head.sampled(output.features)]
            loss = torch.stack([super(ClassificationTask, self).compute_loss(one) for one in each]).mean()
        else:
            loss = super().compute_loss(output)
        for logits in output.auxiliary:
            loss = loss + self.auxiliary_weight * self.loss(logits, output.targets)
        return loss

    def forward(self, images: Tensor) -> Tensor:
        """Compute the logits of images.

        The model is built from the facts of the task, or from the shape of the images if the classes were given.

        Args:
            images: uint8, or float in [0, 1], ``(batch, channels, size, size)``.

        Returns:
            Logits ``(batch, num_classes)``.

        Raises:
            UserError: If the task has neither facts nor classes.
        """
        if not hasattr(self, "model"):
            if self.facts is None and self.class_names is not None:
                self._set_facts(facts_of_images(images, self.class_names))
            self.configure_model()
        logits: Tensor = self.model(images)
        return logits
