"""What is wrong with a data set: broken files, odd images, duplicates, leaks between splits, doubtful labels."""

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
