"""The words of a command that takes a config: files, overrides, and a few options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from imgrec.engine.config import parse_value
from imgrec.errors import UserError
from imgrec.utils.yaml import YAMLKeyError


@dataclass
class Arguments:
    """A command line, taken apart."""

    targets: list[str] = field(default_factory=list)
    configs: list[str] = field(default_factory=list)
    overrides: list[tuple[str, Any]] = field(default_factory=list)
    ckpt_path: str | None = None
    allowed: list[str] = field(default_factory=list)
    tta: Any = None
    tta_average: Any = "probabilities"
    print_config: bool = False
    help: bool = False


def parse(words: list[str]) -> Arguments:
    """Take a command line apart; an option without a value means ``true``."""
    found = Arguments()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            found.help = True
        elif word.partition("=")[0] == "--print_config":
            found.print_config = True
        elif word.startswith("--") or word == "-c" or word.startswith("-c="):
            key, equals, value = word.lstrip("-").partition("=")
            takes_next = not equals and rest and (not rest[0].startswith("-") or _is_number(rest[0]))
            if not equals:
                value = rest.pop(0) if takes_next else ""
            if key in ("config", "c", "ckpt_path") and not value:
                raise UserError(f"{word} needs a file")
            if key == "allow-changed" and not value:
                raise UserError(f"{word} needs a key, such as trainer.max_epochs")
            if key in ("config", "c"):
                found.configs.append(value)
            elif key == "ckpt_path":
                found.ckpt_path = value
            elif key == "allow-changed":
                found.allowed.append(value)
            elif key in ("tta", "tta_average"):
                setattr(found, key, _value(key, value))
            else:
                found.overrides.append((key, _value(key, value) if equals or takes_next else True))
        elif word.startswith("-"):
            raise UserError(f'there is no option "{word}"')
        else:
            found.targets.append(word)
    return found


def _value(key: str, text: str) -> Any:
    try:
        return parse_value(text)
    except YAMLKeyError as error:
        raise UserError(f"--{key}: {error}") from error


def _is_number(word: str) -> bool:
    return isinstance(parse_value(word), int | float)
