"""Tables of a comparison, as a dictionary and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from imgrec.compare.comparison import Comparison, PairComparison, p_value_text
from imgrec.compare.groups import Group
from imgrec.metrics.names import metric_text, title_of
from imgrec.runs.summary import to_plain
from imgrec.utils.formatting import duration, short_count

GROUP_COLUMNS = ("Group", "Runs", "Accuracy", "± / interval", "NLL", "ECE", "Training", "Parameters")
PAIR_COLUMNS = ("First", "Second", "Difference", "95 % interval", "Only first", "Only second", "p", "Holm", "Verdict")


def group_columns(groups: Sequence[Group]) -> list[str]:
    """Return ``GROUP_COLUMNS`` with a column after the ECE for every custom metric that all groups have."""
    end = GROUP_COLUMNS.index("ECE") + 1
    return [*GROUP_COLUMNS[:end], *map(title_of, shared_custom_metrics(groups)), *GROUP_COLUMNS[end:]]


def shared_custom_metrics(groups: Sequence[Group]) -> list[str]:
    """Return the names of the custom metrics that all runs of all groups have, in their order."""
    runs = [run for group in groups for run in group.runs]
    return [name for name in runs[0].custom if all(name in run.custom for run in runs)] if runs else []


def group_cells(group: Group, custom: Sequence[str] = ()) -> list[str]:
    """Return the cells of a group for :func:`group_columns`, as means over its runs.

    Args:
        group: Group of runs.
        custom: Names of custom metrics, as :func:`shared_custom_metrics` returns them.
    """
    seconds, parameters = group.mean("train_seconds"), group.mean("parameters")
    return [
        group.name,
        str(len(group.runs)),
        f"{100 * group.accuracy:.2f} %",
        spread_text(group),
        _four(group.mean("nll")),
        _four(group.mean("ece")),
        *(metric_text(name, group.mean(name)) for name in custom),
        "—" if seconds is None else duration(seconds),
        "—" if parameters is None else short_count(round(parameters)),
    ]


def spread_text(group: Group) -> str:
    """Return the standard deviation over the runs in points, or the 95 % interval of a single run in percent."""
    if group.spread is not None:
        return f"± {100 * group.spread:.2f}"
    assert group.interval is not None
    return "{:.2f} to {:.2f}".format(*(100 * end for end in group.interval))


def pair_cells(pair: PairComparison) -> list[str]:
    """Return the cells of a pair for ``PAIR_COLUMNS``, with differences in points of accuracy."""
    return [
        pair.first.name,
        pair.second.name,
        f"{100 * pair.difference:+.2f}",
        f"{100 * pair.low:+.2f} to {100 * pair.high:+.2f}",
        f"{pair.first_only:,}",
        f"{pair.second_only:,}",
        p_value_text(pair.p).removeprefix("= "),
        p_value_text(pair.adjusted).removeprefix("= "),
        pair.verdict,
    ]


def to_markdown(comparison: Comparison) -> str:
    """Return the groups, the pairs and the differences of the configs as Markdown tables."""
    columns, custom = group_columns(comparison.groups), shared_custom_metrics(comparison.groups)
    parts = [
        f"Accuracy on {len(comparison.images):,} {comparison.split} images.\n",
        _table(columns, (group_cells(group, custom) for group in comparison.groups), "l" + "r" * (len(columns) - 1)),
    ]
    if comparison.pairs:
        parts.append(_table(PAIR_COLUMNS, map(pair_cells, comparison.pairs), "llrrrrrrl"))
        parts.append("\n".join(f"- {_escaped(pair.sentence)}" for pair in comparison.pairs) + "\n")
    if comparison.differences:
        names = ["Differs", *(group.name for group in comparison.groups)]
        rows = ([name, *cells] for name, cells in comparison.differences.items())
        parts.append(_table(names, rows, "l" * len(names)))
    parts += [f"{_escaped(note)}\n" for note in comparison.notes]
    return "\n".join(parts)


def to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return the comparison as JSON-serializable data. Accuracies and differences are fractions."""
    found = {
        "split": comparison.split,
        "images": len(comparison.images),
        "class_names": list(comparison.images.class_names),
        "groups": [_group_to_dict(group) for group in comparison.groups],
        "pairs": [
            {
                "first": pair.first.name,
                "second": pair.second.name,
                "difference": pair.difference,
                "interval": [pair.low, pair.high],
                "test": "McNemar's exact test" if pair.exact else "Student's t over seeds and images",
                "p": pair.p,
                "p_holm": pair.adjusted,
                "better": pair.better.name if pair.better else None,
                "images_only_first": pair.first_only,
                "images_only_second": pair.second_only,
                "verdict": pair.sentence,
            }
            for pair in comparison.pairs
        ],
        "differences": {
            name: dict(zip((group.name for group in comparison.groups), cells, strict=True))
            for name, cells in comparison.differences.items()
        },
        "notes": list(comparison.notes),
    }
    values: dict[str, Any] = to_plain(found)
    return values


def _group_to_dict(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "accuracy": group.accuracy,
        "accuracy_sd": group.spread,
        "nll": group.mean("nll"),
        "ece": group.mean("ece"),
        **{name: group.mean(name) for name in shared_custom_metrics([group])},
        "train_seconds": group.mean("train_seconds"),
        "parameters": group.mean("parameters"),
        "runs": [
            {
                "run": str(run.run.path),
                "seed": run.seed,
                "accuracy": run.accuracy,
                "interval": list(run.interval),
                "nll": run.nll,
                "ece": run.ece,
                **run.custom,
                "train_seconds": run.summary.get("train_seconds"),
                "parameters": run.summary.get("parameters"),
            }
            for run in group.runs
        ],
    }


def _four(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], sides: str) -> str:
    lines = [columns, ["---:" if side == "r" else "---" for side in sides], *rows]
    return "".join(f"| {' | '.join(map(_escaped, cells))} |\n" for cells in lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
