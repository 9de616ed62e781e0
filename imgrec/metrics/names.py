"""Titles and order of metrics in tables: the ones that imgrec computes, then those of a user's ``build_metrics``."""

from __future__ import annotations

from collections.abc import Iterable

TITLES = {
    "acc": "Accuracy",
    "acc_top5": "Top-5 accuracy",
    "precision_macro": "Macro precision",
    "recall_macro": "Macro recall",
    "f1_macro": "Macro F1",
    "auroc": "AUROC",
    "ece": "ECE",
    "nll": "NLL",
    "loss": "Loss",
}
"""The metrics of :func:`imgrec.metrics.scores.classification_scores` and the loss, in the order of tables."""

HINTS = {
    "acc_top5": "among the five most probable",
    "f1_macro": "mean over classes",
    "auroc": "one class against the rest",
    "ece": "calibration error, 15 bins",
    "nll": "mean, in nats",
}
"""A few words on some of them, for a reader of a page."""


_LONG = {
    "acc": "accuracy",
    "acc_top5": "top-5 accuracy",
    "precision_macro": "precision (macro)",
    "recall_macro": "recall (macro)",
    "f1_macro": "F1 (macro)",
    "ece": "calibration error",
    "nll": "negative log-likelihood",
    "loss": "loss",
}


def title_of(name: str) -> str:
    """Return the title of a metric; that of a user's own metric is its name.

    >>> title_of("f1_macro"), title_of("recall_of_cats")
    ('Macro F1', 'recall_of_cats')
    """
    return TITLES.get(name, name)


def long_title_of(name: str) -> str:
    """Return the title of a metric in a table that has room for it.

    >>> long_title_of("f1_macro"), long_title_of("auroc"), long_title_of("recall_of_cats")
    ('F1 (macro)', 'AUROC', 'recall_of_cats')
    """
    return _LONG.get(name, title_of(name))


def custom_metrics(names: Iterable[str]) -> list[str]:
    """Return the names that imgrec does not compute itself, each once, in their order.

    >>> custom_metrics(["acc", "loss", "recall_of_cats"])
    ['recall_of_cats']
    """
    return [name for name in dict.fromkeys(names) if name not in TITLES]


def ordered(names: Iterable[str]) -> list[str]:
    """Return the names in the order of tables: imgrec's own metrics first, then custom ones in the given order.

    >>> ordered(["mine", "nll", "acc"])
    ['acc', 'nll', 'mine']
    """
    found = list(names)
    return [*(name for name in TITLES if name in found), *custom_metrics(found)]


def metric_text(name: str, value: float | None) -> str:
    """Return a value for a table: accuracies in percent, others with four digits, a dash if there is none.

    >>> metric_text("acc", 0.5), metric_text("nll", 0.5), metric_text("auroc", None)
    ('50.00 %', '0.5000', '—')
    """
    if value is None or value != value:
        return "—"
    return f"{100 * value:.2f} %" if name.startswith("acc") else f"{value:.4f}"
