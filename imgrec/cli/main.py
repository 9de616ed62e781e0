"""The command ``imgrec``: import and run the subcommand, without imports that its help does not need."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from importlib import import_module
from itertools import pairwise
from pathlib import Path

from imgrec import trust
from imgrec.errors import UserError
from imgrec.trust.module_path import without_current_folder
from imgrec.trust.untrusted import OPTION
from imgrec.utils.signals import preemptible
from imgrec.utils.terminal import print

TRAINING = ("fit", "resume", "compress")
"""The commands that end with a documented status after SIGTERM and SIGHUP."""

COMMANDS: dict[str, tuple[str, str]] = {
    "fit": ("fit", "train the model of a config, evaluate the best checkpoint, write a run folder"),
    "resume": ("resume", "continue an interrupted run from its last checkpoint, bit-equal"),
    "validate": ("fit", "evaluate a run or a checkpoint on the validation split"),
    "test": ("fit", "evaluate a run or a checkpoint on the test split"),
    "evaluate": ("evaluate", "evaluate a run on any labelled data set: metrics with intervals, a report"),
    "predict": ("predict", "predict the classes of image files, folders and globs"),
    "augment": ("augment", "draw the augmented images of a training"),
    "lr-find": ("lr_find", "find a learning rate by the range test, with a figure"),
    "batch-find": ("batch_find", "find the largest batch size that fits in memory, and the speed of each"),
    "cost": ("cost", "measure the cost of each technique per training step: time, memory, parameters"),
    "report": ("report", "rewrite report.html of a run"),
    "runs": ("runs", "list run folders, sorted and filtered, also as CSV or JSON"),
    "compare": ("compare", "compare configs, curves and metrics of runs, with tests of significance"),
    "compress": ("compress", "create smaller and faster variants of a run: prune, fine-tune, quantize"),
    "soup": ("soup", "average the weights of trained runs: uniform, or greedy by validation accuracy"),
    "bench": ("bench", "benchmark runs and exports: latency, size, memory, accuracy"),
    "watch": ("watch", "show a running training in the terminal: curves, rates, remaining time"),
    "sync": ("sync", "upload offline W&B runs of run folders"),
    "audit": ("audit", "find broken images, duplicates, leaks between splits and suspect labels"),
    "cache": ("cache", "list, verify, clear or limit the caches of decoded images"),
    "list": ("list_show", "list the registries, or the entries of one"),
    "show": ("list_show", "show the arguments and the documentation of a registry entry"),
}

USER_CONFIG = frozenset({"fit", "augment", "lr-find", "batch-find", "cost", "show"})
"""Commands that take a config of the user. They may import from the current folder."""

NO_DATA = frozenset({"list"})
"""Commands that read no data. The commands in neither set open files that another process wrote."""

TRUST_HELP = """
opening received files (SECURITY.md):
  --trust              allow every class that the opened files name, also outside the registries
  --trust=NAME         allow one class or module. May be given several times. To allow a name permanently, add it as
                       a line to ~/.config/imgrec/trust
"""

_NAME = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")

HELP = """usage: imgrec COMMAND [--config FILE.yaml ...] [--key.subkey VALUE ...]

Image recognition on PyTorch Lightning. One YAML file describes training and evaluation. The result is a run folder.

commands:
{commands}

See `imgrec COMMAND --help` for the options. Every command that opens runs, models or checkpoints takes --trust.
Try: imgrec fit --config experiments/digits/quickstart.yaml
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, see docs/exit-status.md."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments, trusted = take_trust(arguments)
        command, rest = split_command(arguments)
        if command is None:
            return _no_command(rest)
        signals = preemptible() if command in TRAINING else nullcontext()
        with _scope(command, trusted), signals:
            module = import_module(f"imgrec.cli.commands.{COMMANDS[command][0]}")
            try:
                status: int = module.run(command, rest)
            finally:
                if {"-h", "--help"} & set(rest) and command not in USER_CONFIG | NO_DATA:
                    print(TRUST_HELP, end="")
        sys.stdout.flush()  # raise here, not at exit, if the output is a file on a full disk
        return status
    except UserError as error:
        print(f"imgrec: error: {error}", file=sys.stderr)
        return error.status
    except BrokenPipeError:  # `imgrec list backbones | head`
        _discard_output()
        return 0
    except BaseException as error:
        from imgrec.cli.failures import exit_status

        status_or_none = exit_status(error)
        if status_or_none is None:
            raise
        if isinstance(error, OSError) and error.filename is None:  # the output of the command is on a full disk
            _discard_output()
        return status_or_none


def _discard_output() -> None:
    """Redirect stdout to the null device, because Python flushes it at exit."""
    with suppress(OSError, ValueError):  # stdout may be an object without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def take_trust(arguments: Sequence[str]) -> tuple[list[str], trust.Trust]:
    """Return the arguments without ``--trust``, and the allowed names.

    >>> take_trust(["predict", "model", "--trust=my_lab.heads", "a.png"])
    (['predict', 'model', 'a.png'], ['my_lab.heads'])

    Raises:
        UserError: If ``--trust=`` has no name, or if a name follows after a space, which would allow every name.
    """
    for word, after in pairwise(arguments):
        if word == OPTION and _NAME.fullmatch(after) and after not in COMMANDS and not Path(after).exists():
            raise UserError(
                f"{OPTION} {after}: expected {OPTION}={after}, which allows this name. To allow every name that the "
                f"files contain, put {OPTION} before an option or at the end."
            )
    given = [word for word in arguments if word.partition("=")[0] == OPTION]
    rest = [word for word in arguments if word.partition("=")[0] != OPTION]
    names = [word.partition("=")[2] for word in given if "=" in word]
    if "" in names:
        raise UserError(f"{OPTION}=: expected the name of a class or module, got nothing.")
    return rest, True if len(names) < len(given) else names


@contextmanager
def _scope(command: str, trusted: trust.Trust) -> Iterator[None]:
    """Limit the names that a command may resolve to registered names, except in a config of the user."""
    if command in USER_CONFIG:
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # modules of the user
        with trust.granted(trusted):
            yield
        return
    if command in NO_DATA:
        with without_current_folder():
            yield
        return
    with without_current_folder(), trust.opening(f"imgrec {command}", trusted):
        yield


def split_command(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the subcommand and the other words. Options are accepted before and after the subcommand.

    >>> split_command(["--config", "a.yaml", "fit", "--model.loss=focal"])
    ('fit', ['--config', 'a.yaml', '--model.loss=focal'])
    """
    skip = False
    for i, word in enumerate(arguments):
        if skip:
            skip = False
        elif word.startswith("-"):
            skip = "=" not in word and word not in ("-h", "--help", "--version", "--print_config")
        elif word in COMMANDS:
            return word, [*arguments[:i], *arguments[i + 1 :]]
        else:
            from imgrec.errors import suggestion

            raise UserError(
                f'there is no command "{word}".{suggestion(word, COMMANDS)} Accepted: {", ".join(COMMANDS)}.'
            )
    return None, list(arguments)


def _no_command(rest: list[str]) -> int:
    if "--version" in rest:
        from importlib.metadata import version

        print(f"imgrec {version('imgrec')}")
        return 0
    text = HELP.format(commands="\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items()))
    if not rest or rest[0] in ("-h", "--help"):
        print(text, end="")
        return 0
    raise UserError(f"a command is missing. Accepted: {', '.join(COMMANDS)}.")


if __name__ == "__main__":
    sys.exit(main())
