"""Compression of a run by plans: ``imgrec.compress_run`` and ``imgrec compress``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrec.engine.config import Config, read_config
from imgrec.engine.resume import train_in
from imgrec.errors import ResourceError
from imgrec.studies.compression.plan_budget import raise_if_exceeded
from imgrec.studies.compression.study import Compression
from imgrec.trust import Trust, allow, opening
from imgrec.utils.write_errors import Postponed

if TYPE_CHECKING:
    from imgrec.compress.plan import Plan
    from imgrec.runs.folder import RunFolder


def compress_run(run: RunFolder | str | Path, *plans: Any, trust: Trust = None) -> list[RunFolder]:
    """Make compressed variants of a trained run, each in its own run folder. Finished variants are kept.

    Args:
        run: Run folder.
        plans: Lists of specs of :data:`imgrec.compress.steps.STEPS`, mappings with ``steps``, or YAML files.
        trust: Names of classes and modules that the run may contain in addition to the registries. ``True`` allows
            every name. Defaults to none.

    Returns:
        The run folders, in the order of the plans.

    Raises:
        UserError: If a plan is invalid, or cannot be applied to this run.
        BudgetExceededError: If a variant loses more accuracy than the ``max_drop`` of its plan. It is raised after
            all variants are made and marked. A quantization step that exceeds its own ``max_drop`` writes no export.

    Example::

        half, small = imgrec.compress_run(
            "runs/digits/quickstart/20261121-143005",
            [{"name": "prune", "target": {"macs": 0.5}}, "finetune"],
            ["quantize"],
        )
    """
    from imgrec.compress.plan import read_plans
    from imgrec.engine.library_output import quiet_libraries

    found: list[Plan] = []
    for place, plan in enumerate(plans):
        file = isinstance(plan, str | Path)
        values = read_config(plan) if file else plan
        found += read_plans(values, str(plan) if file else f"plans[{place}]", Path(plan).stem if file else None)
    with opening(Path(run), trust):
        allow(list(plans))
        quiet_libraries()
        compression = build_compression(run)
        if (error := apply_plans(compression, found)) is not None:
            raise error
        raise_if_over_budget(compression, found)
        return compression.done


def build_compression(run: RunFolder | str | Path) -> Compression:
    """Build the compression study of a run, which trains with the engine."""
    return Compression(run, train_in, check_config)


def apply_plans(compression: Compression, plans: Sequence[Plan]) -> ResourceError | None:
    """Make the variants of all plans, and return the first failure to write a result, or ``None``."""
    postponed = Postponed()
    with postponed:
        compression.run(plans)
    return postponed.error


def raise_if_over_budget(compression: Compression, plans: Sequence[Plan]) -> None:
    """Raise an error if a variant exceeds the accuracy budget of its plan.

    Raises:
        BudgetExceededError: If a variant loses more accuracy than ``max_drop``.
    """
    variants = zip(compression.done, plans, strict=True)
    raise_if_exceeded([run for run, plan in variants if plan.max_drop is not None])


def check_config(config: Config) -> None:
    """Raise an error if a config is invalid, before any data is read.

    Raises:
        UserError: If the config is invalid.
    """
    from imgrec.engine.experiment import Experiment

    Experiment(config)
