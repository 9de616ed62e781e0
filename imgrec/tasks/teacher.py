"""Teacher: a frozen trained model for distillation, which is part of no state dict."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.errors import UserError
from imgrec.export import find_origin, read_origin
from imgrec.losses import Signals
from imgrec.models import BACKBONES, Classifier, build_classifier, check_classifier, set_channels_last
from imgrec.models.utils.layers import LayerOutputs
from imgrec.registry import Spec
from imgrec.tasks.compatibility import check_same_classes
from imgrec.types import DataFacts

_WHERE = "model.teacher"
_FACTS = ("num_classes", "class_names", "class_counts", "image_size", "in_channels", "load_weights")


class Teacher:
    """A frozen classifier in evaluation mode.

    It is no ``nn.Module``, so that the task does not train, save, average or count its parameters.

    Args:
        classifier: Trained classifier.
        image_size: Side of its input images, in pixels. Other images are resized.
        title: Name in messages.
        trained_head: True if its logits are those of a trained head.
    """

    def __init__(self, classifier: Classifier, image_size: int, title: str, trained_head: bool) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.image_size = image_size
        self.title = title
        self.trained_head = trained_head
        self.fingerprint = _fingerprint(classifier)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the teacher itself, because it is immutable."""
        return self

    def __str__(self) -> str:
        count = sum(parameter.numel() for parameter in self.classifier.parameters())
        return f"{self.title}, {count:,} parameters, images of {self.image_size} pixels"

    def move_to(self, like: nn.Module, channels_last: bool) -> None:
        """Move the classifier to the device, dtype and memory format of the model ``like``."""
        there, here = next(like.parameters()), next(self.classifier.parameters())
        if (there.device, there.dtype) != (here.device, here.dtype):
            self.classifier.to(there.device, there.dtype)
        if channels_last != self.classifier.channels_last:
            set_channels_last(self.classifier, channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: tuple[str, ...] = (), bf16: bool = False) -> Signals:
        """Compute logits, features and layer outputs for the batch of a student.

        The images are resized if necessary and normalized with the constants of the teacher.

        Args:
            images: Images of a :class:`imgrec.types.Batch`, on the device of the teacher.
            layers: Names of layers whose outputs are returned. Defaults to none.
            bf16: True to use bfloat16 autocast. Defaults to False.
        """
        precision = torch.autocast(images.device.type, torch.bfloat16) if bf16 else nullcontext()
        with precision, LayerOutputs(self.classifier, layers) as outputs:
            logits, features, _ = self.classifier.forward_all(self.resize(images))
        return Signals(logits, features, outputs.take())

    def resize(self, images: Tensor) -> Tensor:
        """Resize images to the training size of the teacher, with antialiasing.

        Args:
            images: Images ``(batch, channels, height, width)``.

        Returns:
            Images ``(batch, channels, size, size)``, float in [0, 1] if they were resized.
        """
        side = self.image_size
        if images.shape[2:] == (side, side):
            return images
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)


def check_teacher(teacher: Spec, needs_logits: bool, where: str = _WHERE) -> None:
    """Check the argument ``model.teacher`` without reading data or weights.

    Args:
        teacher: Path, or spec of a backbone with weights.
        needs_logits: True if a distillation loss reads the logits of the teacher.
        where: Location in the config, for messages. Defaults to ``model.teacher``.

    Raises:
        UserError: If there is nothing at the path, or if the spec has no weights or cannot provide the logits.
    """
    if isinstance(teacher, str):
        try:
            find_origin(teacher, where)
        except UserError as error:
            if teacher not in BACKBONES:
                raise
            raise UserError(
                f"{where}: expected a run folder, a checkpoint, a model folder, or a backbone with weights, got "
                f"{teacher!r}. Use {{name: {teacher}, pretrained: true}} or {{name: {teacher}, weights: FOLDER}}."
            ) from error
        return
    BACKBONES.check(teacher, where, _FACTS)
    _, given = BACKBONES.parse(teacher, where)
    if not (given.get("pretrained") or given.get("weights")):
        raise UserError(f"{where}: expected `pretrained: true` or `weights: FOLDER`, got {teacher!r}.")
    if needs_logits:
        raise UserError(
            f"{where}: expected a run folder, a checkpoint or a model folder, because the backbone {teacher!r} has no "
            "head for these classes and no logits. Distill features or attention of a backbone."
        )
    try:
        check_classifier(teacher, "linear", "auto", "")
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def read_teacher(teacher: Spec, facts: DataFacts, needs_logits: bool, where: str = _WHERE) -> Teacher:
    """Load the teacher of a config on the CPU.

    Args:
        teacher: Run folder, checkpoint, model folder, or spec of a backbone with weights.
        facts: Facts of the data of the student.
        needs_logits: True if a distillation loss reads the logits of the teacher.
        where: Location in the config, for messages. Defaults to ``model.teacher``.

    Raises:
        UserError: If there is nothing at the path, or if the number of channels differs. If the logits are required,
            also if the classes or their order differ.
    """
    check_teacher(teacher, needs_logits, where)
    with torch.random.fork_rng(devices=[]):
        if not isinstance(teacher, str):
            classifier = build_classifier(teacher, "linear", "auto", facts)
            return Teacher(classifier, facts.image_size, f"the backbone {BACKBONES.parse(teacher)[0]}", False)
        found = read_origin(teacher, where)
    theirs = found.facts
    if not needs_logits:  # the class names of the teacher are not used
        theirs = DataFacts(facts.class_names, facts.class_counts, theirs.image_size, theirs.channels)
    check_same_classes(theirs, facts, f"{where}: {teacher}")
    name, _ = BACKBONES.parse(found.specs.backbone)
    return Teacher(found.classifier, theirs.image_size, f"{teacher} ({name})", True)


def _fingerprint(model: nn.Module) -> str:
    """Return a hash of the names and values of all tensors of a model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
