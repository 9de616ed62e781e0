"""What a technique costs: a training step with it beside the same step without it, in time, memory and parameters."""

from __future__ import annotations

import statistics
import time
import weakref
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from imgrec.compress.profiling import count_macs
from imgrec.errors import UserError
from imgrec.optim import build_optimizer
from imgrec.tasks import BaseTask, ClassificationTask
from imgrec.tasks.synthetic_step import AUTOCAST, make_step, random_batch, temporary_copy
from imgrec.types import Batch, DataFacts

_PLAIN: dict[str, str | None] = {"loss": "cross_entropy", "neck": None, "pooling": None, "head": "linear"}


@dataclass(frozen=True)
class StepCost:
    """What a step takes more than another one.

    Attributes:
        seconds: the median of the differences, pair by pair.
        ratio: the median of the ratios, pair by pair.
        memory: bytes at the fullest moment of a step.
        parameters: numbers that are trained.
        macs: multiplications of the network for one image.
    """

    seconds: float
    ratio: float
    memory: int
    parameters: int
    macs: int


class TrainingStep:
    """One training step of a task, without a Trainer: forward, loss, penalties, backward, and the optimizer's step.

    Args:
        task: a built one, in training mode, on the device where it is to be measured; see
            :func:`imgrec.tasks.synthetic_step.temporary_copy`. Every step changes it.
        batch: what every step learns from, on the same device.
        precision: Lightning's name of it: 32-true, bf16-mixed or 16-mixed.

    Raises:
        UserError: another precision.
    """

    def __init__(self, task: BaseTask, batch: Batch, precision: str = "32-true") -> None:
        if precision not in AUTOCAST:
            raise UserError(f"a step in precision {precision} is not measured. Accepted: {', '.join(AUTOCAST)}.")
        self.task = task
        self.batch = batch
        self.precision = precision
        self.optimizer = build_optimizer(task.optimizer_spec, self.task, "model.optimizer", len(batch))
        self()  # what is made at the first step, such as the optimizer's state

    def __call__(self) -> None:
        """Make one step."""
        make_step(self.task.model, self.optimizer, self._objective, self.precision)

    def seconds(self) -> float:
        """One step's time: of the processor, or by the clock where another device computes."""
        clock = time.perf_counter if self.batch.images.is_cuda else time.process_time
        self._wait()
        began = clock()
        self()
        self._wait()
        return clock() - began

    @cached_property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(p.numel() for p in self.task.parameters() if p.requires_grad)

    @cached_property
    def memory(self) -> int:
        """The bytes of all tensors at the fullest moment of a step: weights, gradients, state, activations, batch."""
        live = LiveBytes()
        with live:
            self()
        kept = [*self.task.parameters(), *self.task.buffers(), *tree_leaves(self.optimizer.state_dict())]
        return live.peak + sum(_storages([*kept, self.batch.images, self.batch.targets]).values())

    @cached_property
    def macs(self) -> int:
        """The multiplications by which the network names the class of one image."""
        return count_macs(self.task.model, self.batch.images[:1])

    def _wait(self) -> None:
        if self.batch.images.is_cuda:
            torch.cuda.synchronize()

    def _objective(self) -> Tensor:
        output = self.task.model_step(self.batch)
        penalty, _ = self.task.regularizers(output, self.task.model, 1.0)
        loss: Tensor = self.task.compute_loss(output) + penalty
        return loss


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that operations make inside it, as long as anything holds them.

    Tensors that share their memory count once. What a library allocates for itself during an operation is not seen.

    >>> with LiveBytes() as live:
    ...     doubled = torch.ones(1000) * 2
    >>> live.now, live.peak
    (4000, 8000)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._held: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The operation as it is; what it gives is counted."""
        known = _storages([*tree_leaves(args), *tree_leaves(kwargs)])
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage(), known)
        return found

    def _count(self, storage: torch.UntypedStorage, known: Mapping[int, int]) -> None:
        place, size = storage.data_ptr(), storage.nbytes()
        if not size or place in known or place in self._held:
            return

        def gone(_: Any) -> None:
            self._held.pop(place, None)
            self.now -= size

        self._held[place] = weakref.ref(storage, gone)
        self.now += size
        self.peak = max(self.peak, self.now)


def training_step(
    model: Mapping[str, Any], image_size: int = 32, batch_size: int = 128, num_classes: int = 10, device: str = "cpu"
) -> TrainingStep:
    """A step of a :class:`ClassificationTask` with these arguments, on images of noise; no weights are loaded.

    Args:
        model: as under ``model`` in a config.
        image_size: the side of the images, in pixels.
        batch_size: images in the batch.
        num_classes: how many classes there are, each as often as any other.
        device: where it runs.
    """
    names = tuple(f"c{number}" for number in range(num_classes))
    facts = DataFacts(names, (batch_size,) * num_classes, image_size)
    task = ClassificationTask(**model, load_weights=False)
    return step_of(task, facts, batch_size, torch.device(device))


def step_of(
    task: BaseTask, facts: DataFacts, batch_size: int, device: torch.device, precision: str = "32-true"
) -> TrainingStep:
    """A step of a copy of a task that is not built yet, on images of noise.

    Args:
        task: stays as it is.
        facts: what the data said.
        batch_size: images in the batch.
        device: where the copy is.
        precision: see :class:`TrainingStep`.

    Raises:
        UserError: the task cannot be built, or has another precision.
    """
    with temporary_copy(task, facts, device) as made:
        return TrainingStep(made, random_batch(facts, batch_size).to(device), precision)


def without_each(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The arguments of a task, without one of its techniques at a time, by the technique's name.

    A loss gives way to cross-entropy, a head to a linear layer, a pooling to the network's own, an optimizer that wraps
    another to the one that it wraps; a regularizer, an edit or a neck is left out.

    >>> list(without_each({"loss": "focal", "neck": "fpn", "edits": ["se", {"name": "blur"}], "optimizer": "sgd"}))
    ['loss focal', 'neck fpn', 'edits se', 'edits blur']
    """
    found: dict[str, dict[str, Any]] = {}
    for key, plain in _PLAIN.items():
        spec = model.get(key)
        if spec is not None and spec_name(spec) != plain:
            found[f"{key} {spec_name(spec)}"] = {**model, key: plain}
    for key in ("regularizers", "edits"):
        specs = model.get(key) or []
        specs = specs if isinstance(specs, list) else [specs]
        for i, spec in enumerate(specs):
            found[numbered(f"{key} {spec_name(spec)}", found)] = {**model, key: [*specs[:i], *specs[i + 1 :]]}
    optimizer = model.get("optimizer")
    if isinstance(optimizer, Mapping) and "base" in optimizer:
        found[f"optimizer {spec_name(optimizer)}"] = {**model, "optimizer": optimizer["base"]}
    return found


def numbered(name: str, taken: Collection[str]) -> str:
    """A name that is not taken: itself, or with a number behind it.

    >>> numbered("l2", ["l1"]), numbered("l2", ["l2"]), numbered("l2", ["l2", "l2 (2)"])
    ('l2', 'l2 (2)', 'l2 (3)')
    """
    same = sum(each == name or each.startswith(f"{name} (") for each in taken)
    return f"{name} ({same + 1})" if same else name


def spec_name(spec: Any) -> str:
    """What a spec, or a list of them, is called in a table; one without a name, by its arguments.

    >>> spec_name({"name": "focal", "gamma": 2}), spec_name(["se", "blur"]), spec_name({"dropout": 0.1})
    ('focal', 'se + blur', 'dropout 0.1')
    """
    if isinstance(spec, list):
        return " + ".join(map(spec_name, spec)) or "none"
    if isinstance(spec, Mapping):
        return str(spec["name"]) if "name" in spec else ", ".join(f"{key} {value}" for key, value in spec.items())
    return "none" if spec is None else str(spec)


def compare_steps(step: TrainingStep, base: TrainingStep, rounds: int = 7) -> StepCost:
    """What ``step`` takes more than ``base``: both in turn, so often, after one that does not count.

    >>> tiny = {"backbone": {"name": "resnet9", "channels": [4, 4, 4, 4]}}
    >>> larger = training_step({**tiny, "head": {"name": "mlp", "hidden": 6}}, 16, 8)
    >>> compare_steps(larger, training_step(tiny, 16, 8), rounds=1).parameters
    50
    """
    base()
    step()
    times = [(step.seconds(), base.seconds()) for _ in range(rounds)]
    return StepCost(
        statistics.median(ours - theirs for ours, theirs in times),
        statistics.median(ours / theirs for ours, theirs in times),
        step.memory - base.memory,
        step.parameters - base.parameters,
        step.macs - base.macs,
    )


def _storages(tensors: Iterable[Any]) -> dict[int, int]:
    """The bytes of each piece of memory that these tensors lie in, by its address."""
    pieces = (each.untyped_storage() for each in tensors if isinstance(each, Tensor))
    return {piece.data_ptr(): piece.nbytes() for piece in pieces if piece.nbytes()}
