"""Titles, order, direction and number format of metrics: those of METRICS, the loss, and metrics of a user's task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from imgrec.metrics import METRICS
from imgrec.metrics.registry import Table, is_loss_or_error

LOSS = "loss"
"""Name of the loss, which is in the tables of metrics and is not computed from predictions."""

Mode = Literal["min", "max"]


def title_of(name: str) -> str:
    """Return the title of a metric, which is its name if it is not registered.

    >>> title_of("f1_macro"), title_of("recall_of_cats")
    ('Macro F1', 'recall_of_cats')
    """
    metric = METRICS.find(name)
    return metric.title if metric is not None else {LOSS: "Loss"}.get(name, name)


def label_of(name: str) -> str:
    """Return the title of a metric in a table of the terminal.

    >>> label_of("f1_macro"), label_of("auroc"), label_of("recall_of_cats")
    ('F1 (macro)', 'AUROC', 'recall_of_cats')
    """
    metric = METRICS.find(name)
    return metric.label if metric is not None else name


def hint_of(name: str) -> str:
    """Return a few words on a metric for the reader of a page, or an empty string."""
    metric = METRICS.find(name)
    return metric.properties.hint if metric is not None else ""


def custom_metrics(names: Iterable[str]) -> list[str]:
    """Return the names of unregistered metrics, which a user's ``build_metrics`` computes, each once.

    >>> custom_metrics(["acc", "loss", "recall_of_cats"])
    ['recall_of_cats']
    """
    return [name for name in dict.fromkeys(names) if name != LOSS and METRICS.find(name) is None]


def ordered(names: Iterable[str]) -> list[str]:
    """Return the names in the order of tables: registered metrics, the loss, then unregistered metrics.

    >>> ordered(["mine", "nll", "acc"])
    ['acc', 'nll', 'mine']
    """
    found = list(names)
    registered = [metric.name for metric in METRICS.in_order()]
    return [*(name for name in (*registered, LOSS) if name in found), *custom_metrics(found)]


def shown_in(table: Table, names: Iterable[str]) -> list[str]:
    """Return those of the names that a narrow table shows, in the order of tables.

    >>> shown_in("evaluations", ["mine", "ece", "acc"])
    ['acc', 'mine']
    """
    found = list(names)
    chosen = {metric.name for metric in METRICS.in_order() if table in metric.properties.tables}
    return [name for name in ordered(found) if name in chosen] + custom_metrics(found)


def mode_of(name: str, directions: Mapping[str, bool] | None = None) -> Mode:
    """Return ``max`` if a higher value of a metric is better, otherwise ``min``.

    Args:
        name: Name of a metric, with or without ``val/``.
        directions: ``higher_is_better`` of metrics that a task computes, by name.

    Returns:
        The direction in ``directions``, otherwise that of METRICS. For an unregistered metric ``min`` if the name ends
        in ``loss``, ``error``, ``ece`` or ``nll``, otherwise ``max``.

    >>> mode_of("val/acc"), mode_of("test/ece"), mode_of("val/spread", {"spread": False})
    ('max', 'min', 'min')
    """
    return known_mode(name, directions) or "max"


def known_mode(name: str, directions: Mapping[str, bool] | None = None) -> Mode | None:
    """Return :func:`mode_of`, or ``None`` if neither a direction nor the name of the metric determines it.

    >>> known_mode("val/acc"), known_mode("val/spread")
    ('max', None)
    """
    own = name.rpartition("/")[2]
    if directions is not None and own in directions:
        return "max" if directions[own] else "min"
    if (metric := METRICS.find(own)) is not None:
        return "max" if metric.higher_is_better else "min"
    return "min" if is_loss_or_error(own) else None


def is_percent(name: str) -> bool:
    """Return True if tables show a metric in percent."""
    metric = METRICS.find(name)
    return metric.properties.format == "percent" if metric is not None else name.startswith("acc")


def metric_text(name: str, value: float | None) -> str:
    """Return a value for a table: in percent or with four digits, and a dash if there is none.

    >>> metric_text("acc", 0.5), metric_text("nll", 0.5), metric_text("auroc", None)
    ('50.00 %', '0.5000', '—')
    """
    if value is None or value != value:
        return "—"
    return f"{100 * value:.2f} %" if is_percent(name) else f"{value:.4f}"
