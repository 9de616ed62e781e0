"""Starting a W&B run so that training goes on without a key, without a server and without W&B."""

from __future__ import annotations

import logging
import os
import secrets
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imgrec.errors import UserError, suggestion

DEFAULTS = {
    "init_timeout": 30.0,  # seconds; then the run is kept offline
    "finish_timeout": 600.0,  # a server that went away does not hold the process for ever
}

logger = logging.getLogger("imgrec")


def start_run(arguments: dict[str, Any], settings: dict[str, Any]) -> tuple[Any, bool]:
    """A ``wandb.Run``, and whether it is somebody else's: one that was active already is used as it is.

    Args:
        arguments: of ``wandb.init``.
        settings: further ``wandb.Settings``.
    """
    import wandb

    if wandb.run is not None:  # the user's own, or a sweep agent's function
        attempt("write the config", wandb.run.config.update, arguments["config"], allow_val_change=True)
        return wandb.run, True
    options = {name: value for name, value in arguments.items() if value is not None}
    options["settings"] = wandb.Settings(**DEFAULTS | settings)
    mode = arguments.get("mode") or wandb.setup().settings.mode
    if mode not in ("offline", "dryrun", "disabled") and not wandb.login(prompt=False, verify=False):
        _say_offline("no API key is configured: run `wandb login`", arguments["dir"])
        options["mode"] = "offline"
    try:
        return wandb.init(**options), False
    except Exception as error:  # W&B has no one class for what can go wrong between it, its service and its server
        if options.get("mode") == "offline":
            return _nothing(error, options), False
        _say_offline(_first_line(error), arguments["dir"])
    try:
        wandb.teardown()  # its service holds the id of the run that did not begin
        return wandb.init(**options | {"mode": "offline"}), False
    except Exception as error:
        return _nothing(error, options), False


def new_id() -> str:
    """An id as W&B makes them: eight letters and digits, from the system's randomness."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def check_settings(settings: dict[str, Any]) -> None:
    """Refuse settings that W&B does not know.

    Raises:
        UserError: there is no such setting, or it takes another value.
    """
    import wandb

    known = list(wandb.Settings.model_fields)
    for name in settings:
        if name not in known:
            raise UserError(f'WandbLogger: settings: W&B has no setting "{name}".{suggestion(name, known)}')
    try:
        wandb.Settings(**settings)
    except ValueError as error:
        raise UserError(f"WandbLogger: settings: {error}") from error


def _say_offline(why: str, place: str) -> None:
    logger.warning("W&B: %s. The run is kept offline in %s/wandb; upload it by `imgrec sync %s`.", why, place, place)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _nothing(error: Exception, options: dict[str, Any]) -> Any:
    import wandb

    logger.warning("W&B: %s. The run goes on without it.", _first_line(error))
    return wandb.init(**options | {"mode": "disabled"})


@contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """Keep copies that W&B makes of tables and images in ``folder``, not in the user's home, where nothing else is set.

    What is kept offline is uploaded from there.
    """
    if os.environ.get(_STAGING):
        yield
        return
    os.environ[_STAGING] = str(folder.absolute())
    try:
        yield
    finally:
        del os.environ[_STAGING]


_STAGING = "WANDB_DATA_DIR"
_failed: set[str] = set()


def attempt(what: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call W&B; where it fails, say so once for each kind of call, and give ``None``: training is worth more."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        if what not in _failed:
            _failed.add(what)
            logger.warning("W&B could not %s (%s: %s); training goes on.", what, type(error).__name__, error)
        return None
