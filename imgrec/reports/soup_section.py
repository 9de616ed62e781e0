"""Results of `imgrec soup`: rows of its table, and the section of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgrec.runs.folder import RunFolder

KEY = "soup"
"""Key of the results in summary.json and environment.json."""

_SPLITS = {"test": "test", "val": "validation"}


def soup_table(run: RunFolder) -> tuple[list[str], list[list[str]]]:
    """Return the column names, and a row for the soup and every model: its accuracies, and the gain of the soup.

    The gain is in points, with the 95 % interval of the difference. It is computed on the test images, or on the
    validation images if there are no others.
    """
    found = run.summary[KEY]
    splits = [split for split in ("val", "test") if split in found["accuracy"]]
    main_split = splits[-1]
    columns = ["model", "in the soup", *(_SPLITS[split] for split in splits), "gain of the soup", "95 % interval"]
    kept = sum(row["kept"] for row in found["ingredients"])
    rows = [
        [f"{found['method']} soup", f"{kept} of {len(found['ingredients'])}"]
        + [f"{100 * found['accuracy'][split]:.2f} %" for split in splits]
        + ["", ""]
    ]
    for row in found["ingredients"]:
        pair = row["splits"][main_split]
        rows.append(
            [row["name"], "yes" if row["kept"] else "no"]
            + [f"{100 * row['splits'][split]['accuracy']:.2f} %" for split in splits]
            + [f"{100 * pair['difference']:+.2f}", f"{100 * pair['low']:+.2f} to {100 * pair['high']:+.2f}"]
        )
    return columns, rows


def soup_notes(run: RunFolder) -> list[str]:
    """Return remarks on the table, one sentence or more each."""
    found = run.summary[KEY]
    main_split = "test" if "test" in found["accuracy"] else "val"
    rows = found["ingredients"]
    best = next(row for row in rows if row["best"])
    notes = []
    if found["method"] == "greedy":
        notes.append(
            "The models of the soup were selected by validation accuracy, so that its validation accuracy is biased."
        )
    if found["batch_norm"]:
        notes.append(
            f"Batch-norm statistics that differ between the models were estimated again on {found['batch_norm']:,} "
            "training images."
        )
    if sum(row["kept"] for row in rows) == 1:
        notes.append(f"No other model improved the best one, {best['name']}. The soup is this model.")
    worst = min(row["splits"][main_split]["accuracy"] for row in rows)
    if found["accuracy"][main_split] < worst:
        notes.append(
            "The soup is worse than every one of its models. Averaging requires models that were fine-tuned from the "
            "same weights and are close to them."
        )
    if found.get("zeros"):
        notes.append(zeros_note(found["zeros"]))
    return notes


def zeros_note(zeros: Mapping[str, float]) -> str:
    """Return the remark on zero weights that a soup of masked models lost."""
    return (
        f"Zeros are lost: {100 * zeros['networks']:.1f} % of the weights of a model are zero, and "
        f"{100 * zeros['soup']:.1f} % of those of the soup. A weight remains zero only if it is zero in all models. "
        "Average models with one mask, or prune the soup again."
    )


def soup_section(run: RunFolder) -> dict[str, Any] | None:
    """Return the values of the report section on the soup, or ``None`` if the run is no soup."""
    if not isinstance(run.summary.get(KEY), Mapping):
        return None
    columns, rows = soup_table(run)
    return {"columns": columns, "rows": rows, "notes": soup_notes(run)}
