"""A comparison as plain data and as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from imgrec.compare.comparison import Comparison, Pair, p_text
from imgrec.compare.groups import Group
from imgrec.metrics.names import metric_text, title_of
from imgrec.runs.summary import plain
from imgrec.utils.formatting import duration, short_count

GROUP_COLUMNS = ("Group", "Runs", "Accuracy", "± / interval", "NLL", "ECE", "Training", "Parameters")
PAIR_COLUMNS = ("First", "Second", "Difference", "95 % interval", "Only first", "Only second", "p", "Holm", "Verdict")


def group_columns(groups: Sequence[Group]) -> list[str]:
    """Return ``GROUP_COLUMNS`` with a column after the ECE for each metric of a user's own that every group has."""
    place = GROUP_COLUMNS.index("ECE") + 1
    return [*GROUP_COLUMNS[:place], *map(title_of, shared_custom(groups)), *GROUP_COLUMNS[place:]]


def shared_custom(groups: Sequence[Group]) -> list[str]:
    """Return the names of the metrics of a user's own that every run of every group has, in their order."""
    runs = [run for group in groups for run in group.runs]
    return [name for name in runs[0].custom if all(name in run.custom for run in runs)] if runs else []


def group_cells(group: Group, custom: Sequence[str] = ()) -> list[str]:
    """Return the cells of a group, under :func:`group_columns`; figures are means over its runs.

    Args:
        group: the group.
        custom: names of metrics of a user's own, as :func:`shared_custom` returns them.
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
    """The standard deviation over the runs in points, or a single run's 95 % interval in percent."""
    if group.spread is not None:
        return f"± {100 * group.spread:.2f}"
    assert group.interval is not None
    return "{:.2f} to {:.2f}".format(*(100 * end for end in group.interval))


def pair_cells(pair: Pair) -> list[str]:
    """What a table says of a pair, under ``PAIR_COLUMNS``; differences in points of accuracy."""
    return [
        pair.first.name,
        pair.second.name,
        f"{100 * pair.difference:+.2f}",
        f"{100 * pair.low:+.2f} to {100 * pair.high:+.2f}",
        f"{pair.first_only:,}",
        f"{pair.second_only:,}",
        p_text(pair.p).removeprefix("= "),
        p_text(pair.adjusted).removeprefix("= "),
        pair.verdict,
    ]


def as_markdown(comparison: Comparison) -> str:
    """The groups, the pairs and what differs in the configs, as Markdown's tables."""
    columns, custom = group_columns(comparison.groups), shared_custom(comparison.groups)
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


def as_plain(comparison: Comparison) -> dict[str, Any]:
    """Everything as JSON can hold it; accuracies and differences are fractions."""
    found = {
        "split": comparison.split,
        "images": len(comparison.images),
        "class_names": list(comparison.images.class_names),
        "groups": [_plain_group(group) for group in comparison.groups],
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
    values: dict[str, Any] = plain(found)
    return values


def _plain_group(group: Group) -> dict[str, Any]:
    return {
        "name": group.name,
        "accuracy": group.accuracy,
        "accuracy_sd": group.spread,
        "nll": group.mean("nll"),
        "ece": group.mean("ece"),
        **{name: group.mean(name) for name in shared_custom([group])},
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
