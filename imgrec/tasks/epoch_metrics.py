"""The metrics of an epoch: those of METRICS, and those that a user's build_metrics returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torchmetrics
from numpy.typing import NDArray
from torch import Tensor

from imgrec.errors import UserError
from imgrec.metrics import METRICS, classification_scores
from imgrec.metrics.per_image import per_image
from imgrec.metrics.registry import Metric

Function = Callable[[Tensor, Tensor], Any]
"""Function of all logits and targets of an epoch: returns a number, or a mapping of names to numbers."""

Torchmetrics = torchmetrics.Metric | torchmetrics.MetricCollection

Metrics = Function | Torchmetrics | Metric | str | Mapping[str, Any] | Sequence[Any]
"""Type of the return value of ``build_metrics``, the argument of :class:`EpochMetrics`."""


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Compute every metric of :data:`imgrec.metrics.METRICS` from tensors.

    Args:
        logits: Logits of shape ``(samples, num_classes)``, on any device.
        targets: Class indices of shape ``(samples,)``.

    Returns:
        Metrics by name: ``acc``, ``acc_top5``, ``f1_macro``, ... Empty if there is no sample.

    Example:
        >>> import torch
        >>> classification_metrics(torch.tensor([[2.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))["acc"]
        1.0
    """
    return classification_scores(_to_numpy(logits), targets.detach().cpu().numpy())


class EpochMetrics:
    """Function of all logits and targets of an epoch that returns named metrics.

    Args:
        given: Function ``(logits, targets)`` that returns a mapping, torchmetrics ``Metric`` or ``MetricCollection``,
            name of an entry of METRICS, or dotted path. A list of these, or a mapping from names to these or to
            functions that return one number, is also accepted.

    Attributes:
        directions: ``higher_is_better`` of the metrics that state it, by name.

    Raises:
        UserError: If ``given`` is none of these, or a metric is not a single number.

    Example:
        >>> import torch
        >>> metrics = EpochMetrics({"mean_target": lambda logits, targets: targets.float().mean()})
        >>> metrics(torch.zeros(2, 2), torch.tensor([0, 1]))
        {'mean_target': 0.5}
    """

    def __init__(self, given: Metrics) -> None:
        self.directions: dict[str, bool] = {}
        self._parts = self._parse(given)

    def __call__(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        """Compute all metrics. A metric that is not defined is absent."""
        found: dict[str, float] = {}
        for name, function in self._parts:
            value = function(logits, targets)
            values = value if isinstance(value, Mapping) else {name: value}
            found |= {key: _number(key, each) for key, each in values.items() if each is not None}
        return found

    def _parse(self, given: Any, name: str = "") -> list[tuple[str, Function]]:
        if isinstance(given, torchmetrics.Metric | torchmetrics.MetricCollection):
            return [self._of_torchmetrics(given, name)]
        if isinstance(given, str):
            given = METRICS.build(given, "build_metrics")
        if isinstance(given, Metric):
            self.directions[name or given.name] = given.higher_is_better
            return [(name or given.name, _of_arrays(given))]
        if isinstance(given, Mapping):
            return [part for key, each in given.items() for part in self._parse(each, str(key))]
        if isinstance(given, Sequence):
            return [part for each in given for part in self._parse(each)]
        if callable(given):
            return [(name or getattr(given, "__name__", "metric"), given)]
        raise UserError(
            f"build_metrics: expected a function, a torchmetrics.Metric, a name of METRICS, or a mapping or list of "
            f"these, got {type(given).__name__}."
        )

    def _of_torchmetrics(self, metric: Torchmetrics, name: str) -> tuple[str, Function]:
        members: dict[str, Any] = {name or type(metric).__name__: metric}
        if isinstance(metric, torchmetrics.MetricCollection):
            members = {str(key): each for key, each in metric.items()}
        for key, each in members.items():
            each.sync_on_compute = False  # one process computes the metrics from the predictions of all
            if each.higher_is_better is not None:
                self.directions[key] = bool(each.higher_is_better)

        def compute(logits: Tensor, targets: Tensor) -> Any:
            whole: Any = metric.to(logits.device)
            whole.reset()
            whole.update(logits, targets)
            return whole.compute()

        return next(iter(members), name), compute


def directions_of(task: object) -> Mapping[str, bool]:
    """Return ``higher_is_better`` of the metrics of a task that state it, by name."""
    metrics = getattr(task, "metrics", None)
    return metrics.directions if isinstance(metrics, EpochMetrics) else {}


def _of_arrays(metric: Metric) -> Function:
    return lambda logits, targets: metric.value(per_image(_to_numpy(logits), targets.detach().cpu().numpy()))


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise UserError(f'build_metrics: expected one number for "{name}", got a tensor of shape {tuple(value.shape)}.')
    return float(value)


def _to_numpy(logits: Tensor) -> NDArray[Any]:
    wide = logits if logits.dtype == torch.float64 else logits.float()
    found: NDArray[Any] = wide.detach().cpu().numpy()
    return found
