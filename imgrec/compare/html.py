"""HTML page of a comparison: compare.html."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imgrec.compare.align import split_title
from imgrec.compare.comparison import LEVEL, Comparison, PairComparison, all_and_none_correct
from imgrec.compare.figures import accuracy_cells, curve_drawings, difference_cells
from imgrec.compare.groups import Group
from imgrec.compare.text import PAIR_COLUMNS, group_cells, group_columns, pair_cells, shared_custom_metrics
from imgrec.reports.html import ImageLoader, is_tiny, render_page, thumbnail
from imgrec.reports.svg import SERIES
from imgrec.utils.formatting import epoch_text
from imgrec.utils.paths import write_text

_PAIRS_WITH_IMAGES = 3
_IMAGES_SHOWN = 7  # one row of a wide page
_CLASSES_SHOWN = 40


def write_comparison(comparison: Comparison, path: str | Path, images: ImageLoader | None = None) -> Path:
    """Write the page of a comparison. It requires no network and no other file.

    Args:
        comparison: Result of :func:`~imgrec.compare.comparison.compare_runs`.
        path: Path of the HTML file.
        images: Function that returns the images of sample ids. Without it, the images that two groups classify
            differently are listed without thumbnails.

    Returns:
        The path of the file.
    """
    write_text(path, render_page("imgrec.compare", "comparison_template.html", _content(comparison, images)))
    return Path(path)


def _content(comparison: Comparison, images: ImageLoader | None) -> dict[str, Any]:
    groups, pairs = comparison.groups, comparison.pairs
    accuracies, scale = accuracy_cells(groups)
    differences, reach = difference_cells(pairs)
    return {
        "title": _title(groups),
        "split": split_title(comparison.split),
        "images": f"{len(comparison.images):,}",
        "run_count": len(comparison.runs),
        "colours": len(SERIES),
        "notes": comparison.notes,
        "sentences": [pair.sentence for pair in _main_pairs(pairs)],
        "more_pairs": max(0, len(pairs) - len(_main_pairs(pairs))),
        "group_columns": group_columns(groups),
        "groups": [
            _group_row(i, group, cell, shared_custom_metrics(groups))
            for i, (group, cell) in enumerate(zip(groups, accuracies, strict=True))
        ],
        "scale": scale,
        "several": any(len(group.runs) > 1 for group in groups),
        "pair_columns": PAIR_COLUMNS,
        "pairs": [_pair_row(pair, cell, groups) for pair, cell in zip(pairs, differences, strict=True)],
        "reach": reach,
        "exact": any(pair.exact for pair in pairs),
        "over_seeds": any(not pair.exact for pair in pairs),
        "level": f"{LEVEL:g}",
        "curves": curve_drawings(groups),
        "differences": comparison.differences,
        **_classes(comparison),
        "discordant": [_discordant_images(comparison, pair, images) for pair in _with_images(pairs)],
        "with_images": images is not None,
        "runs": [_run_row(run, number) for number, group in enumerate(groups) for run in group.runs],
    }


def _title(groups: Sequence[Group]) -> str:
    names = [group.name for group in groups]
    if len(names) > 3:
        return f"{len(names)} {'recipes' if any(len(group.runs) > 1 for group in groups) else 'runs'}"
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def _main_pairs(pairs: Sequence[PairComparison]) -> list[PairComparison]:
    """Return the pairs that are described in sentences: all if they are few, otherwise those of the lowest p-values."""
    return list(pairs) if len(pairs) <= 6 else sorted(pairs, key=lambda pair: pair.p)[:6]


def _with_images(pairs: Sequence[PairComparison]) -> list[PairComparison]:
    return sorted(pairs, key=lambda pair: pair.p)[:_PAIRS_WITH_IMAGES] if len(pairs) > _PAIRS_WITH_IMAGES else [*pairs]


def _group_row(number: int, group: Group, cell: str, custom: Sequence[str]) -> dict[str, Any]:
    values = [group.name, len(group.runs), group.accuracy, group.spread or 0, group.mean("nll"), group.mean("ece")]
    values += [*(group.mean(name) for name in custom), group.mean("train_seconds"), group.mean("parameters")]
    texts = group_cells(group, custom)
    cells = [{"text": t, "raw": "" if v is None else v} for t, v in zip(texts, values, strict=True)]
    return {"number": number, "cells": cells, "drawing": cell}


def _pair_row(pair: PairComparison, cell: str, groups: Sequence[Group]) -> dict[str, Any]:
    values = [pair.first.name, pair.second.name, pair.difference, pair.low, pair.first_only, pair.second_only]
    verdict = f"{'first' if pair.better is pair.first else 'second'} is better" if pair.better else pair.verdict
    values += [pair.p, pair.adjusted, verdict]
    texts = [*pair_cells(pair)[:-1], verdict]  # the row contains the names already
    cells = [{"text": t, "raw": v} for t, v in zip(texts, values, strict=True)]
    return {
        "cells": cells,
        "drawing": cell,
        "series": [groups.index(pair.first), groups.index(pair.second)],
        "differs": pair.better is not None,
    }


def _run_row(run: Any, series: int) -> dict[str, Any]:
    low, high = run.interval
    return {
        "name": run.name,
        "series": series,
        "seed": "—" if run.seed is None else run.seed,
        "accuracy": f"{100 * run.accuracy:.2f} %",
        "interval": f"{100 * low:.2f} to {100 * high:.2f}",
        "nll": _four(run.nll),
        "ece": _four(run.ece),
        "best_epoch": _best_epoch(run.summary),
        "started": str(run.run.environment.get("started") or "—")[:16].replace("T", " "),
    }


def _best_epoch(summary: Mapping[str, Any]) -> str:
    best = summary.get("best_epoch")
    return "—" if best is None else epoch_text(best, summary.get("epochs")).removeprefix("epoch ")


def _four(value: float) -> str:
    return f"{value:.4f}" if np.isfinite(value) else "—"


def _classes(comparison: Comparison) -> dict[str, Any]:
    """Compute the accuracy of every group on every class. Of many classes, only those of the largest differences."""
    targets, names = comparison.images.targets, comparison.images.class_names
    counts = np.bincount(targets, minlength=len(names))
    present = np.flatnonzero(counts)
    by_group = np.stack(
        [
            np.bincount(targets, weights=group.correct.mean(axis=0), minlength=len(names)) / np.maximum(counts, 1)
            for group in comparison.groups
        ]
    )
    order = present
    if len(present) > _CLASSES_SHOWN:
        difference = np.ptp(by_group, axis=0)[present] * np.sqrt(counts[present])
        order = present[np.argsort(-difference, kind="stable")[:_CLASSES_SHOWN]]
    rows = []
    for index in order:
        values = by_group[:, index]
        best = values.max() if np.ptp(values) > 0 else 2.0
        cells = [{"text": f"{100 * value:.1f}", "raw": value, "best": value == best} for value in values]
        rows.append({"name": names[index], "images": int(counts[index]), "cells": cells, "range": np.ptp(values)})
    return {"classes": rows, "all_classes": len(present)}


def _discordant_images(comparison: Comparison, pair: PairComparison, images: ImageLoader | None) -> dict[str, Any]:
    sides = []
    for right, wrong in ((pair.first, pair.second), (pair.second, pair.first)):
        found = np.flatnonzero(all_and_none_correct(right.correct, wrong.correct))
        margin = _true_probability(right)[found] - _true_probability(wrong)[found]
        shown = found[np.argsort(-margin, kind="stable")][:_IMAGES_SHOWN].tolist()
        sides.append({"right": right.name, "wrong": wrong.name, "count": len(found), "shown": shown})
    ids = [comparison.images.ids[i] for side in sides for i in side["shown"]]
    loaded = list(images(ids)) if images is not None and ids else [None] * len(ids)
    if len(loaded) != len(ids):
        raise ValueError(f"images: expected {len(ids)} images, got {len(loaded)}")
    names, targets = comparison.images.class_names, comparison.images.targets
    pixels = iter(loaded)
    for side, wrong in zip(sides, (pair.second, pair.first), strict=True):
        side["classes"] = _classes_text(targets, pair, side["right"] == pair.first.name, names)
        cards = []
        for i in side["shown"]:
            image = next(pixels)
            predicted = np.bincount([run.predicted[i] for run in wrong.runs], minlength=len(names)).argmax()
            cards.append(
                {
                    "id": comparison.images.ids[i],
                    "true": names[targets[i]],
                    "predicted": names[predicted],
                    "uri": "" if image is None else thumbnail(image),
                    "tiny": image is not None and is_tiny(image),
                }
            )
        side["cards"] = cards
    return {"sides": sides, "title": f"{pair.first.name} and {pair.second.name}"}


def _true_probability(group: Group) -> NDArray[np.float32]:
    """Return the probability of the true class, averaged over the runs of a group."""
    return np.asarray(np.mean([run.true_probability for run in group.runs], axis=0))


def _classes_text(targets: NDArray[np.int64], pair: PairComparison, first: bool, names: tuple[str, ...]) -> str:
    right, wrong = (pair.first, pair.second) if first else (pair.second, pair.first)
    selected = all_and_none_correct(right.correct, wrong.correct)
    counts = np.bincount(targets[selected], minlength=len(names))
    order = [i for i in np.argsort(-counts, kind="stable")[:8].tolist() if counts[i]]
    more = int((counts > 0).sum()) - len(order)
    return ", ".join(f"{names[i]} ({counts[i]})" for i in order) + (f" and {more} more classes" if more else "")
