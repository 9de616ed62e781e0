"""``imgrec sync``: upload the offline W&B runs in run folders."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from imgrec.cli.parser import Parser
from imgrec.errors import UserError
from imgrec.trust import refuse_unless_trusted
from imgrec.utils.terminal import print

DESCRIPTION = """Upload the offline W&B runs in run folders with `wandb sync`. A resumed run has several files. They
are uploaded in the order in which they were written."""


@dataclass(frozen=True)
class Pending:
    """A ``.wandb`` file with its W&B run, its number of rows and the number of its missing files."""

    file: Path
    run: str
    rows: int
    missing: int


def run(command: str, words: list[str]) -> int:
    """Find the offline runs, print them, and upload them."""
    parser = Parser(prog="imgrec sync", description=DESCRIPTION)
    parser.add_argument("runs", nargs="+", metavar="RUN|FOLDER", help="run folders, or folders with runs below them")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, and upload nothing")
    parser.add_argument("--again", action="store_true", help="also upload runs that were uploaded before")
    parser.add_argument("--project", help="name of the project (default: the project of the run)")
    parser.add_argument("--entity", help="user or team (default: that of the run)")
    arguments = parser.parse_args(words)

    found = [each for name in arguments.runs for each in find_pending(Path(name).expanduser(), arguments.again)]
    for each in found:
        print(f"{each.run:<40}  {each.rows:>7,} rows  {each.file.parent}")
        if each.missing:
            print(f"  {each.missing} of its files do not exist. Was the folder moved after training?", file=sys.stderr)
    if not found:
        print("nothing to upload: there is no offline W&B run, or all have been uploaded (--again)")
    elif not arguments.dry_run:
        upload([each.file.parent for each in found], arguments.project, arguments.entity, arguments.again)
    return 0


def find_pending(place: Path, again: bool = False) -> list[Pending]:
    """Return the offline runs in a run folder, or in the run folders below ``place``.

    Args:
        place: A folder.
        again: True to include uploaded runs. Defaults to false.

    Raises:
        UserError: If ``place`` is no run folder and contains none.
    """
    from imgrec.loggers.wandb.files import wandb_logs
    from imgrec.runs.folder import RunFolder
    from imgrec.runs.table import find_run_folders

    folders = list(find_run_folders(place)) if place.is_dir() else []
    if not folders:
        RunFolder(place)  # raises the reason
    files = [file for folder in folders for file in wandb_logs(folder, offline_only=True)]
    wanted = [_pending(file) for file in files if again or not file.with_name(f"{file.name}.synced").exists()]
    return [each for each in wanted if each is not None]


def _pending(file: Path) -> Pending | None:
    """Return the run of a file. ``None`` if it was killed before W&B wrote its name, which `wandb sync` rejects."""
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
    """Call `wandb sync` on the folders of offline runs.

    Raises:
        UserError: If no API key is configured, the server does not answer, or a run was not uploaded.
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
            f"W&B uploaded {len(folders) - len(left)} of {len(folders)} runs. Its messages are above. "
            "The files are kept: try again when the server can be reached."
        )


def check_server(url: str, timeout: float = 15.0) -> None:
    """Check that the server answers, because `wandb sync` would try for many minutes.

    Raises:
        UserError: If the server does not answer within ``timeout`` seconds.
    """
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=timeout):
            return
    except HTTPError:  # the server answers
        return
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(f"W&B: {url} cannot be reached ({reason}). Nothing was uploaded.") from error
