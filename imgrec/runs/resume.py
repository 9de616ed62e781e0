"""A run that goes on: what it stood on before, what it stands on now, and the note of it in environment.json."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgrec.errors import UserError, suggestion
from imgrec.runs.checkpoints import Usable
from imgrec.runs.data import DATA, SELECTING
from imgrec.runs.flat_config import as_column, covers, differing, flat_config
from imgrec.runs.folder import ENVIRONMENT
from imgrec.runs.summary import read_json, write_json

_HARDWARE = ("cpu", "threads", "gpus")


@dataclass(frozen=True)
class Resumption:
    """How a run goes on: from which checkpoint, and with what changed.

    Args:
        start: the checkpoint; ``None`` begins at the first step, in the same folder.
        changed: ``{column: {"run": before, "now": now}}``, see :func:`imgrec.runs.flat_config.differing`.
        allowed: the columns that may change, ``data_fingerprint`` among them.
    """

    start: Usable | None
    changed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    allowed: frozenset[str] = frozenset()

    @property
    def changes_data(self) -> bool:
        """True if the images or their split may differ from what the run was trained on so far."""
        return DATA in self.allowed or any(covers(f"data/{key}", self.changed) for key in SELECTING)

    @property
    def step(self) -> int:
        """The optimizer step that it goes on from."""
        return 0 if self.start is None else self.start.step


def check_changes(
    run: str | os.PathLike[str], before: Mapping[str, Any], now: Mapping[str, Any], allowed: Iterable[str]
) -> tuple[dict[str, dict[str, Any]], frozenset[str]]:
    """What is different between a run's config and the one that it shall go on with.

    Args:
        run: its folder, for the message.
        before: its resolved config.
        now: the other one, resolved too.
        allowed: keys that may differ, dotted or as columns: ``trainer.max_epochs``, ``optimizer/lr``, ``optimizer``.

    Returns:
        The columns that differ, and the allowed keys as columns.

    Raises:
        UserError: there are others than the allowed; or an allowed one is no key.
    """
    columns = {*flat_config(before), *flat_config(now), DATA}
    keys = frozenset(as_column(key) for key in allowed)
    for key in keys:
        if not covers(key, columns):
            raise UserError(f'--allow-changed: there is no key "{key}".{suggestion(key, columns)}')
    changed = differing({"run": before, "now": now})
    refused = {column: values for column, values in changed.items() if not any(covers(k, [column]) for k in keys)}
    if refused:
        lines = "".join(f"\n  {column}: {_said(values)}" for column, values in refused.items())
        names = " ".join(f"--allow-changed {column}" for column in refused)
        raise UserError(
            f"the run {Path(run)} was begun with another config, and would not end as it would have:{lines}\n"
            f"What shall change nevertheless is named by {names}"
        )
    return changed, keys


def _said(values: Mapping[str, Any]) -> str:
    before, now = (f"{values[who]!r}" if who in values else "not given" for who in ("run", "now"))
    return f"{before} before, {now} now"


def check_data(run: str | os.PathLike[str], fingerprint: str | None, allowed: Iterable[str]) -> None:
    """Refuse data that is not what the run has seen so far.

    Raises:
        UserError: it is not; the message holds both fingerprints.
    """
    before = _last(read_json(Path(run) / ENVIRONMENT)).get(DATA)
    if before is not None and fingerprint != before and DATA not in allowed:
        raise UserError(
            f"the data of the run {Path(run)} has changed: its fingerprint was {before} and is {fingerprint} now. "
            f"Go on with the data as it was, or allow it: --allow-changed {DATA}"
        )


def differences(environment: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What a run stands on now and did not before, each in a few words: versions, processor, threads, GPUs."""
    before = _last(environment)
    pairs = {
        name: ((before.get("versions") or {}).get(name), version) for name, version in (now["versions"] or {}).items()
    }
    pairs |= {name: ((before.get("hardware") or {}).get(name), now["hardware"].get(name)) for name in _HARDWARE}
    return [f"{name} {old}, now {new}" for name, (old, new) in pairs.items() if old is not None and old != new]


def note_resumption(
    run: str | os.PathLike[str], now: Mapping[str, Any], resumption: Resumption, processes: int
) -> None:
    """Add to environment.json that the run goes on, when, from where and on what; what stood there stays."""
    path = Path(run) / ENVIRONMENT
    environment = read_json(path)
    start = resumption.start
    entry = {
        **{key: now[key] for key in ("started", "command", DATA, "git", "versions", "platform", "hardware")},
        "checkpoint": None if start is None else start.path.name,
        "step": resumption.step,
        "epoch": 0 if start is None else start.epoch,
        "processes": processes,
        "changed": {column: dict(values) for column, values in resumption.changed.items()},
    }
    write_json(path, {**environment, "resumed": [*environment.get("resumed", []), entry]})


def _last(environment: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the run stood on when it last began or went on."""
    resumed = environment.get("resumed") or []
    return resumed[-1] if resumed else environment
