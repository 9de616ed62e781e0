"""METRICS, the registry of metrics, and Metric, one of its entries."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from imgrec.metrics.per_image import PerImage
from imgrec.registry import Registry, Spec
from imgrec.utils.signature import Entry

Function = Callable[..., float | None]
"""A metric: takes the arrays named in :data:`INPUTS`, returns a number, or ``None`` if it is not defined."""

Table = Literal["report", "evaluations", "compare", "runs"]

ALL_TABLES: frozenset[Table] = frozenset(("report", "evaluations", "compare", "runs"))

INPUTS = ("predicted", "confidence", "rank", "nll", "probabilities", "logits", "targets", "num_classes", "images")
"""Names of the parameters that receive predictions, described in :class:`imgrec.metrics.per_image.PerImage`."""

_NEED_SOFTMAX = frozenset(("confidence", "nll", "probabilities"))


@dataclass(frozen=True)
class Properties:
    """Properties of a registered metric.

    Args:
        title: Title in tables and on pages. Defaults to the name.
        label: Title in the tables of the terminal. Defaults to ``title``.
        hint: A few words under the value on a page.
        higher_is_better: Direction for checkpoints, early stopping, ``plateau`` and sorted tables.
        target: Kind of target: ``class`` for one class index per image.
        format: ``percent`` for two digits in percent, ``decimal`` for four digits.
        tables: Narrow tables that show the metric: ``report`` (tiles), ``evaluations`` (section of the report),
            ``compare`` and ``runs``. All other tables and files contain every metric.
    """

    title: str = ""
    label: str = ""
    hint: str = ""
    higher_is_better: bool = True
    target: Literal["class"] = "class"
    format: Literal["percent", "decimal"] = "decimal"
    tables: frozenset[Table] = ALL_TABLES


@dataclass(frozen=True)
class Metric:
    """Metric of predictions: a function with a name and properties.

    Args:
        name: Name in files, without ``val/`` or ``test/``.
        function: The function that computes it.
        properties: Title, direction, format.
        options: Further arguments of the function, such as ``bins``.

    Example:
        >>> from imgrec.metrics import METRICS
        >>> from imgrec.metrics.per_image import per_image
        >>> METRICS.build("acc").value(per_image([[2.0, 0.0], [1.0, 0.0]], [0, 1]))
        0.5
    """

    name: str
    function: Function
    properties: Properties
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Title in tables and on pages."""
        return self.properties.title or self.name

    @property
    def label(self) -> str:
        """Title in the tables of the terminal."""
        return self.properties.label or self.title

    @property
    def higher_is_better(self) -> bool:
        """True if a larger value is better."""
        return self.properties.higher_is_better

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of :data:`INPUTS` that the function requires."""
        return tuple(name for name in inspect.signature(self.function).parameters if name in INPUTS)

    def value(self, images: PerImage) -> float | None:
        """Return the value for some predictions.

        NaN if an image has no softmax and the metric requires one. ``None`` if the metric is not defined.
        """
        if _NEED_SOFTMAX.intersection(self.inputs) and not images.has_softmax.all():
            return float("nan")
        found = self.function(**{name: images.array(name) for name in self.inputs}, **self.options)
        return None if found is None else float(found)


class MetricRegistry(Registry[Metric]):
    """Registry of metrics.

    An entry is a function whose parameters have names of :data:`INPUTS`. Further parameters are options. Other packages
    add functions by entry points of the group ``imgrec.metrics``. A function of an entry point or a dotted path states
    its properties with :meth:`describe`. Otherwise its name is the title and determines the direction.

    Example:
        >>> from imgrec.metrics import METRICS
        >>> metric = METRICS.build({"name": "ece", "bins": 10})
        >>> metric.title, metric.higher_is_better, metric.inputs
        ('ECE', False, ('confidence', 'predicted', 'targets'))
    """

    inputs = INPUTS

    def __init__(self) -> None:
        super().__init__("metric", "metrics")
        self._properties: dict[str, Properties] = {}

    def register(self, name: str, **properties: Any) -> Callable[[Callable[..., Any]], Any]:
        """Return a decorator that adds a function.

        Args:
            name: Name of the metric, as in ``val/<name>``.
            **properties: Arguments of :class:`Properties`.

        Raises:
            ValueError: If the name is registered already, or if the function has no parameter named in ``INPUTS``.
        """
        add = super().register(name)

        def register(function: Function) -> Function:
            if not set(inspect.signature(function).parameters).intersection(INPUTS):
                raise ValueError(f'metric "{name}": expected a parameter named one of {", ".join(INPUTS)}, got none')
            self._properties[name] = Properties(**properties)
            add(function)
            return function

        return register

    @staticmethod
    def describe(**properties: Any) -> Callable[[Function], Function]:
        """Return a decorator that attaches :class:`Properties` to a function without registering it."""

        def attach(function: Function) -> Function:
            function.properties = Properties(**properties)  # type: ignore[attr-defined]
            return function

        return attach

    def check(self, spec: Spec, where: str = "", facts: Collection[str] = ()) -> None:
        """Raise the error that :meth:`build` would raise for this spec."""
        super().check(spec, where, {*facts, *INPUTS})

    def build(self, spec: Spec, where: str = "", /, **facts: Any) -> Metric:
        """Return the metric that a spec names.

        Raises:
            SpecError: If the name or an option is unknown, or an option is of the wrong type.
        """
        name, given = self.parse(spec, where)
        entry = self.entry(name, where)
        options = self._arguments(entry, given, where, INPUTS, build=True)
        return self._metric(entry, options)

    def in_order(self) -> list[Metric]:
        """Return all metrics in the order of tables: in the order of registration, then entry points by name."""
        names = [*self._entries, *sorted(set(self.names()) - self._entries.keys())]
        return [self._metric(self.entry(name), {}) for name in names]

    def find(self, name: str) -> Metric | None:
        """Return the registered metric of a name, or ``None``."""
        return self._metric(self.entry(name), {}) if name in self._entries or name in self._plugins() else None

    def properties_of(self, name: str) -> dict[str, str]:
        """Return title, direction, inputs, kind of target and format, for ``imgrec show``."""
        metric = self.build(name)
        return {
            "title": metric.title,
            "better": "higher" if metric.higher_is_better else "lower",
            "inputs": ", ".join(metric.inputs),
            "target": metric.properties.target,
            "format": metric.properties.format,
        }

    def _metric(self, entry: Entry[Any], options: Mapping[str, Any]) -> Metric:
        name = entry.name.rpartition(".")[2]
        properties = self._properties.get(entry.name) or getattr(entry.factory, "properties", None)
        properties = properties or Properties(higher_is_better=not is_loss_or_error(name))
        return Metric(name, entry.factory, properties, options)


def is_loss_or_error(name: str) -> bool:
    """Return True if an unregistered metric is a loss or an error by its name, so that a lower value is better.

    >>> is_loss_or_error("loss"), is_loss_or_error("my_error"), is_loss_or_error("recall_of_cats")
    (True, True, False)
    """
    return name.endswith(("loss", "loss_step", "error", "ece", "nll"))


METRICS = MetricRegistry()
"""Metrics by name: ``acc``, ``f1_macro``, ``auroc``, ``ece``, .... Training, reports and tables read it."""
