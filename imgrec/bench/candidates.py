"""Candidates of a benchmark: each run, checkpoint, model folder, export or file in each runtime that opens it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from imgrec.compare.groups import strip_common_folders
from imgrec.compress.profiling import bytes_on_disk, count_macs, count_nonzero, count_parameters
from imgrec.errors import UserError
from imgrec.export.export_folder import read_export
from imgrec.export.formats.registry import default_runtime, find_format, format_names
from imgrec.export.model_folder.save import WEIGHTS
from imgrec.export.runtimes.registry import (
    check_precision,
    is_export,
    network_bytes,
    network_file,
    network_suffixes,
    require_runtime,
    runtime_class,
    runtime_names,
    runtimes_of,
)
from imgrec.models import Classifier
from imgrec.runs.folder import RunFolder, is_run_folder
from imgrec.runs.network import read_network
from imgrec.types import DataFacts

Exporter = Callable[[Classifier, DataFacts, Path, str], Path]
"""Function that exports a classifier to a folder in a format and returns the path for :func:`open_runtime`."""


@dataclass(frozen=True)
class Candidate:
    """A network in a runtime, which becomes one row of the table.

    Attributes:
        name: Name of the network.
        source: Source as the user named it.
        path: Path that the runtime opens.
        runtime: Name of the runtime.
        precision: Precision option of the runtime, or ``None`` for its default.
        run: Run that the network belongs to, or ``None``. The network is evaluated on the images of the run.
        own: True if it is the network that made the predictions of the run.
        facts: Facts of the data that the network was built for, or ``None`` for a file of other origin.
        counts: ``parameters``, ``nonzero``, ``macs`` and ``bytes``, if available.
        missing: Reason why it cannot be measured, with the package to install. Empty if it can be.
    """

    name: str
    source: str
    path: str
    runtime: str
    precision: str | None = None
    run: RunFolder | None = None
    own: bool = False
    facts: DataFacts | None = None
    counts: dict[str, int] | None = None
    missing: str = ""

    def open_arguments(self) -> dict[str, str | None]:
        """Return the arguments of :meth:`imgrec.bench.worker.Worker.open` that depend on the candidate."""
        if not runtime_class(self.runtime).suffixes:
            return {"path": self.path, "runtime": self.runtime, "precision": self.precision}
        file, stored = network_file(self.path)
        return {"path": str(file), "runtime": self.runtime, "precision": self.precision, "stored": stored}


def find_candidates(
    sources: Sequence[str],
    runtimes: Sequence[str] | None,
    precisions: Sequence[str] | None,
    work: Path,
    export: Exporter,
) -> list[Candidate]:
    """Return the candidates of a benchmark, in the order of the sources.

    A run is measured in each runtime, and each of its exports is measured. If the run has no export in float32, a
    temporary one is written to ``work``.

    Args:
        sources: Run folders, checkpoints, model folders, folders of exports, files ``.onnx`` and ``.xml``.
        runtimes: Names of runtimes. Defaults to those with ``is_measured_by_default`` for a classifier, and to the
            default runtime of the format for an export.
        precisions: Precisions ``fp32``, ``bf16`` or ``fp16`` of PyTorch and OpenVINO. Defaults to that of the network.
        work: Empty folder for temporary exports.
        export: Function that writes an export.

    Raises:
        UserError: If a path is no source, opens in none of the named runtimes, or the package of a named runtime is
            missing.
    """
    for name in runtimes or ():
        runtime_class(name, "--runtime").require()
    for word in precisions or ():
        check_precision("torch", word)
    if precisions and runtimes and not any(_accepts(name, precisions) for name in runtimes):
        check_precision(runtimes[0], precisions[0])
    names = _names(sources)
    found: list[Candidate] = []
    for number, (source, name) in enumerate(zip(sources, names, strict=True)):
        path = Path(source)
        if path.suffix in network_suffixes() or is_export(path):
            found += _of_file(path, source, name, runtimes, precisions)
        else:
            found += _of_network(path, source, name, runtimes, precisions, work / str(number), export)
    return _distinct(found)


def _of_file(
    path: Path, source: str, name: str, runtimes: Sequence[str] | None, precisions: Sequence[str] | None
) -> list[Candidate]:
    folder = path if path.is_dir() else path.parent
    file, _ = network_file(path)
    run = _run_around(folder) if is_export(folder) else None
    known = is_export(folder) and read_export(folder).file.resolve() == file.resolve()
    facts = read_export(folder).facts if known else None
    accepted = runtimes_of(path)
    selected = accepted[:1] if runtimes is None else [each for each in accepted if each in runtimes]
    if not selected:
        raise UserError(f"{source} opens in {' and '.join(accepted)}, not in {', '.join(runtimes or ())}")
    place = str(folder if known else path)
    counts = {"bytes": network_bytes(place)}
    base = Candidate(name, source, place, "", run=run if known else None, facts=facts, counts=counts)
    return _in_runtimes(base, selected, precisions, named=runtimes is not None)


def _of_network(
    path: Path,
    source: str,
    name: str,
    runtimes: Sequence[str] | None,
    precisions: Sequence[str] | None,
    work: Path,
    export: Exporter,
) -> list[Candidate]:
    run = RunFolder(path) if is_run_folder(path) else None
    named = runtimes is not None
    exports = _exports(run) if run is not None else []
    try:
        classifier, facts = read_network(path)
    except UserError:
        if not exports:
            raise
        return [each for folder in exports for each in _of_export(folder, source, name, run, runtimes, precisions)]
    counts = _counts(classifier, facts)
    weights = next((p for p in (path / "model" / WEIGHTS, path / WEIGHTS) if p.is_file()), None)
    base = Candidate(name, source, str(path), "", run=run, own=run is not None, facts=facts, counts=counts)
    selected = runtimes or [name for name in runtime_names() if runtime_class(name).is_measured_by_default]
    in_torch = [name for name in selected if not runtime_class(name).suffixes]
    size = {"bytes": bytes_on_disk(weights)} if weights is not None else {}
    found = _in_runtimes(replace(base, counts={**counts, **size}), in_torch, precisions, named)
    made: dict[str, Path] = {}
    for runtime in (each for each in selected if each not in in_torch):
        try:
            require_runtime(runtime)
            ready = _float32(exports, runtime)
            if ready is None:
                ready = _exported(classifier, facts, runtime, work, made, export)
            other = replace(base, path=str(ready), own=False, counts={**counts, "bytes": network_bytes(ready)})
            found += _in_runtimes(other, [runtime], precisions, named)
        except UserError as error:
            if named:
                raise
            found.append(replace(base, runtime=runtime, precision="fp32", own=False, missing=str(error)))
    shown = {each.path for each in found}
    for folder in exports:
        if str(folder) not in shown and read_export(folder).precision != "fp32":
            found += _of_export(folder, source, name, run, runtimes, precisions, counts)
    return found


def _of_export(
    folder: Path,
    source: str,
    name: str,
    run: RunFolder | None,
    runtimes: Sequence[str] | None,
    precisions: Sequence[str] | None,
    counts: dict[str, int] | None = None,
) -> list[Candidate]:
    """Return the candidates of an export in a run. There are none if no named runtime opens it."""
    accepted = runtimes_of(folder)
    selected = accepted[:1] if runtimes is None else [each for each in accepted if each in runtimes]
    known = {**(counts or {}), "bytes": network_bytes(folder)}
    facts = read_export(folder).facts
    base = Candidate(f"{name}/{folder.name}", source, str(folder), "", run=run, facts=facts, counts=known)
    return _in_runtimes(base, selected, precisions, named=runtimes is not None)


def _in_runtimes(
    base: Candidate, runtimes: Sequence[str], precisions: Sequence[str] | None, named: bool
) -> list[Candidate]:
    found = []
    for runtime in runtimes:
        try:
            require_runtime(runtime)
        except UserError as error:
            if named:
                raise
            found.append(replace(base, runtime=runtime, missing=str(error)))
            continue
        options: Sequence[str | None] = [None]
        lowered = bool(runtime_class(runtime).suffixes) and network_file(base.path)[1] != "fp32"
        if precisions is not None and not lowered and _accepts(runtime, precisions):
            options = precisions
        found += [
            replace(base, runtime=runtime, precision=each, own=base.own and each in (None, "fp32")) for each in options
        ]
    return found


def _accepts(runtime: str, precisions: Sequence[str]) -> bool:
    try:
        for each in precisions:
            check_precision(runtime, each)
    except UserError:
        return False
    return True


def _exports(run: RunFolder) -> list[Path]:
    return sorted(each for each in run.exports.glob("*") if is_export(each))


def _exported(
    classifier: Classifier, facts: DataFacts, runtime: str, work: Path, made: dict[str, Path], export: Exporter
) -> Path:
    """Return a temporary export for a runtime, in ONNX if it opens ONNX. ``made`` holds the exports by format."""
    formats = format_names(runtime)
    if not formats:
        raise UserError(f"{runtime_class(runtime).title} opens no format that a network can be exported to.")
    name = "onnx" if "onnx" in formats else formats[0]
    if name not in made:
        find_format(name).require()
        require_runtime(default_runtime(name))
        made[name] = export(classifier, facts, work / name, name)
    return made[name]


def _float32(exports: Sequence[Path], runtime: str) -> Path | None:
    """Return the export of a run in float32 that a runtime opens, in the runtime's own format if there is one."""
    found = [(read_export(each), each) for each in exports]
    for name in format_names(runtime):
        for export, folder in found:
            if (export.format, export.precision) == (name, "fp32"):
                return folder
    return None


def _run_around(folder: Path) -> RunFolder | None:
    around = folder.absolute().parent.parent
    return RunFolder(around) if folder.absolute().parent.name == "exports" and is_run_folder(around) else None


def _counts(classifier: Classifier, facts: DataFacts) -> dict[str, int]:
    images = torch.zeros(2, facts.channels, facts.image_size, facts.image_size)
    return {
        "parameters": count_parameters(classifier),
        "nonzero": count_nonzero(classifier),
        "macs": count_macs(classifier, images),
    }


def _names(sources: Sequence[str]) -> list[str]:
    """Return a name for each source. A run is named by its experiment, and by its id if others have the same."""
    runs = [_run_of(source) for source in sources]
    experiments = {run.path.resolve(): run.experiment for run in runs if run is not None}
    found = []
    for source, run in zip(sources, runs, strict=True):
        if run is None:
            found.append(Path(source).resolve().name)
            continue
        is_unique = list(experiments.values()).count(run.experiment) == 1
        name = run.experiment if is_unique else f"{run.experiment}/{run.run_id}"
        found.append(f"{name}/{Path(source).resolve().name}" if is_export(source) else name)
    return strip_common_folders(found)


def _run_of(source: str) -> RunFolder | None:
    path = Path(source)
    if is_export(path):
        return _run_around(path)
    if is_run_folder(path) or not path.exists():
        return RunFolder(path)  # raises a clear error if it does not exist
    return None


def _distinct(found: Sequence[Candidate]) -> list[Candidate]:
    """Remove duplicates, which occur if a run and its export are both given."""
    seen: dict[tuple[str, str, str | None], Candidate] = {}
    for each in found:
        seen.setdefault((str(Path(each.path).resolve()), each.runtime, each.precision), each)
    return list(seen.values())
