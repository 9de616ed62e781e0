"""The audit of a data set: everything that is looked for, in one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from imgrec.audit.dataset_statistics import Statistics, statistics
from imgrec.audit.duplicates import Pair, duplicate_findings, exact_groups, exact_pairs, near_pairs, turned_pairs
from imgrec.audit.findings import KINDS, Finding, Inventory, in_order
from imgrec.audit.image_quality import Limits, quality_findings
from imgrec.audit.label_errors import judges_of, label_findings
from imgrec.audit.messages import judged_text
from imgrec.audit.scan import scan
from imgrec.data import Source, Splits
from imgrec.data.bad_images import usable_cores
from imgrec.registry import Spec
from imgrec.runs.predictions import Predictions


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Args:
        inventory: the images.
        findings: all findings, the worst kind first.
        pairs: the pairs of duplicates.
        statistics: classes, sizes, mean and standard deviation.
        judged: sentences that state which labels were judged by which network.
        modes: the searches for duplicates that were made; see :data:`imgrec.audit.messages.MODES`.
    """

    inventory: Inventory
    findings: list[Finding]
    pairs: list[Pair]
    statistics: Statistics
    judged: Sequence[str] = ()
    modes: Sequence[str] = ("pixels",)

    @property
    def counts(self) -> dict[str, int]:
        """How many findings there are of each kind that was found, in the order of their weight."""
        found = Counter(finding.kind for finding in self.findings)
        return {kind: found[kind] for kind in KINDS if found[kind]}


def audit(
    source: Source,
    splits: Splits,
    predictions: Sequence[Predictions] = (),
    backbone: Spec | None = None,
    image_size: int = 224,
    similarity: float | None = None,
    limits: Limits | None = None,
    workers: int | None = None,
    turned: bool = False,
    judges: Sequence[str] = (),
) -> Audit:
    """Look at every image of a data set; no fault of an image ends it.

    Args:
        source: the table of images.
        splits: which of them are for what.
        predictions: of models that were not trained on the images, for suspected label errors.
        backbone: the spec of a backbone whose features find more near duplicates.
        image_size: the side of the images that it sees.
        similarity: the smallest cosine of features that is reported; by default an image's own neighbours judge.
        limits: from where on an image is unlike the others.
        workers: processes that decode; by default one a core.
        turned: also search for rotated and mirrored copies.
        judges: the name of the network of each of ``predictions``, default their numbers.

    Raises:
        UserError: the backbone or the predictions cannot be used.

    Example::

        data = imgrec.ImageDataModule({"name": "folder", "root": "photos"}, image_size=64)
        data.setup()
        print(audit(data.source, data.splits).counts)
    """
    inventory = Inventory.of(source, splits)
    labels = list(label_findings(inventory, predictions)) if predictions else []  # first: it may be refused
    workers = usable_cores() if workers is None else workers
    seen = scan(inventory, workers if workers > 1 else 0)
    pairs = list(exact_pairs(exact_groups(seen.records))) + near_pairs(seen.records)
    if turned:
        known = {(pair.left, pair.right) for pair in pairs}
        pairs += [pair for pair in turned_pairs(seen.records) if (pair.left, pair.right) not in known]
    if backbone is not None:
        from imgrec.audit.embeddings import embed, similar_features

        known = {(min(pair.left, pair.right), max(pair.left, pair.right)) for pair in pairs}
        features, positions = embed(inventory, backbone, image_size, workers=workers)
        found = similar_features(features, positions, similarity)
        pairs += [pair for pair in found if (pair.left, pair.right) not in known]
    findings = [
        *seen.findings,
        *quality_findings(seen.records, limits),
        *duplicate_findings(pairs, inventory),
        *labels,
    ]
    names = judges or [f"network {number}" for number in range(1, len(predictions) + 1)]
    totals = dict(Counter(inventory.splits))
    networks, any_of_them = judges_of(inventory, predictions, names)
    judged = judged_text(networks, totals, any_of_them)
    modes = ["pixels", *["turned"] * turned, *["embeddings"] * (backbone is not None)]
    facts = statistics(inventory, seen.records)
    return Audit(inventory, in_order(findings, inventory), pairs, facts, judged, modes)
