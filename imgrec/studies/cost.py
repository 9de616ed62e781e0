"""Cost of a technique in time, memory and parameters: a training step with it and the same step without it."""

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
from imgrec.utils.ranges import PositiveInt, check_ranges

_PLAIN: dict[str, str | None] = {"loss": "cross_entropy", "neck": None, "pooling": None, "head": "linear"}


@dataclass(frozen=True)
class StepCost:
    """Difference of the cost of two training steps.

    Args:
        seconds: Median of the differences of the durations, in seconds.
        ratio: Median of the ratios of the durations.
        memory: Difference of the peak memory of a step, in bytes.
        parameters: Difference of the number of trainable parameters.
        macs: Difference of the multiply-accumulate operations for one image.
    """

    seconds: float
    ratio: float
    memory: int
    parameters: int
    macs: int


class TrainingStep:
    """One training step of a task without a Trainer: forward pass, loss, penalties, backward pass, optimizer step.

    Args:
        task: Built task in training mode on the device of the measurement. Every step changes it. See
            :func:`imgrec.tasks.synthetic_step.temporary_copy`.
        batch: Batch of every step, on the same device.
        precision: Name of a precision in Lightning: 32-true, bf16-mixed or 16-mixed. Defaults to 32-true.

    Raises:
        UserError: If the precision is another one.
    """

    def __init__(self, task: BaseTask, batch: Batch, precision: str = "32-true") -> None:
        if precision not in AUTOCAST:
            raise UserError(f"trainer.precision: expected one of {', '.join(AUTOCAST)}, got {precision}.")
        self.task = task
        self.batch = batch
        self.precision = precision
        self.optimizer = build_optimizer(task.optimizer_spec, self.task, "model.optimizer", len(batch))
        self()  # the first step allocates the state of the optimizer

    def __call__(self) -> None:
        """Run one step."""
        make_step(self.task.model, self.optimizer, self._objective, self.precision)

    def seconds(self) -> float:
        """Return the duration of one step: CPU time on a CPU, wall-clock time on another device."""
        clock = time.perf_counter if self.batch.images.is_cuda else time.process_time
        self._synchronize()
        start = clock()
        self()
        self._synchronize()
        return clock() - start

    @cached_property
    def parameters(self) -> int:
        """Number of trainable parameters."""
        return sum(p.numel() for p in self.task.parameters() if p.requires_grad)

    @cached_property
    def memory(self) -> int:
        """Peak size of all tensors in a step, in bytes: weights, gradients, state, activations, batch."""
        live = LiveBytes()
        with live:
            self()
        kept = [*self.task.parameters(), *self.task.buffers(), *tree_leaves(self.optimizer.state_dict())]
        return live.peak + sum(_storages([*kept, self.batch.images, self.batch.targets]).values())

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulate operations of the model for one image."""
        return count_macs(self.task.model, self.batch.images[:1])

    def _synchronize(self) -> None:
        if self.batch.images.is_cuda:
            torch.cuda.synchronize()

    def _objective(self) -> Tensor:
        output = self.task.model_step(self.batch)
        penalty, _ = self.task.regularizers(output, self.task.model, 1.0)
        loss: Tensor = self.task.compute_loss(output) + penalty
        return loss


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of the bytes of all live tensors that operations create in this context.

    Tensors that share memory count once. Temporary allocations inside an operation are not included.

    Attributes:
        now: Number of bytes of the live tensors.
        peak: Largest number so far.

    Example:
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
        """Call the operation and count the tensors that it returns."""
        known = _storages([*tree_leaves(args), *tree_leaves(kwargs)])
        found = func(*args, **(kwargs or {}))
        for each in tree_leaves(found):
            if isinstance(each, Tensor):
                self._count(each.untyped_storage(), known)
        return found

    def _count(self, storage: torch.UntypedStorage, known: Mapping[int, int]) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in known or address in self._held:
            return

        def release(_: Any) -> None:
            self._held.pop(address, None)
            self.now -= size

        self._held[address] = weakref.ref(storage, release)
        self.now += size
        self.peak = max(self.peak, self.now)


@check_ranges
def training_step(
    model: Mapping[str, Any],
    image_size: PositiveInt = 32,
    batch_size: PositiveInt = 128,
    num_classes: PositiveInt = 10,
    device: str = "cpu",
) -> TrainingStep:
    """Build a step of a :class:`ClassificationTask` on random images, without pretrained weights.

    Args:
        model: Arguments of the task, as under ``model`` in a config.
        image_size: Side of the images, in pixels. Defaults to 32.
        batch_size: Number of images in the batch. Defaults to 128.
        num_classes: Number of classes, which are equally frequent. Defaults to 10.
        device: Device of the step. Defaults to ``cpu``.
    """
    names = tuple(f"c{number}" for number in range(num_classes))
    facts = DataFacts(names, (batch_size,) * num_classes, image_size)
    task = ClassificationTask(**model, load_weights=False)
    return build_step(task, facts, batch_size, torch.device(device))


def build_step(
    task: BaseTask, facts: DataFacts, batch_size: int, device: torch.device, precision: str = "32-true"
) -> TrainingStep:
    """Build a step of a copy of a task on random images.

    Args:
        task: Task that is not built yet. It does not change.
        facts: Facts of the data.
        batch_size: Number of images in the batch.
        device: Device of the copy.
        precision: See :class:`TrainingStep`. Defaults to 32-true.

    Raises:
        UserError: If the task cannot be built, or if the precision is not supported.
    """
    with temporary_copy(task, facts, device) as copied:
        return TrainingStep(copied, random_batch(facts, batch_size).to(device), precision)


def remove_each(model: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the arguments of a task with one technique removed at a time, by the name of the technique.

    A loss is replaced by cross-entropy, a head by a linear layer, and a pooling by that of the backbone. An optimizer
    that wraps another one is replaced by it. Regularizers, edits and necks are removed.

    Example:
        >>> list(remove_each({"loss": "focal", "neck": "fpn", "edits": ["se", {"name": "blur"}], "optimizer": "sgd"}))
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
            found[unique_name(f"{key} {spec_name(spec)}", found)] = {**model, key: [*specs[:i], *specs[i + 1 :]]}
    optimizer = model.get("optimizer")
    if isinstance(optimizer, Mapping) and "base" in optimizer:
        found[f"optimizer {spec_name(optimizer)}"] = {**model, "optimizer": optimizer["base"]}
    return found


def unique_name(name: str, used: Collection[str]) -> str:
    """Return a name with a number appended if it is in use already.

    Example:
        >>> unique_name("l2", ["l1"]), unique_name("l2", ["l2"]), unique_name("l2", ["l2", "l2 (2)"])
        ('l2', 'l2 (2)', 'l2 (3)')
    """
    same = sum(each == name or each.startswith(f"{name} (") for each in used)
    return f"{name} ({same + 1})" if same else name


def spec_name(spec: Any) -> str:
    """Return the name of a spec or of a list of specs in a table, or the arguments of a spec without a name.

    Example:
        >>> spec_name({"name": "focal", "gamma": 2}), spec_name(["se", "blur"]), spec_name({"dropout": 0.1})
        ('focal', 'se + blur', 'dropout 0.1')
    """
    if isinstance(spec, list):
        return " + ".join(map(spec_name, spec)) or "none"
    if isinstance(spec, Mapping):
        return str(spec["name"]) if "name" in spec else ", ".join(f"{key} {value}" for key, value in spec.items())
    return "none" if spec is None else str(spec)


@check_ranges
def compare_steps(step: TrainingStep, base: TrainingStep, rounds: PositiveInt = 7) -> StepCost:
    """Measure the additional cost of ``step`` over ``base``, in turn and after one warm-up step of each.

    Args:
        step: Training step.
        base: Training step to compare with.
        rounds: Number of measurements of each step. Defaults to 7.

    Example:
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
    """Return the size of each storage of these tensors, in bytes, by its address."""
    storages = (each.untyped_storage() for each in tensors if isinstance(each, Tensor))
    return {storage.data_ptr(): storage.nbytes() for storage in storages if storage.nbytes()}
