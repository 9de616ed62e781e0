"""The parser of all commands, built on argparse."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import Any, NoReturn

from imgrec.cli.option_types import Number
from imgrec.engine.config import parse_value
from imgrec.errors import UserError, nearest, suggestion
from imgrec.utils.terminal import print
from imgrec.utils.yaml import YAMLKeyError

CONFIG_KEYS = ("model", "data", "trainer", "seed_everything", "experiment", "runs", "evaluate_after_fit")
"""Top-level keys of a config. ``--KEY`` and ``--KEY.subkey`` override them."""

_PLACEHOLDERS = {"--key.subkey", "--toggle.KEY"}
"""Options that only document overrides in the help."""

_NUMBER = re.compile(r"^-(?:\d|\.\d|\.inf)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """A formatter that adds the range and the default of an option to its help."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=min(shutil.get_terminal_size().columns, 110) - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Wrap each paragraph. Paragraphs with an indented line are kept."""
        kept = super()._fill_text
        paragraphs = [
            kept(each, width, indent)
            if "\n  " in each or each.startswith("  ")
            else fill(" ".join(each.split()), width)
            for each in text.rstrip("\n").split("\n\n")
        ]
        return "\n\n".join(paragraphs)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        facts = [action.type.description] if isinstance(action.type, Number) and action.type.description else []
        hidden = action.default in (None, argparse.SUPPRESS, []) or isinstance(action.default, bool)
        shown = not hidden and "default:" not in text
        if shown and (action.option_strings or action.nargs in ("?", "*")):
            default = action.default
            value = " ".join(map(str, default)) if isinstance(default, list | tuple) else str(default)
            facts.append(f"default: {value.replace('%', '%%')}")
        return f"{text} ({', '.join(facts)})" if facts else text


class Parser(argparse.ArgumentParser):
    """The parser of one command.

    Option names are never abbreviated. Unknown options, values and positional arguments raise a
    :class:`~imgrec.errors.UserError` that suggests the nearest accepted word. Printed text is escaped, because file
    names may contain control characters.
    """

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "formatter_class": HelpFormatter, **given})
        self._negative_number_matcher = _NUMBER
        self._config_keys: tuple[str, ...] = ()
        self._documented: set[str] = set()

    def accept_config(self, *, positional: bool = True, keys: Sequence[str] = CONFIG_KEYS) -> None:
        """Accept config files and overrides. The namespace then has ``files`` and ``overrides``.

        Args:
            positional: Also accept config files without ``--config``. Defaults to true.
            keys: The top-level keys that may be overridden. Defaults to all keys of a config.
        """
        self._config_keys = tuple(keys)
        group = self.add_argument_group("config")
        if positional:
            group.add_argument("named_files", nargs="*", metavar="CONFIG.yaml", help="a config file")
        group.add_argument(
            "-c", "--config", action="append", default=[], metavar="FILE",
            help="a config file. Several files are merged, later over earlier",
        )  # fmt: skip
        group.add_argument(
            "--key.subkey", dest=argparse.SUPPRESS, metavar="VALUE",
            help="override one value: --data.batch_size 256, --model.loss=focal. A key that ends in + appends to a "
            "list: --trainer.callbacks+ EarlyStopping",
        )  # fmt: skip

    def document_override(self, option: str, help: str) -> None:
        """Add a top-level key of the config to the help, for example ``--runs``. It stays an override."""
        self._documented.add(option)
        self.add_argument(option, dest=argparse.SUPPRESS, metavar="VALUE", help=help)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Return the parsed arguments.

        Raises:
            UserError: If an option or a value is unknown, missing or out of range.
        """
        words = list(sys.argv[1:] if args is None else args)
        rest, overrides = self._split_overrides(words)
        if self._subparsers is None and {"-h", "--help"} & set(rest):
            self.print_help()
            self.exit()
        rest = [word for word in map(self._without_boolean, rest) if word]
        self._refuse_unknown(rest)
        parse = self.parse_known_args if self._subparsers is not None else self.parse_known_intermixed_args
        found, unknown = parse(rest, namespace)
        if unknown:
            self.error(f"expected no further argument, got {' '.join(unknown)!r}.")
        if self._config_keys:
            found.files = [*getattr(found, "named_files", []), *found.config]
            found.overrides = overrides
        return found

    def error(self, message: str) -> NoReturn:
        """Raise a message of argparse as a :class:`~imgrec.errors.UserError`."""
        text = message.removeprefix("argument ")
        raise UserError(f"{text if text.endswith('.') else f'{text}.'} See `{self.prog} --help`.")

    def _split_overrides(self, words: list[str]) -> tuple[list[str], list[tuple[str, Any]]]:
        """Return the words without overrides of the config, and the overrides. An override without value is true."""
        rest, overrides, waiting = [], [], list(words)
        while waiting:
            word = waiting.pop(0)
            option, equals, text = word.partition("=")
            key = option.removeprefix("--")
            if not self._is_override(option):
                rest.append(word)
                action = self._option_string_actions.get(word)
                if action is not None and action.nargs is None and waiting:
                    rest.append(waiting.pop(0))
                continue
            has_value = bool(equals)
            if not equals and waiting and (not waiting[0].startswith("-") or _is_number(waiting[0])):
                text, has_value = waiting.pop(0), True
            try:
                overrides.append((key, parse_value(text) if has_value else True))
            except YAMLKeyError as error:
                raise UserError(f"--{key}: {error}") from error
        return rest, overrides

    def _is_override(self, option: str) -> bool:
        root = option.removeprefix("--").partition(".")[0].removesuffix("+")
        is_option = option in self._option_string_actions and option not in self._documented
        return option.startswith("--") and root in self._config_keys and not is_option

    def _without_boolean(self, word: str) -> str:
        """Return ``--flag`` for ``--flag=true`` and an empty text for ``--flag=false``. Other words are unchanged."""
        option, equals, text = word.partition("=")
        action = self._option_string_actions.get(option)
        if not equals or action is None or action.nargs != 0 or action.const is not True:
            return word
        if text not in ("true", "false"):
            raise UserError(f"{option}: expected no value, true or false, got {text!r}.")
        return option if text == "true" else ""

    def _refuse_unknown(self, words: Iterable[str]) -> None:
        known = {option for parser in self._all() for option in parser._option_string_actions} - _PLACEHOLDERS
        for word in words:
            option = word.partition("=")[0]
            if word == "--":
                return
            if len(word) < 2 or word[0] != "-" or " " in option or _NUMBER.match(word) or option in known:
                continue
            accepted = sorted((each for each in known if each.startswith("--")), key=str.lstrip)
            raise UserError(
                f'{self.prog}: there is no option "{option}".{self._hint(option, accepted)} '
                f"Accepted: {', '.join([*accepted, *(f'--{key}.*' for key in self._config_keys[:3])])}."
            )

    def _hint(self, option: str, accepted: list[str]) -> str:
        root, dot, rest = option.removeprefix("--").partition(".")
        if dot and self._config_keys:
            keys = nearest(root, self._config_keys, at_most=1)
            return f' Did you mean "--{keys[0]}.{rest}"?' if keys else ""
        return suggestion(option, accepted)

    def _all(self) -> list[Parser]:
        groups = self._subparsers._group_actions if self._subparsers is not None else []
        choices = [group.choices for group in groups if isinstance(group.choices, dict)]
        return [self, *(each for found in choices for each in found.values())]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            accepted = [str(each) for each in action.choices]
            raise argparse.ArgumentError(
                action, f'there is no "{value}".{suggestion(value, accepted)} Accepted: {", ".join(accepted)}.'
            )

    def _print_message(self, message: str, file: Any = None) -> None:
        if message:
            print(message, end="", file=file)


def _is_number(word: str) -> bool:
    return isinstance(parse_value(word), int | float)
