"""Values of ``trainer.precision: auto`` and ``model.channels_last: auto``, measured before a run starts."""

from __future__ import annotations

import hashlib
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning_utilities.core.rank_zero import rank_zero_only

from imgrec.data.cache.registry import cache_root
from imgrec.errors import UserError, suggestion
from imgrec.optim import OPTIMIZERS
from imgrec.runs.environment import describe_hardware
from imgrec.tasks import BaseTask
from imgrec.tasks.precision_benchmark import PrecisionConfig, is_small, measure_precisions, select_fastest
from imgrec.tasks.synthetic_step import temporary_copy
from imgrec.utils.paths import write_text

if TYPE_CHECKING:
    from imgrec.engine.experiment import Experiment

AUTO = "auto"
PLAIN = PrecisionConfig("32-true", False)

_NAMES = {"32-true": "32-true", "32": "32-true", "bf16-mixed": "bf16-mixed", "bf16": "bf16-mixed"}
_WORDS = (
    *("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true"),
    *("transformer-engine", "transformer-engine-float16", "64", "32", "16", "bf16"),
)
_IRRELEVANT = ("loss", "regularizers", "schedule", "normalize", "auxiliary_weight", "channels_last")
_MAX_STORED = 500
_TOO_SMALL = "a step of this network is too small to gain"

logger = logging.getLogger(__name__)


def resolve_auto(experiment: Experiment) -> bool:
    """Replace ``auto`` in the config and the task of an experiment, and log the values with the reason.

    On one device, the values are measured on a few steps. The result is stored per machine and network, so that all
    seeds of a config are trained with the same values. With several processes nothing is measured, because all
    processes require the same values: bfloat16 and channels last on GPUs with support for bfloat16, float32 otherwise.

    Returns:
        True if the precision of the trainer changed. The trainer must then be built again.
    """
    trainer, model = experiment.config["trainer"], experiment.config["model"]["init_args"]
    precision, order = trainer["precision"], model.get("channels_last", False)
    if AUTO not in (precision, order):
        return False
    if precision == AUTO and experiment.config["trainer"]["plugins"]:
        precision = trainer["precision"] = None  # a plugin may bring its own, and Lightning takes only one
    named = precision == AUTO or str(precision) in _NAMES
    precisions = ["32-true"] if not named else [_NAMES[str(precision)]] if precision != AUTO else ["32-true"]
    orders = [False, True] if order == AUTO else [bool(order)]
    chosen, why = PrecisionConfig(precisions[0], orders[0]), ""
    device = experiment.trainer.strategy.root_device
    if precision == AUTO and can_bf16(device):
        precisions.append("bf16-mixed")
    ways = [PrecisionConfig(name, last) for name in precisions for last in orders]
    if not named:
        why = f"nothing is measured for precision {precision}"
    elif experiment.trainer.fast_dev_run:
        why = "fast_dev_run measures nothing"
    elif experiment.trainer.world_size > 1:
        chosen = ways[-1] if device.type == "cuda" else chosen
        why = f"{experiment.trainer.world_size} processes measure nothing, because all require the same values"
    elif not isinstance(experiment.task, BaseTask) or device.type not in ("cpu", "cuda"):
        why = f"{type(experiment.task).__name__} on {device.type} is not measured"
    elif len(ways) > 1:
        chosen, why = _measure(experiment, device, ways)
    if precision == AUTO:
        trainer["precision"] = chosen.precision
    if order == AUTO:
        model["channels_last"] = chosen.channels_last
        if isinstance(experiment.task, BaseTask):
            experiment.task.channels_last = chosen.channels_last
            experiment.task.hparams["channels_last"] = chosen.channels_last
    log = logger.debug if why == _TOO_SMALL else logger.info  # the default values need no message
    rank_zero_only(log)("precision %s%s%s", chosen if named else precision, ": " if why else "", why)
    return bool(precision == AUTO and chosen.precision != "32-true")


def parse_precision(precision: Any) -> Any:
    """Return the precision for Lightning's Trainer, ``None`` for ``auto``.

    Raises:
        UserError: If the precision is unknown.
    """
    words = [AUTO, *_WORDS]
    if precision is not None and str(precision) not in words:
        raise UserError(
            f'trainer.precision: there is no "{precision}".{suggestion(str(precision), words)} '
            f"Accepted: {', '.join(words)}."
        )
    return None if precision == AUTO else precision


def can_bf16(device: torch.device) -> bool:
    """Return True if a device supports bfloat16. On a CPU the measurement decides."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu"


def _measure(experiment: Experiment, device: torch.device, ways: list[PrecisionConfig]) -> tuple[PrecisionConfig, str]:
    data = experiment.data
    data.prepare_data()
    data.setup("fit")
    facts = getattr(data, "facts", None)
    batch_size = experiment.config["data"]["init_args"].get("batch_size")
    if batch_size == "all" and facts is not None:
        batch_size = sum(facts.class_counts)
    if facts is None or not isinstance(batch_size, int):
        return ways[0], f"{type(data).__name__} has no facts or no batch size"
    key = _key(experiment, facts.to_dict(), device, ways)
    stored = _read_store()
    if key in stored and (found := PrecisionConfig(*stored[key]["way"])) in ways:
        return found, f"measured before on this machine, {stored[key]['said']}"
    with temporary_copy(experiment.task, facts, device) as task:
        if is_small(task, batch_size):
            return ways[0], _TOO_SMALL
        measured = measure_precisions(task, batch_size, ways)
    chosen = select_fastest(measured.seconds)
    _add_to_store(key, chosen, str(measured))
    return chosen, str(measured)


def _key(experiment: Experiment, facts: dict[str, Any], device: torch.device, ways: list[PrecisionConfig]) -> str:
    """Return a digest of the network, its shapes, the machine and torch. Seeds and losses are not part of it."""
    model = {k: v for k, v in experiment.config["model"]["init_args"].items() if k not in _IRRELEVANT}
    model["optimizer"] = OPTIMIZERS.parse(model.get("optimizer", "adamw"))[0]
    shape = {name: facts[name] for name in ("image_size", "channels")} | {"classes": len(facts["class_names"])}
    machine = describe_hardware()
    about = [
        [experiment.config["model"]["class_path"], model],
        shape,
        experiment.config["data"]["init_args"]["batch_size"],
        [str(device), machine["cpu"], machine["threads"], machine["gpus"]],
        torch.__version__,
        ways,
    ]
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _store() -> Path:
    return cache_root().parent / "precision.json"


def _read_store() -> dict[str, Any]:
    try:
        found = json.loads(_store().read_text(encoding="utf-8"))
        return {key: each for key, each in found.items() if len(each["way"]) == 2 and each["said"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # no file yet, or a file of another version
        return {}


def _add_to_store(key: str, way: PrecisionConfig, measurement: str) -> None:
    stored = {**_read_store(), key: {"way": list(way), "said": measurement}}
    with suppress(OSError):  # in a read-only home directory, every run measures again
        _store().parent.mkdir(parents=True, exist_ok=True)
        write_text(_store(), json.dumps(dict(list(stored.items())[-_MAX_STORED:]), indent=1) + "\n")
