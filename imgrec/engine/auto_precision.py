"""What ``trainer.precision: auto`` and ``model.channels_last: auto`` become, before a run begins."""

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
from imgrec.runs.environment import hardware
from imgrec.tasks import BaseTask
from imgrec.tasks.precision_benchmark import Way, fastest, is_small, measure
from imgrec.tasks.synthetic_step import trial
from imgrec.utils.paths import write_text

if TYPE_CHECKING:
    from imgrec.engine.experiment import Engine

AUTO = "auto"
PLAIN = Way("32-true", False)

_NAMES = {"32-true": "32-true", "32": "32-true", "bf16-mixed": "bf16-mixed", "bf16": "bf16-mixed"}
_WORDS = (
    *("32-true", "bf16-mixed", "16-mixed", "64-true", "bf16-true", "16-true"),
    *("transformer-engine", "transformer-engine-float16", "64", "32", "16", "bf16"),
)
_IRRELEVANT = ("loss", "regularizers", "schedule", "normalize", "auxiliary_weight", "channels_last")
_KEPT = 500
_TOO_SMALL = "a step of this network is too small to gain"

logger = logging.getLogger(__name__)


def settle(engine: Engine) -> bool:
    """Put values in the place of ``auto`` in the engine's config and task; say which, and why.

    On one device, ``auto`` is measured on a few steps; what a machine found for a network, it keeps for later runs of
    the same, so that the seeds of one config are trained alike. With several processes nothing is measured, so that all
    decide the same: bfloat16 and channels last on GPUs that can, float32 elsewhere.

    Returns:
        Whether the trainer's precision changed: it has to be built again.
    """
    trainer, model = engine.config["trainer"], engine.config["model"]["init_args"]
    precision, order = trainer["precision"], model.get("channels_last", False)
    if AUTO not in (precision, order):
        return False
    if precision == AUTO and engine.config["trainer"]["plugins"]:
        precision = trainer["precision"] = None  # a plugin may bring its own, and Lightning takes only one
    named = precision == AUTO or str(precision) in _NAMES
    precisions = ["32-true"] if not named else [_NAMES[str(precision)]] if precision != AUTO else ["32-true"]
    orders = [False, True] if order == AUTO else [bool(order)]
    chosen, why = Way(precisions[0], orders[0]), ""
    device = engine.trainer.strategy.root_device
    if precision == AUTO and can_bf16(device):
        precisions.append("bf16-mixed")
    ways = [Way(name, last) for name in precisions for last in orders]
    if not named:
        why = f"nothing is measured beside precision {precision}"
    elif engine.trainer.fast_dev_run:
        why = "fast_dev_run measures nothing"
    elif engine.trainer.world_size > 1:
        chosen = ways[-1] if device.type == "cuda" else chosen
        why = f"{engine.trainer.world_size} processes measure nothing, so that all decide the same"
    elif not isinstance(engine.task, BaseTask) or device.type not in ("cpu", "cuda"):
        why = f"{type(engine.task).__name__} on {device.type} is not measured"
    elif len(ways) > 1:
        chosen, why = _measured(engine, device, ways)
    if precision == AUTO:
        trainer["precision"] = chosen.precision
    if order == AUTO:
        model["channels_last"] = chosen.channels_last
        if isinstance(engine.task, BaseTask):
            engine.task.channels_last = chosen.channels_last
            engine.task.hparams["channels_last"] = chosen.channels_last
    say = logger.debug if why == _TOO_SMALL else logger.info  # a choice that changes nothing needs no line
    rank_zero_only(say)("precision %s%s%s", chosen if named else precision, ": " if why else "", why)
    return bool(precision == AUTO and chosen.precision != "32-true")


def until_settled(precision: Any) -> Any:
    """What Lightning's Trainer can be given before ``auto`` is settled.

    Raises:
        UserError: no such precision.
    """
    words = [AUTO, *_WORDS]
    if precision is not None and str(precision) not in words:
        raise UserError(
            f'trainer.precision: there is no "{precision}".{suggestion(str(precision), words)} '
            f"Accepted: {', '.join(words)}."
        )
    return None if precision == AUTO else precision


def can_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself; on a CPU the measurement tells."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu"


def _measured(engine: Engine, device: torch.device, ways: list[Way]) -> tuple[Way, str]:
    data = engine.data
    data.prepare_data()
    data.setup("fit")
    facts = getattr(data, "facts", None)
    batch_size = engine.config["data"]["init_args"].get("batch_size")
    if batch_size == "all" and facts is not None:
        batch_size = sum(facts.class_counts)
    if facts is None or not isinstance(batch_size, int):
        return ways[0], f"{type(data).__name__} does not say what a batch is"
    key = _key(engine, facts.to_dict(), device, ways)
    kept = _read()
    if key in kept and (found := Way(*kept[key]["way"])) in ways:
        return found, f"measured before on this machine, {kept[key]['said']}"
    with trial(engine.task, facts, device) as task:
        if is_small(task, batch_size):
            return ways[0], _TOO_SMALL
        measured = measure(task, batch_size, ways)
    chosen = fastest(measured.seconds)
    _keep(key, chosen, str(measured))
    return chosen, str(measured)


def _key(engine: Engine, facts: dict[str, Any], device: torch.device, ways: list[Way]) -> str:
    """Names what a measurement depends on: the network, its shapes, the machine, torch. Seeds and losses are not."""
    model = {k: v for k, v in engine.config["model"]["init_args"].items() if k not in _IRRELEVANT}
    model["optimizer"] = OPTIMIZERS.parse(model.get("optimizer", "adamw"))[0]
    shape = {name: facts[name] for name in ("image_size", "channels")} | {"classes": len(facts["class_names"])}
    machine = hardware()
    about = [
        [engine.config["model"]["class_path"], model],
        shape,
        engine.config["data"]["init_args"]["batch_size"],
        [str(device), machine["cpu"], machine["threads"], machine["gpus"]],
        torch.__version__,
        ways,
    ]
    text = json.dumps(about, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _file() -> Path:
    return cache_root().parent / "precision.json"


def _read() -> dict[str, Any]:
    try:
        found = json.loads(_file().read_text(encoding="utf-8"))
        return {key: each for key, each in found.items() if len(each["way"]) == 2 and each["said"]}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none yet, or not as we wrote it
        return {}


def _keep(key: str, way: Way, said: str) -> None:
    kept = {**_read(), key: {"way": list(way), "said": said}}
    with suppress(OSError):  # a home that cannot be written: measured again the next time
        _file().parent.mkdir(parents=True, exist_ok=True)
        write_text(_file(), json.dumps(dict(list(kept.items())[-_KEPT:]), indent=1) + "\n")
