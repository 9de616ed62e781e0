"""Resuming of a run: checks of config and data, and the record in environment.json."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgrec.errors import UserError, suggestion
from imgrec.runs.checkpoints import ResumableCheckpoint
from imgrec.runs.config import as_column, config_differences, flat_config, matches_column
from imgrec.runs.data import FINGERPRINT, SELECTION_ARGUMENTS
from imgrec.runs.folder import ENVIRONMENT
from imgrec.runs.summary import read_json, write_json

_HARDWARE = ("cpu", "threads", "gpus")


@dataclass(frozen=True)
class Resumption:
    """Start point of a resumed run, and the changes of its config.

    Args:
        start: Checkpoint to resume from. ``None`` restarts at the first step, in the same folder.
        changed: ``{column: {"run": before, "now": now}}``, as in :func:`imgrec.runs.config.config_differences`.
        allowed: Columns that may change, possibly with ``data_fingerprint``.
    """

    start: ResumableCheckpoint | None
    changed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()

    @property
    def changes_data(self) -> bool:
        """True if the images or their split may differ from those of the previous training."""
        return FINGERPRINT in self.allowed or any(
            matches_column(f"data/{key}", self.changed) for key in SELECTION_ARGUMENTS
        )

    @property
    def step(self) -> int:
        """Optimizer step to resume from."""
        return 0 if self.start is None else self.start.step


def check_config_changes(
    run: str | os.PathLike[str], before: Mapping[str, Any], now: Mapping[str, Any], allowed: Iterable[str]
) -> tuple[dict[str, dict[str, Any]], frozenset[str]]:
    """Compare the config of a run with the config that it is resumed with.

    Args:
        run: Run folder, for the message.
        before: Resolved config of the run.
        now: Resolved config for resuming.
        allowed: Keys that may differ, dotted or as columns: ``trainer.max_epochs``, ``optimizer/lr``, ``optimizer``.

    Returns:
        The columns that differ, and the allowed keys as columns.

    Raises:
        UserError: If another column differs, or an allowed key is unknown.
    """
    columns = {*flat_config(before), *flat_config(now), FINGERPRINT}
    keys = frozenset(as_column(key) for key in allowed)
    for key in keys:
        if not matches_column(key, columns):
            raise UserError(f'--allow-changed: expected a key of the config, got "{key}".{suggestion(key, columns)}')
    changed = config_differences({"run": before, "now": now})
    rejected = {
        column: values for column, values in changed.items() if not any(matches_column(k, [column]) for k in keys)
    }
    if rejected:
        lines = "".join(f"\n  {column}: {_change_text(values)}" for column, values in rejected.items())
        names = " ".join(f"--allow-changed {column}" for column in rejected)
        raise UserError(
            f"the run {Path(run)} was started with another config, so that its result would change:{lines}\n"
            f"Allow the changes with {names}"
        )
    return changed, keys


def _change_text(values: Mapping[str, Any]) -> str:
    before, now = (f"{values[key]!r}" if key in values else "not set" for key in ("run", "now"))
    return f"{before} before, {now} now"


def check_fingerprint(run: str | os.PathLike[str], fingerprint: str | None, allowed: Iterable[str]) -> None:
    """Check that the data is that of the previous training.

    Raises:
        UserError: If the fingerprint changed and is not allowed to.
    """
    before = _last_environment(read_json(Path(run) / ENVIRONMENT)).get(FINGERPRINT)
    if before is not None and fingerprint != before and FINGERPRINT not in allowed:
        raise UserError(
            f"the data of the run {Path(run)} has changed: its fingerprint was {before} and is {fingerprint} now. "
            f"Restore the data, or allow the change: --allow-changed {FINGERPRINT}"
        )


def environment_changes(environment: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the changes of versions, processor, threads and GPUs since the previous training, as text."""
    before = _last_environment(environment)
    pairs = {
        name: ((before.get("versions") or {}).get(name), version) for name, version in (now["versions"] or {}).items()
    }
    pairs |= {name: ((before.get("hardware") or {}).get(name), now["hardware"].get(name)) for name in _HARDWARE}
    return [f"{name} {old}, now {new}" for name, (old, new) in pairs.items() if old is not None and old != new]


def record_resumption(
    run: str | os.PathLike[str], now: Mapping[str, Any], resumption: Resumption, processes: int
) -> None:
    """Append time, checkpoint, environment and changes of a resumption to environment.json."""
    path = Path(run) / ENVIRONMENT
    environment = read_json(path)
    start = resumption.start
    entry = {
        **{key: now[key] for key in ("started", "command", FINGERPRINT, "git", "versions", "platform", "hardware")},
        "checkpoint": None if start is None else start.path.name,
        "step": resumption.step,
        "epoch": 0 if start is None else start.epoch,
        "processes": processes,
        "changed": {column: dict(values) for column, values in resumption.changed.items()},
    }
    write_json(path, {**environment, "resumed": [*environment.get("resumed", []), entry]})


def _last_environment(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the environment of the last start or resumption."""
    resumed = environment.get("resumed") or []
    return resumed[-1] if resumed else environment
