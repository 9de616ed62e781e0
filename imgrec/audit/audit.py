"""The audit of a data set: all searches in one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from imgrec.audit.dataset_statistics import Statistics, dataset_statistics
from imgrec.audit.duplicates import (
    DuplicatePair,
    duplicate_findings,
    exact_groups,
    exact_pairs,
    near_pairs,
    turned_pairs,
)
from imgrec.audit.findings import KINDS, Finding, Inventory, sort_findings
from imgrec.audit.image_quality import Limits, quality_findings
from imgrec.audit.label_errors import count_judged, label_findings
from imgrec.audit.messages import describe_judged
from imgrec.audit.scan import scan
from imgrec.data import Source, Splits
from imgrec.data.bad_images import usable_cores
from imgrec.registry import Spec
from imgrec.runs.predictions import Predictions
from imgrec.utils.ranges import LeftOpenUnitInterval, NonNegativeInt, PositiveInt, check_ranges


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Args:
        inventory: Audited images.
        findings: All findings, the most severe kind first.
        pairs: Pairs of duplicates.
        statistics: Classes, sizes, mean and standard deviation.
        judged: Sentences that state which labels were judged by which model.
        modes: Searches for duplicates that ran. See :data:`imgrec.audit.messages.MODES`.
    """

    inventory: Inventory
    findings: list[Finding]
    pairs: list[DuplicatePair]
    statistics: Statistics
    judged: Sequence[str] = ()
    modes: Sequence[str] = ("pixels",)

    @property
    def counts(self) -> dict[str, int]:
        """Number of findings by kind, without kinds that were not found, the most severe kind first."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}


@check_ranges
def audit(
    source: Source,
    splits: Splits,
    predictions: Sequence[Predictions] = (),
    backbone: Spec | None = None,
    image_size: PositiveInt = 224,
    similarity: LeftOpenUnitInterval | None = None,
    limits: Limits | None = None,
    workers: NonNegativeInt | None = None,
    turned: bool = False,
    judges: Sequence[str] = (),
) -> Audit:
    """Audit every image of a data set. A broken image is a finding and does not end the audit.

    Args:
        source: Table of the images.
        splits: Rows of the source for training, validation and test.
        predictions: Predictions of models that were not trained on the images, to find label errors.
        backbone: Spec of a backbone whose features find more near duplicates.
        image_size: Side of the input images of the backbone, in pixels. Defaults to 224.
        similarity: Smallest reported cosine of two feature vectors. Defaults to a threshold for each image, which
            depends on its nearest neighbours. See :func:`imgrec.audit.embeddings.similar_features`.
        limits: Thresholds beyond which an image is an outlier. Defaults to ``Limits()``.
        workers: Number of decoding processes. Defaults to the number of cores.
        turned: True to search for rotated and mirrored copies too. Defaults to False.
        judges: Name of the model of each element of ``predictions``. Defaults to numbers.

    Raises:
        UserError: If the backbone cannot be built, or if the predictions are of other images or classes.

    Example::

        data = imgrec.ImageDataModule({"name": "folder", "root": "photos"}, image_size=64)
        data.setup()
        print(audit(data.source, data.splits).counts)
    """
    inventory = Inventory.from_splits(source, splits)
    labels = list(label_findings(inventory, predictions)) if predictions else []  # first, because it checks its input
    workers = usable_cores() if workers is None else workers
    scanned = scan(inventory, workers if workers > 1 else 0)
    pairs = list(exact_pairs(exact_groups(scanned.records))) + near_pairs(scanned.records)
    if turned:
        known = {(pair.left, pair.right) for pair in pairs}
        pairs += [pair for pair in turned_pairs(scanned.records) if (pair.left, pair.right) not in known]
    if backbone is not None:
        from imgrec.audit.embeddings import embed, similar_features

        known = {(min(pair.left, pair.right), max(pair.left, pair.right)) for pair in pairs}
        features, positions = embed(inventory, backbone, image_size, workers=workers)
        found = similar_features(features, positions, similarity)
        pairs += [pair for pair in found if (pair.left, pair.right) not in known]
    findings = [
        *scanned.findings,
        *quality_findings(scanned.records, limits),
        *duplicate_findings(pairs, inventory),
        *labels,
    ]
    names = judges or [f"network {number}" for number in range(1, len(predictions) + 1)]
    totals = dict(Counter(inventory.splits))
    networks, any_of_them = count_judged(inventory, predictions, names)
    judged = describe_judged(networks, totals, any_of_them)
    modes = ["pixels", *["turned"] * turned, *["embeddings"] * (backbone is not None)]
    facts = dataset_statistics(inventory, scanned.records)
    return Audit(inventory, sort_findings(findings, inventory), pairs, facts, judged, modes)
