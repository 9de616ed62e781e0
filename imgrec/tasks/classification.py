"""ClassificationTask: one label an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses import build_loss, check_losses
from imgrec.models import Classifier, ClassifierSpecs, MultiSampleDropoutHead, Normalize, clear_blind_gradients
from imgrec.models.pretrained.partial import Taken
from imgrec.registry import Spec, Specs
from imgrec.tasks.base import BaseTask
from imgrec.tasks.epoch_metrics import classification_metrics
from imgrec.tasks.initial_weights import check_start, start_from
from imgrec.tasks.loss_checks import check_head_of_loss, refuse_mixed_targets, refuse_mixing, refuse_other_scale
from imgrec.tasks.partial_start import Start
from imgrec.tasks.plain_batches import facts_of_images
from imgrec.types import PART_FACTS, Batch, DataFacts, StepOutput


class ClassificationTask(BaseTask):
    """Normalise, backbone, neck, pooling, head; a loss on the logits; the metrics of a classification.

    Args:
        backbone: a spec: any timm name (``resnet18``), any ``torchvision/<name>``, with ``pretrained``, ``weights`` and
            the network's own arguments.
        edits: specs of :data:`imgrec.models.EDITS`: layers that are put into the backbone, or in the place of others.
        neck: a spec of :data:`imgrec.models.NECKS`: maps of several stages of the backbone are fused, and classified
            together.
        pooling: a spec of :data:`imgrec.models.POOLINGS`, in the place of the backbone's own; after a neck, the mean
            of each map if not given.
        head: a spec of :data:`imgrec.models.HEADS`.
        init: specs of :data:`imgrec.models.INITIALIZERS`, for the weights that training starts from; beside weights
            that are loaded, with a ``scope`` each.
        loss: a spec of :data:`imgrec.losses.LOSSES`, or a list of them: their weighted sum.
        regularizers: see :class:`BaseTask`.
        optimizer: see :class:`BaseTask`.
        schedule: see :class:`BaseTask`.
        normalize: ``auto`` takes the backbone's own mean and standard deviation; ``imagenet``, ``half`` (0.5 and 0.5),
            or ``{mean: [...], std: [...]}`` in [0, 1], one value a channel.
        auxiliary_weight: the weight of the loss on the logits of auxiliary classifiers (Inception, GoogLeNet).
        init_from: a run folder, a checkpoint or a model folder of the same backbone, neck, pooling, head and classes:
            training starts from that whole classifier, pruned as it is. Or ``{path: ..., partial: true}``: of other
            classes, another size or other layers, or of anybody's safetensors file or checkpoint; what fits is taken
            over, beside the backbone's own ``pretrained`` or ``weights``, and ``init_from.json`` in the run folder says
            what. Then ``scope`` narrows what is taken over, and ``rename: {"encoder.": "backbone.network."}`` puts
            other words at the beginning of names. A checkpoint that is loaded later needs nothing of it.
        facts: see :class:`BaseTask`.
        load_weights: see :class:`BaseTask`.
        channels_last: see :class:`BaseTask`.
        compile: see :class:`BaseTask`.
        num_classes: see :class:`BaseTask`.
        class_names: see :class:`BaseTask`.

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
        self.start = None if init_from is None else Start.of(init_from)
        self.taken: Taken | None = None
        self.specs.check("model", load_weights=load_weights and (self.start is None or self.start.partial))
        if init is not None and self.start is not None and not self.start.partial:
            raise UserError(
                "model.init: all values come from model.init_from; `{path: ..., partial: true}` leaves some to draw."
            )
        if self.start is not None and load_weights:
            if self.start.partial:
                self.start.check()
            else:
                check_start(self.start.path, self.specs)
        check_losses(loss, "model.loss", PART_FACTS)
        check_head_of_loss(loss, self.specs.head, self.specs.backbone)

    def _facts_of_data(self) -> DataFacts | None:
        facts = super()._facts_of_data()
        if facts is not None and facts.multi_label:
            raise UserError(
                f"{type(self).__name__} takes images of one class each, and this data may give an image several of its "
                f"{facts.num_classes} labels, or none (multi-label): name one column with one label a row."
            )
        return facts

    def build_model(self, facts: DataFacts) -> Classifier:
        """Everything from normalization to the head, made for this data."""
        start = self.start if self.load_weights else None
        model = self.specs.build(facts, load_weights=self.load_weights and (start is None or start.partial))
        if start is not None and start.partial:
            self.taken = start.take(model, facts, self.specs.normalize)
        elif start is not None:
            model = start_from(model, start.path, facts)
        clear_blind_gradients(model, facts.channels, facts.image_size)
        return model

    def build_loss(self, facts: DataFacts) -> nn.Module:
        """The loss that the spec names."""
        loss = build_loss(self.loss_spec, "model.loss", **self.part_facts(facts))
        refuse_other_scale(loss, self.model)
        return loss

    def check_data_module(self, data: Any) -> None:
        """Refuse a loss that cannot take the targets of a data module, before any data is read.

        Args:
            data: The data module; one without ``mixing`` is not looked at.
        """
        refuse_mixing(self.loss_spec, getattr(data, "mixing", None))

    def on_fit_start(self) -> None:
        """Refuse a loss that cannot take what the data makes of its targets."""
        super().on_fit_start()
        training = getattr(getattr(self.trainer, "datamodule", None), "training", None)
        if self.facts is not None:
            refuse_mixed_targets(self.loss, getattr(training, "mix", None), self.facts.num_classes, self.device)

    def build_metrics(self, facts: DataFacts) -> Any:
        """Return :func:`imgrec.tasks.epoch_metrics.classification_metrics`: every metric of METRICS.

        Example of a further metric::

            def build_metrics(self, facts):
                return [super().build_metrics(facts), {"kappa": torchmetrics.CohenKappa("multiclass", num_classes=10)}]
        """
        return classification_metrics

    def model_step(self, batch: Batch) -> StepOutput:
        """One pass through the network."""
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
        """The loss on the logits, and on those of auxiliary classifiers with their weight.

        Under a head with several dropout masks, it is the mean of the losses under each.
        """
        head = getattr(self.model, "head", None)  # a network of one's own may have none
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
                self._adopt(facts_of_images(images, self.class_names))
            self.configure_model()
        logits: Tensor = self.model(images)
        return logits
