"""A trained network that another one learns from: read, frozen, and in nobody's state dict."""

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
from imgrec.tasks.compatibility import refuse_other_classes
from imgrec.types import DataFacts

_WHERE = "model.teacher"
_FACTS = ("num_classes", "class_names", "class_counts", "image_size", "in_channels", "load_weights")


class Teacher:
    """A frozen classifier in evaluation mode; no module, so no task that holds it trains, saves, averages or counts it.

    Args:
        classifier: what it is.
        image_size: the side of the images that it takes, in pixels; others are resized for it.
        title: what it is called in messages.
        trained_head: whether its logits mean something.
    """

    def __init__(self, classifier: Classifier, image_size: int, title: str, trained_head: bool) -> None:
        self.classifier = classifier.eval().requires_grad_(False)
        self.image_size = image_size
        self.title = title
        self.trained_head = trained_head
        self.fingerprint = _fingerprint(classifier)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: nothing in it changes."""
        return self

    def __str__(self) -> str:
        count = sum(parameter.numel() for parameter in self.classifier.parameters())
        return f"{self.title}, {count:,} parameters, images of {self.image_size} pixels"

    def go_to(self, like: nn.Module, channels_last: bool) -> None:
        """Be on the device and of the type of number of the network ``like``, with its order in memory."""
        there, here = next(like.parameters()), next(self.classifier.parameters())
        if (there.device, there.dtype) != (here.device, here.dtype):
            self.classifier.to(there.device, there.dtype)
        if channels_last != self.classifier.channels_last:
            set_channels_last(self.classifier, channels_last)

    @torch.no_grad()
    def __call__(self, images: Tensor, layers: tuple[str, ...] = (), bf16: bool = False) -> Signals:
        """What it says of a student's batch: the same images, but for their size and its own normalization.

        Args:
            images: as in a :class:`imgrec.types.Batch`, on its device.
            layers: the names of layers whose outputs are wanted.
            bf16: compute in bfloat16 where that is safe (autocast).
        """
        precision = torch.autocast(images.device.type, torch.bfloat16) if bf16 else nullcontext()
        with precision, LayerOutputs(self.classifier, layers) as outputs:
            logits, features, _ = self.classifier.forward_all(self.fitted(images))
        return Signals(logits, features, outputs.take())

    def fitted(self, images: Tensor) -> Tensor:
        """The images with the height and width that it was trained on, averaged over areas where they shrink.

        Shapes: ``(batch, channels, height, width)``; resized ones are float in [0, 1].
        """
        side = self.image_size
        if images.shape[2:] == (side, side):
            return images
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        return F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True)


def check_teacher(teacher: Spec, needs_logits: bool, where: str = _WHERE) -> None:
    """Raise what :func:`read_teacher` would raise, as far as it can be told without the data and without weights."""
    if isinstance(teacher, str):
        try:
            find_origin(teacher, where)
        except UserError as error:
            if teacher not in BACKBONES:
                raise
            raise UserError(
                f"{where}: a teacher is a run folder, a checkpoint, a model folder, or a backbone with weights: "
                f"{{name: {teacher}, pretrained: true}} or {{name: {teacher}, weights: FOLDER}}; got {teacher!r}."
            ) from error
        return
    BACKBONES.check(teacher, where, _FACTS)
    _, given = BACKBONES.parse(teacher, where)
    if not (given.get("pretrained") or given.get("weights")):
        raise UserError(f"{where}: {teacher!r} has learnt nothing: it needs `pretrained: true` or `weights: FOLDER`.")
    if needs_logits:
        raise UserError(
            f"{where}: {teacher!r} is a backbone, which has no head for these classes and so no logits to learn from. "
            "Give a run folder, a checkpoint or a model folder; of a backbone, features and attention can be learnt."
        )
    try:
        check_classifier(teacher, "linear", "auto", "")
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def read_teacher(teacher: Spec, facts: DataFacts, needs_logits: bool, where: str = _WHERE) -> Teacher:
    """The teacher that a config names, on the CPU.

    Args:
        teacher: a run folder, a checkpoint, a model folder, or the spec of a backbone with weights.
        facts: those of the student's data.
        needs_logits: whether its logits are to be learnt, and not only what its layers give.
        where: the place in the config, for messages.

    Raises:
        UserError: nothing is there; it takes images of other channels; its classes are others, or in another order,
            and its logits are wanted.
    """
    check_teacher(teacher, needs_logits, where)
    with torch.random.fork_rng(devices=[]):
        if not isinstance(teacher, str):
            classifier = build_classifier(teacher, "linear", "auto", facts)
            return Teacher(classifier, facts.image_size, f"the backbone {BACKBONES.parse(teacher)[0]}", False)
        found = read_origin(teacher, where)
    theirs = found.facts
    if not needs_logits:  # what it names images does not matter then
        theirs = DataFacts(facts.class_names, facts.class_counts, theirs.image_size, theirs.channels)
    refuse_other_classes(theirs, facts, f"{where}: {teacher}")
    name, _ = BACKBONES.parse(found.specs.backbone)
    return Teacher(found.classifier, theirs.image_size, f"{teacher} ({name})", True)


def _fingerprint(model: nn.Module) -> str:
    """A hash of all tensors of a network, with their names."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
