"""The run folder of a compressed variant: where it stands, whose child it is, and what of it is done already."""

from __future__ import annotations

import hashlib
import os
import shutil
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from imgrec.compress.plan import Plan
from imgrec.errors import UserError
from imgrec.export import find_origin
from imgrec.export.model_folder.save import WEIGHTS
from imgrec.reports.compression_section import KEY
from imgrec.runs.data import DATA
from imgrec.runs.environment import describe_environment
from imgrec.runs.folder import CONFIG, ENVIRONMENT, SPLITS_FILE, RunFolder, create_run_folder, find_runs
from imgrec.runs.liveness import PROCESS, status_of
from imgrec.runs.lock import LOCK, RunLock
from imgrec.runs.product import KEY as EXPORT
from imgrec.runs.summary import write_json
from imgrec.utils import yaml
from imgrec.utils.paths import write_text

COMPRESSED = "compressed"
PLAN = "plan.yaml"


@dataclass(frozen=True)
class Parent:
    """A trained run that is to be compressed.

    Raises:
        UserError: If it is no run folder, is not trained to its end, holds no trained network, or stands for an export.
    """

    run: RunFolder

    def __post_init__(self) -> None:
        if (self.run.path / LOCK).exists():
            RunLock(self.run.path).release()
        status = status_of(self.run)
        if status != "finished":
            raise UserError(
                f"the run {self.run.path} is not trained to its end (status: {status}): imgrec resume {self.run.path}"
            )
        if (named := self.run.summary.get(EXPORT)) is not None:
            raise UserError(
                f"the run {self.run.path} stands for its export {named}, which can be neither pruned nor trained. "
                "Compress the run that it was made from, with a plan of all steps."
            )
        find_origin(self.run.path, "compress")

    @property
    def name(self) -> str:
        """Experiment and run id."""
        return f"{self.run.experiment}/{self.run.run_id}"

    @cached_property
    def weights(self) -> str:
        """A digest of the network that is compressed: another training of the run is another parent."""
        origin = find_origin(self.run.path, "compress")
        with (origin / WEIGHTS if origin.is_dir() else origin).open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]

    def place(self, variant: str) -> tuple[str, str]:
        """The folder of all runs and the experiment of a variant: beside the run, under ``compressed/<variant>``."""
        return place_beside(self.run, COMPRESSED, variant)


def place_beside(run: RunFolder, *under: str) -> tuple[str, str]:
    """The folder of all runs and the experiment of what is made from a run: beside it, in ``<experiment>/<under>``."""
    inside = PurePosixPath(run.experiment).parts
    path = run.path if run.path.name not in ("", "..") else run.path.resolve()
    if path.absolute().parent.parts[-len(inside) :] != inside:  # it was moved out of its experiment
        return str(path.parent), "/".join(under)
    root = path.parent
    for _ in inside:
        root = root.parent if root.name else root.absolute().parent
    return str(root), "/".join([*inside, *under])


def reference(run: RunFolder, folder: Path, weights: str) -> dict[str, str]:
    """What environment.json says of a run that the one in ``folder`` was made from."""
    where = os.path.relpath(run.path.resolve(), folder.resolve())
    return {"run": f"{run.experiment}/{run.run_id}", "path": Path(where).as_posix(), "weights": weights}


def find_variant(parent: Parent, plan: Plan) -> RunFolder | None:
    """The newest run folder in which this plan was begun for this network; ``None`` where there is none."""
    root, experiment = parent.place(plan.name)
    found = None
    for path in find_runs(Path(root) / experiment, depth=1):
        environment = RunFolder(path).environment
        if (environment.get("parent") or {}).get("weights") == parent.weights and environment.get("plan") == plain(
            plan
        ):
            found = RunFolder(path)
    return found


def make_variant(parent: Parent, plan: Plan) -> RunFolder:
    """A new run folder for a plan: its environment with the parent in it, the plan as a file, the parent's config.

    A training in the folder writes its own config in that one's place.
    """
    root, experiment = parent.place(plan.name)
    config = {**parent.run.config, "experiment": experiment, "runs": root}
    folder = create_run_folder(root, experiment)
    environment = describe_environment(
        seed=config.get("seed_everything"), fingerprint=parent.run.environment.get(DATA), experiment=experiment
    )
    own = {
        "parent": reference(parent.run, folder, parent.weights),
        "variant": plan.name,
        "plan": plain(plan),
    }
    write_text(folder / PLAN, yaml.dump({"name": plan.name, "steps": plain(plan)}))
    write_text(folder / CONFIG, yaml.dump(config))
    write_json(folder / ENVIRONMENT, environment | own)
    return RunFolder(folder)


def discard_untouched(variant: RunFolder, *copied: str) -> None:
    """Remove a variant's folder where nothing of the plan was carried out in it, and the empty folders around it.

    Args:
        variant: where a step has just failed.
        copied: names of what in it is the parent's own.
    """
    own = {CONFIG, ENVIRONMENT, SPLITS_FILE, PLAN, LOCK, PROCESS, *copied}
    if any(path.name not in own and not _is_empty(path) for path in variant.path.iterdir()):
        return
    shutil.rmtree(variant.path)
    with suppress(OSError):  # other variants stand there
        for folder in list(variant.path.parents)[:2]:
            folder.rmdir()


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def is_done(variant: RunFolder) -> bool:
    """Whether the whole plan was carried out."""
    return KEY in variant.summary


def plain(plan: Plan) -> list[dict[str, Any]]:
    """The plan as environment.json holds it."""
    return plan.to_specs()
