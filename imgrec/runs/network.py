"""The network of a run, for whoever does not need the whole task."""

from __future__ import annotations

from pathlib import Path

from imgrec.errors import UserError
from imgrec.export.trained_model import read_origin
from imgrec.models import Classifier
from imgrec.trust.untrusted import UntrustedError
from imgrec.types import DataFacts


def read_network(path: str | Path) -> tuple[Classifier, DataFacts]:
    """The classifier of a run folder, a checkpoint or a model folder, in evaluation mode on the CPU, and its facts.

    It is built from its specs alone where they say how, without Lightning; else by its task.

    Raises:
        UserError: there is nothing of the kind.
    """
    try:
        loaded = read_origin(path)
        return loaded.classifier, loaded.facts
    except UntrustedError:
        raise
    except UserError:
        from imgrec.runs.load import load_classifier

        return load_classifier(path)
