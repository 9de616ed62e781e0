"""Search for defects of a data set: broken files, outlier images, duplicates, leaks between splits, label errors."""

from imgrec.audit.audit import Audit, audit
from imgrec.audit.dataset_statistics import Statistics
from imgrec.audit.findings import KINDS, Finding, Inventory, proposals, write_findings
from imgrec.audit.html import write_page
from imgrec.audit.image_quality import Limits

__all__ = [
    "KINDS",
    "Audit",
    "Finding",
    "Inventory",
    "Limits",
    "Statistics",
    "audit",
    "proposals",
    "write_findings",
    "write_page",
]
