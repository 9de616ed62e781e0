"""Start of a W&B run that also succeeds without a key, a server or W&B."""

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
    "init_timeout": 30.0,  # seconds, after which the run is stored offline
    "finish_timeout": 600.0,  # seconds, for a server that does not answer
}

logger = logging.getLogger("imgrec")


def start_run(arguments: dict[str, Any], settings: dict[str, Any]) -> tuple[Any, bool]:
    """Return a ``wandb.Run``, and True if it was active before. An active run is used unchanged.

    Args:
        arguments: Arguments of ``wandb.init``.
        settings: Additional ``wandb.Settings``.
    """
    import wandb

    if wandb.run is not None:  # started by the user or by a sweep agent
        attempt("write the config", wandb.run.config.update, arguments["config"], allow_val_change=True)
        return wandb.run, True
    options = {name: value for name, value in arguments.items() if value is not None}
    options["settings"] = wandb.Settings(**DEFAULTS | settings)
    mode = arguments.get("mode") or wandb.setup().settings.mode
    if mode not in ("offline", "dryrun", "disabled") and not wandb.login(prompt=False, verify=False):
        _warn_offline("no API key is configured: run `wandb login`", arguments["dir"])
        options["mode"] = "offline"
    try:
        return wandb.init(**options), False
    except Exception as error:  # W&B has no common class of its errors
        if options.get("mode") == "offline":
            return _start_disabled(error, options), False
        _warn_offline(_first_line(error), arguments["dir"])
    try:
        wandb.teardown()  # its service keeps the id of the failed run
        return wandb.init(**options | {"mode": "offline"}), False
    except Exception as error:
        return _start_disabled(error, options), False


def new_id() -> str:
    """Return a random id in the form of W&B: eight letters and digits."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))


def check_settings(settings: dict[str, Any]) -> None:
    """Raise an error for invalid settings of W&B.

    Raises:
        UserError: If there is no such setting, or if its value is invalid.
    """
    import wandb

    known = list(wandb.Settings.model_fields)
    for name in settings:
        if name not in known:
            raise UserError(f'WandbLogger.settings: W&B has no setting "{name}".{suggestion(name, known)}')
    try:
        wandb.Settings(**settings)
    except ValueError as error:
        raise UserError(f"WandbLogger.settings: {error}") from error


def _warn_offline(why: str, place: str) -> None:
    logger.warning(
        "W&B: %s. The run is stored offline in %s/wandb. Upload it with `imgrec sync %s`.", why, place, place
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _start_disabled(error: Exception, options: dict[str, Any]) -> Any:
    import wandb

    logger.warning("W&B: %s. The run continues without it.", _first_line(error))
    return wandb.init(**options | {"mode": "disabled"})


@contextmanager
def staged_in(folder: Path) -> Iterator[None]:
    """Store the copies of tables and images that W&B makes in ``folder``, unless ``WANDB_DATA_DIR`` is set.

    The default is the home folder of the user. Offline runs are uploaded from these copies.
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


def attempt(action: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call a function of W&B. If it fails, log a warning once per kind of call and return None."""
    try:
        return function(*arguments, **options)
    except Exception as error:
        if action not in _failed:
            _failed.add(action)
            logger.warning("W&B could not %s (%s: %s). Training continues.", action, type(error).__name__, error)
        return None
