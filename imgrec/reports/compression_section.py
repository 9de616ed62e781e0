"""Results of `imgrec compress`: cells of its table, and the section of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgrec.export.runtimes.registry import runtime_title
from imgrec.runs.folder import RunFolder
from imgrec.utils.formatting import format_size, short_count

KEY = "compression"
"""Key of the results in summary.json."""

BUDGET = "budget"
"""Key below :data:`KEY` of the accuracy budget of the whole plan, with its result."""

COLUMNS = (
    "variant",
    "accuracy",
    "difference",
    "95 % interval",
    "agrees",
    "budget",
    "parameters",
    "MACs",
    "bytes",
    "ms",
    "faster",
)

COLUMNS_BY_PRIORITY = (
    "variant",
    "accuracy",
    "budget",
    "difference",
    "ms",
    "faster",
    "bytes",
    "95 % interval",
    "MACs",
    "parameters",
    "agrees",
)
""":data:`COLUMNS`, sorted by the priority in a narrow terminal."""

_SIZES = {
    "parameters": "Parameters",
    "nonzero": "Nonzero parameters",
    "macs": "MACs per image",
    "bytes": "Bytes on disk",
}
_SPLITS = {"test": "Test", "val": "Validation"}


def parent_cells(variant: RunFolder) -> list[str]:
    """Return the cells of :data:`COLUMNS` for the parent run of a variant."""
    found = variant.summary[KEY]
    split = _main_split(found)
    accuracy = f"{100 * split['before']:.2f} %" if split else ""
    return [found["parent"], accuracy, "", "", "", "", *_size_cells(found, "before"), "", ""]


def variant_cells(variant: RunFolder) -> list[str]:
    """Return the cells of :data:`COLUMNS` for a variant."""
    found = variant.summary[KEY]
    split = _main_split(found)
    scores = ["", "", "", ""]
    if split:
        interval = f"{100 * split['low']:+.2f} to {100 * split['high']:+.2f}"
        difference = f"{100 * split['difference']:+.2f}"
        scores = [f"{100 * split['after']:.2f} %", difference, interval, f"{100 * split['agreement']:.1f} %"]
    return [found["variant"], *scores, _budget_cell(found), *_size_cells(found, "after"), *_time_cells(found)]


def budget_sentence(budget: Mapping[str, Any]) -> str:
    """Return a sentence about the accuracy loss of a whole plan and its budget.

    >>> found = {"max_drop": 1.0, "split": "val", "images": 400, "drop": 21.5, "low": 17.2, "high": 25.8}
    >>> budget_sentence({**found, "holds": False})[:70]
    'the accuracy budget is exceeded: 21.50 points are lost, 1 is allowed ('
    """
    allowed = f"{budget['max_drop']:g} {'is' if budget['max_drop'] == 1 else 'are'} allowed"
    verdict = "holds" if budget["holds"] else "is exceeded"
    return (
        f"the accuracy budget {verdict}: {budget['drop']:z.2f} points are lost, {allowed} (95 % interval "
        f"{budget['low']:+.2f} to {budget['high']:+.2f}, {budget['images']:,} "
        f"{_SPLITS[budget['split']].lower()} images)."
    )


def _budget_cell(found: Mapping[str, Any]) -> str:
    budget = found.get(BUDGET)
    if budget is None:
        return ""
    return f"{'holds' if budget['holds'] else 'EXCEEDED'}: {budget['drop']:z.2f} of {budget['max_drop']:g}"


def compression_section(run: RunFolder) -> dict[str, Any] | None:
    """Return the values of the report section on compression, or ``None`` if the run is no compressed variant."""
    found = run.summary.get(KEY)
    if not isinstance(found, Mapping):
        return None
    rows = []
    for name, split in found["splits"].items():
        rows.append(
            {
                "name": f"{_SPLITS[name]} accuracy",
                "before": f"{100 * split['before']:.2f} %",
                "after": f"{100 * split['after']:.2f} %",
                "change": f"{100 * split['difference']:+.2f} points (95 % interval {100 * split['low']:+.2f} to "
                f"{100 * split['high']:+.2f})",
            }
        )
    for name, title in _SIZES.items():
        size = found["sizes"].get(name)
        if size is not None and not (name == "nonzero" and size["after"] == found["sizes"]["parameters"]["after"]):
            share = f"{size['before'] / size['after']:.2f}x fewer" if size["after"] < size["before"] else ""
            rows.append(
                {"name": title, "before": f"{size['before']:,}", "after": f"{size['after']:,}", "change": share}
            )
    if (time := found.get("latency")) is not None:
        rows.append(
            {
                "name": "Milliseconds per image",
                "before": f"{time['before']:.2f}",
                "after": f"{time['after']:.2f}",
                "change": f"{time['ratio']:.2f}x faster" if time["ratio"] >= 1 else f"{1 / time['ratio']:.2f}x slower",
            }
        )
    return {"parent": found["parent"], "rows": rows, "steps": found["steps"], "notes": _notes(run, found)}


def _notes(run: RunFolder, found: Mapping[str, Any]) -> list[str]:
    notes = []
    if (budget := found.get(BUDGET)) is not None:
        sentence = budget_sentence(budget)
        notes.append(sentence[0].upper() + sentence[1:])
    if (product := run.summary.get("export")) is not None:
        notes.append(
            f"Accuracies, predictions and bytes are those of {product}. Parameters and MACs are those of its model."
        )
    for name, split in found["splits"].items():
        notes.append(
            f"Of {split['images']:,} {_SPLITS[name].lower()} images, only this model classifies {split['won']} "
            f"correctly, and only the parent run {split['lost']}. The predictions agree on "
            f"{100 * split['agreement']:.1f} %."
        )
    if (time := found.get("latency")) is not None:
        notes.append(
            f"Times are those of both models in {runtime_title(time['runtime'])}, called alternately with one image on "
            "one thread. `imgrec bench` measures other batch sizes and runtimes."
        )
    sizes = found["sizes"]
    if sizes["nonzero"]["after"] < sizes["parameters"]["after"]:
        notes.append("Stored zeros reduce neither time nor memory.")
    return notes


def _size_cells(found: Mapping[str, Any], key: str) -> list[str]:
    formats = {"parameters": short_count, "macs": short_count, "bytes": format_size}
    return [text(found["sizes"][name][key]) if name in found["sizes"] else "" for name, text in formats.items()]


def _time_cells(found: Mapping[str, Any]) -> list[str]:
    """Return milliseconds per image, and the speed-up over the parent run in the same runtime."""
    time = found.get("latency")
    return ["", ""] if time is None else [f"{time['after']:.2f}", f"{time['ratio']:.2f}x"]


def _main_split(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    return next((found["splits"][name] for name in _SPLITS if name in found["splits"]), None)
