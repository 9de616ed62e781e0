"""ClassificationTask: one label an image."""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.losses import build_loss, check_losses
from imgrec.metrics import classification_metrics
from imgrec.models import Classifier, ClassifierSpecs, Normalize, clear_blind_gradients
from imgrec.registry import Spec, Specs
from imgrec.tasks.base import BaseTask, Metrics
from imgrec.tasks.start import check_start, start_from
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
            training starts from that whole classifier, pruned as it is. A checkpoint that is loaded later needs
            nothing of it.
        facts: see :class:`BaseTask`.
        load_weights: see :class:`BaseTask`.
        channels_last: see :class:`BaseTask`.
        compile: see :class:`BaseTask`.

    Example of a research idea, in a file of one's own::

        class Confident(ClassificationTask):
            def compute_loss(self, output):
                return super().compute_loss(output) - 0.1 * output.logits.softmax(1).amax(1).mean()
    """

    model: Classifier

    def __init__(
        self,
        backbone: Spec = "resnet18",
        edits: Specs | None = None,
        neck: Spec | None = None,
        pooling: Spec | None = None,
        head: Spec = "linear",
        init: Specs | None = None,
        loss: Specs = "cross_entropy",
        regularizers: Specs | None = None,
        optimizer: Spec = "adamw",
        schedule: Spec = "cosine",
        normalize: Normalize = "auto",
        auxiliary_weight: float = 0.4,
        init_from: str | None = None,
        facts: dict[str, Any] | None = None,
        load_weights: bool = True,
        channels_last: bool | Literal["auto"] = "auto",
        compile: bool | dict[str, Any] = False,
    ) -> None:
        super().__init__(
            optimizer=optimizer,
            schedule=schedule,
            regularizers=regularizers,
            facts=facts,
            load_weights=load_weights,
            channels_last=channels_last,
            compile=compile,
        )
        self.specs = ClassifierSpecs(backbone, head, normalize, neck, pooling, edits, init)
        self.loss_spec = loss
        self.auxiliary_weight = auxiliary_weight
        self.init_from = init_from
        self.specs.check("model", load_weights=load_weights and init_from is None)
        if init is not None and init_from is not None:
            raise UserError("model.init: all values come from model.init_from.")
        if init_from is not None and load_weights:
            check_start(init_from, self.specs)
        check_losses(loss, "model.loss", PART_FACTS)

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
        pretrained = self.load_weights and self.init_from is None
        model = self.specs.build(facts, load_weights=pretrained)
        if self.init_from is not None and self.load_weights:
            model = start_from(model, self.init_from, facts)
        clear_blind_gradients(model, facts.channels, facts.image_size)
        return model

    def build_loss(self, facts: DataFacts) -> nn.Module:
        """The loss that the spec names."""
        return build_loss(self.loss_spec, "model.loss", **self.part_facts(facts))

    def build_metrics(self, facts: DataFacts) -> Metrics:
        """Accuracy, top-5, macro averages, AUROC, calibration error, negative log-likelihood."""
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
        """The loss on the logits, and on those of auxiliary classifiers with their weight."""
        loss = super().compute_loss(output)
        for logits in output.auxiliary:
            loss = loss + self.auxiliary_weight * self.loss(logits, output.targets)
        return loss

    def forward(self, images: Tensor) -> Tensor:
        """Images, as in a :class:`Batch`, to logits."""
        logits: Tensor = self.model(images)
        return logits
