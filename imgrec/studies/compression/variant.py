"""Run folder of a compressed variant: location, parent run, and state."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from imgrec.compress.plan import Plan
from imgrec.errors import UserError
from imgrec.export import find_origin
from imgrec.export.model_folder.save import WEIGHTS
from imgrec.reports.compression_section import KEY
from imgrec.runs.data import FINGERPRINT
from imgrec.runs.environment import describe_environment
from imgrec.runs.exports import EXPORT_KEY as EXPORT
from imgrec.runs.folder import CONFIG, ENVIRONMENT, SPLITS_FILE, RunFolder, create_run_folder, find_runs
from imgrec.runs.liveness import PROCESS_FILE, status_of
from imgrec.runs.lock import LOCK, RunLock
from imgrec.runs.summary import write_json
from imgrec.utils import yaml
from imgrec.utils.paths import write_text

COMPRESSED = "compressed"
PLAN = "plan.yaml"


@dataclass(frozen=True)
class Parent:
    """A trained run to compress.

    Args:
        run: Run folder.

    Raises:
        UserError: If the run is not finished, contains no trained model, or is a compressed variant with an export.
    """

    run: RunFolder

    def __post_init__(self) -> None:
        if (self.run.path / LOCK).exists():
            RunLock(self.run.path).release()
        status = status_of(self.run)
        if status != "finished":
            raise UserError(
                f"run: expected a finished run, got {self.run.path} (status: {status}). "
                f"Run: imgrec resume {self.run.path}"
            )
        if (named := self.run.summary.get(EXPORT)) is not None:
            raise UserError(
                f"run: expected a trained model, got {self.run.path}, whose result is the export {named}. "
                "Compress its parent run, with a plan of all steps."
            )
        find_origin(self.run.path, "compress")

    @property
    def name(self) -> str:
        """Experiment and run id."""
        return f"{self.run.experiment}/{self.run.run_id}"

    @cached_property
    def weights(self) -> str:
        """Hash of the file with the weights, which identifies the training."""
        origin = find_origin(self.run.path, "compress")
        with (origin / WEIGHTS if origin.is_dir() else origin).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]

    def place(self, variant: str) -> tuple[str, str]:
        """Return the folder of all runs and the experiment of a variant, ``<experiment>/compressed/<variant>``."""
        return derived_place(self.run, COMPRESSED, variant)


def derived_place(run: RunFolder, *under: str) -> tuple[str, str]:
    """Return the folder of all runs and the experiment ``<experiment>/<under>`` of a run that is made from ``run``."""
    inside = PurePosixPath(run.experiment).parts
    path = run.path if run.path.name not in ("", "..") else run.path.resolve()
    if path.absolute().parent.parts[-len(inside) :] != inside:  # moved out of the folder of its experiment
        return str(path.parent), "/".join(under)
    root = path.parent
    for _ in inside:
        root = root.parent if root.name else root.absolute().parent
    return str(root), "/".join([*inside, *under])


def parent_entry(run: RunFolder, folder: Path, weights: str) -> dict[str, str]:
    """Return the entry in environment.json for a parent run of the run in ``folder``."""
    where = os.path.relpath(run.path.resolve(), folder.resolve())
    return {"run": f"{run.experiment}/{run.run_id}", "path": Path(where).as_posix(), "weights": weights}


def find_variant(parent: Parent, plan: Plan) -> RunFolder | None:
    """Return the newest run folder of this plan for the model of this parent, or ``None`` if there is none."""
    root, experiment = parent.place(plan.name)
    found = None
    for path in find_runs(Path(root) / experiment, depth=1):
        environment = RunFolder(path).environment
        is_same_parent = (environment.get("parent") or {}).get("weights") == parent.weights
        if is_same_parent and environment.get("plan") == plan.to_specs():
            found = RunFolder(path)
    return found


def create_variant(parent: Parent, plan: Plan) -> RunFolder:
    """Create the run folder of a plan with its environment, its parent, the plan and the config of the parent.

    A training in the folder replaces the config.
    """
    root, experiment = parent.place(plan.name)
    config = {**parent.run.config, "experiment": experiment, "runs": root}
    folder = create_run_folder(root, experiment)
    environment = describe_environment(
        seed=config.get("seed_everything"), fingerprint=parent.run.environment.get(FINGERPRINT), experiment=experiment
    )
    origin = {
        "parent": parent_entry(parent.run, folder, parent.weights),
        "variant": plan.name,
        "plan": plan.to_specs(),
    }
    write_text(folder / PLAN, yaml.dump({"name": plan.name, "steps": plan.to_specs()}))
    write_text(folder / CONFIG, yaml.dump(config))
    write_json(folder / ENVIRONMENT, environment | origin)
    return RunFolder(folder)


def discard_untouched(variant: RunFolder, *copied: str) -> None:
    """Remove the folder of a variant, and its empty parent folders, if no step of the plan was finished.

    Args:
        variant: Run folder in which a step failed.
        copied: Names of files that were copied from the parent.
    """
    initial = {CONFIG, ENVIRONMENT, SPLITS_FILE, PLAN, LOCK, PROCESS_FILE, *copied}
    if any(path.name not in initial and not _is_empty(path) for path in variant.path.iterdir()):
        return
    shutil.rmtree(variant.path)
    with suppress(OSError):  # the folder contains other variants
        for folder in list(variant.path.parents)[:2]:
            folder.rmdir()


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def is_done(variant: RunFolder) -> bool:
    """Return True if all steps of the plan are finished."""
    return KEY in variant.summary
