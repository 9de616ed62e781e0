"""Loading of a classifier without its task."""

from __future__ import annotations

from pathlib import Path

from imgrec.errors import UserError
from imgrec.export.trained_model import read_origin
from imgrec.models import Classifier
from imgrec.trust.untrusted import UntrustedError
from imgrec.types import DataFacts


def read_network(path: str | Path) -> tuple[Classifier, DataFacts]:
    """Load the classifier of a run folder, checkpoint or model folder in evaluation mode on the CPU, and its facts.

    It is built from its specs without Lightning if they are complete, otherwise by its task.

    Raises:
        UserError: If there is no model.
    """
    try:
        loaded = read_origin(path)
        return loaded.classifier, loaded.facts
    except UntrustedError:
        raise
    except UserError:
        from imgrec.runs.load import load_classifier

        return load_classifier(path)
