"""``imgrec sync``: uploads what W&B kept offline in run folders."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from imgrec.cli.parser import Parser
from imgrec.errors import UserError
from imgrec.trust import refuse_unless_trusted
from imgrec.utils.terminal import print

DESCRIPTION = """Upload the W&B runs that were kept offline in run folders, by W&B's own sync.
A run that was resumed has a file for each time; they are uploaded in the order in which they were written."""


@dataclass(frozen=True)
class Pending:
    """One ``.wandb`` file: which W&B run it belongs to, and how much it holds."""

    file: Path
    run: str
    rows: int
    missing: int


def run(command: str, words: list[str]) -> int:
    """Find the offline runs, say which they are, and upload them."""
    parser = Parser(prog="imgrec sync", description=DESCRIPTION)
    parser.add_argument("runs", nargs="+", metavar="RUN|FOLDER", help="run folders, or folders with runs below them")
    parser.add_argument("--dry-run", action="store_true", help="list what would be uploaded, and upload nothing")
    parser.add_argument("--again", action="store_true", help="what has been uploaded already, too")
    parser.add_argument("--project", help="into another project than the run was made for")
    parser.add_argument("--entity", help="to another user or team")
    arguments = parser.parse_args(words)

    found = [each for name in arguments.runs for each in find_pending(Path(name).expanduser(), arguments.again)]
    for each in found:
        print(f"{each.run:<40}  {each.rows:>7,} rows  {each.file.parent}")
        if each.missing:
            print(f"  {each.missing} of its files are gone: was the folder moved after training?", file=sys.stderr)
    if not found:
        print("nothing to upload: no W&B run was kept offline there, or all have been uploaded (--again)")
    elif not arguments.dry_run:
        upload([each.file.parent for each in found], arguments.project, arguments.entity, arguments.again)
    return 0


def find_pending(place: Path, again: bool = False) -> list[Pending]:
    """What was kept offline in a run folder, or in the run folders below ``place``, and was not uploaded yet.

    Raises:
        UserError: ``place`` is no run folder, and has none below it.
    """
    from imgrec.loggers.wandb.files import wandb_logs
    from imgrec.runs.folder import RunFolder
    from imgrec.runs.rows import run_folders

    folders = list(run_folders(place)) if place.is_dir() else []
    if not folders:
        RunFolder(place)  # says what it is instead
    files = [file for folder in folders for file in wandb_logs(folder, offline_only=True)]
    wanted = [_pending(file) for file in files if again or not file.with_name(f"{file.name}.synced").exists()]
    return [each for each in wanted if each is not None]


def _pending(file: Path) -> Pending | None:
    """What is in a file; ``None`` where a run was killed before W&B wrote which one it is: its sync would end there."""
    from imgrec.loggers.wandb.files import wandb_records

    name, rows, missing = "", 0, 0
    for record in wandb_records(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            name = "/".join(part for part in (run.entity, run.project, run.run_id) if part)
        elif kind == "history":
            rows += 1
        elif kind == "artifact":
            contents = record.artifact.manifest.contents
            missing += sum(bool(each.local_path) and not Path(each.local_path).exists() for each in contents)
    return Pending(file, name, rows, missing) if name else None


def _refuse_foreign(file: Path) -> None:
    """Raise if an offline run uploads a file that is neither in its run folder nor staged by W&B.

    Its log names files and artifacts, and W&B follows links in its folder `files`.

    Raises:
        UserError: If it does, and the opening does not trust everything.
    """
    import wandb.env

    from imgrec.loggers.wandb.files import wandb_records

    homes = [Path(each).resolve() for each in (file.parents[2], wandb.env.get_data_dir(), wandb.env.get_cache_dir())]
    named = [path for path in (file.parent / "files").rglob("*") if path.is_symlink()]
    for record in wandb_records(file):
        kind = record.WhichOneof("record_type")
        if kind == "artifact":
            named += [Path(each.local_path) for each in record.artifact.manifest.contents if each.local_path]
        elif kind == "files":
            named += [file.parent / "files" / each.path for each in record.files.files]
    for path in (each for each in named if each.exists()):
        found = path.resolve()
        if not any(found.is_relative_to(home) for home in homes):
            refuse_unless_trusted(f"{file}: uploads {found}", "it is no file of the run")


def upload(folders: list[Path], project: str | None, entity: str | None, again: bool) -> None:
    """Call W&B's own sync on the folders of offline runs.

    Raises:
        UserError: there is no key or no server, or W&B could not upload everything.
    """
    import wandb

    if not wandb.login(prompt=False, verify=False):
        raise UserError("W&B: no API key is configured: run `wandb login`, or set WANDB_API_KEY")
    check_server(str(wandb.setup().settings.base_url))
    for file in (file for folder in folders for file in folder.glob("*.wandb")):
        _refuse_foreign(file)
    command = [sys.executable, "-P", "-m", "wandb", "sync", *map(str, folders)]
    command += [f"--project={project}"] if project else []
    command += [f"--entity={entity}"] if entity else []
    command += ["--include-synced"] if again else []
    ended = subprocess.run(command, check=False)
    left = [folder for folder in folders if not list(folder.glob("*.wandb.synced"))]
    if ended.returncode or left:
        raise UserError(
            f"W&B uploaded {len(folders) - len(left)} of {len(folders)} runs; what it said stands above. "
            "Nothing is lost: try again when the server can be reached."
        )


def check_server(url: str, timeout: float = 15.0) -> None:
    """Ask the server for anything: W&B itself would try for many minutes.

    Raises:
        UserError: nobody answers within ``timeout`` seconds.
    """
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=timeout):
            return
    except HTTPError:  # somebody is there, and does not like the question
        return
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"W&B: {url} cannot be reached ({reason}). Nothing was uploaded, nothing is lost.") from error
