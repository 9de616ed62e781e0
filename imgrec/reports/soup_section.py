"""What `imgrec soup` found out about a soup, in words: rows of a table, a section of its report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from imgrec.runs.folder import RunFolder

KEY = "soup"
"""Where summary.json and environment.json hold it."""

_SPLITS = {"test": "test", "val": "validation"}


def soup_table(run: RunFolder) -> tuple[list[str], list[list[str]]]:
    """The names of the columns, and a row for the soup and for each network: its accuracies, and the soup's gain.

    The gain is in points, with the 95 % interval of the difference on the test images, or where there are none on the
    validation images.
    """
    found = run.summary[KEY]
    splits = [split for split in ("val", "test") if split in found["accuracy"]]
    judged = splits[-1]
    columns = ["network", "in the soup", *(_SPLITS[split] for split in splits), "soup gains", "95 % interval"]
    kept = sum(row["kept"] for row in found["ingredients"])
    rows = [
        [f"{found['method']} soup", f"{kept} of {len(found['ingredients'])}"]
        + [f"{100 * found['accuracy'][split]:.2f} %" for split in splits]
        + ["", ""]
    ]
    for row in found["ingredients"]:
        pair = row["splits"][judged]
        rows.append(
            [row["name"], "yes" if row["kept"] else "no"]
            + [f"{100 * row['splits'][split]['accuracy']:.2f} %" for split in splits]
            + [f"{100 * pair['difference']:+.2f}", f"{100 * pair['low']:+.2f} to {100 * pair['high']:+.2f}"]
        )
    return columns, rows


def soup_notes(run: RunFolder) -> list[str]:
    """What has to be known to read the table."""
    found = run.summary[KEY]
    judged = "test" if "test" in found["accuracy"] else "val"
    rows = found["ingredients"]
    best = next(row for row in rows if row["best"])
    notes = []
    if found["method"] == "greedy":
        notes.append("The networks of the soup were chosen by their validation accuracy, which favours the soup there.")
    if found["batch_norm"]:
        notes.append(
            f"Statistics of batch norms were estimated anew on {found['batch_norm']:,} training images, where they "
            "were not the same in all networks."
        )
    if sum(row["kept"] for row in rows) == 1:
        notes.append(f"No other network made the best one, {best['name']}, better: the soup is that network.")
    worst = min(row["splits"][judged]["accuracy"] for row in rows)
    if found["accuracy"][judged] < worst:
        notes.append(
            "The soup is worse than each of its networks: a mean works of networks that were fine-tuned from the same "
            "weights, and not too far from them."
        )
    if found.get("zeros"):
        notes.append(zeros_note(found["zeros"]))
    return notes


def zeros_note(zeros: Mapping[str, float]) -> str:
    """Return the sentence on zeros that a soup of masked networks lost."""
    return (
        f"Zeros are lost: {100 * zeros['networks']:.1f} % of a network's weights are zero, and "
        f"{100 * zeros['soup']:.1f} % of the soup's. A weight stays zero only if it is zero in all networks: average "
        "networks of one mask, or prune the soup again."
    )


def soup_section(run: RunFolder) -> dict[str, Any] | None:
    """The values that the report's section on the soup asks for; ``None`` where the run is none."""
    if not isinstance(run.summary.get(KEY), Mapping):
        return None
    columns, rows = soup_table(run)
    return {"columns": columns, "rows": rows, "notes": soup_notes(run)}
