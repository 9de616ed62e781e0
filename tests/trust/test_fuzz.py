"""Random changes to real folders, checkpoints, configs and tables: each ends in success or in one UserError."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

import imgrec
from imgrec.engine.config import read_config
from imgrec.engine.experiment import Experiment
from imgrec.errors import UserError
from imgrec.export import read_origin
from imgrec.runs.data import build_data
from imgrec.runs.folder import RunFolder
from imgrec.trust import opening
from tests.trust.hostile import place_modules
from tests.trust.watch import watched

QUICK, SLOW = 40, 400
"""Cases of each kind, in `make test` and in `make test-slow`."""

# ---------------------------------------------------------------- what is put in

NAMES = st.sampled_from(
    [
        *("os.system", "evilmod.Head", "evilmod", "subprocess.Popen", "builtins.exec", "builtins.eval", "torch.load"),
        *("imgrec.cli.main.main", "imgrec.RunFolder", "imgrec.regularizers.adversarial.FGSM", "imgrec.losses.evil.X"),
        *("hf-hub:evil/model", "local-dir:.", "hf_hub:x", "resnet18.evil", "torchvision/evil", "antigravity.fly"),
        *("pytorch_lightning.callbacks.LambdaCallback", "pytorch_lightning.Trainer", "idlelib.idle.main", "evil"),
        *("../../outside", "/etc/passwd", "~/outside", "", ".", "..", "a.", ".a", "a..b", "\x00", "ä.é", "x" * 300),
        *("!!python/name:os.system", "{class_path: os.system}", "[os.system]", "focal", "linear", "resize", "concat"),
    ]
)  # fmt: skip
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 7, 17, True, False, -0.5, 0.3, 1e308, float("nan"), float("inf"), None])
SPECS = st.recursive(
    NAMES | NUMBERS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries(
            {"name": NAMES}, optional={"loss": inner, "command": NAMES, "sources": inner, "source": inner}
        )
        | st.fixed_dictionaries(
            {"class_path": NAMES}, optional={"init_args": st.dictionaries(NAMES, inner, max_size=2)}
        )
    ),
    max_leaves=5,
)
KEYS: tuple[str, ...] = (
    "_instantiator",
    "class_path",
    "name",
    "file",
    "url",
    "hf_hub_id",
    "custom_load",
    "checkpoint_path",
    "pretrained",
)
KEYS += ("pretrained_cfg", "weights", "surgery", "task", "teacher", "init_from", "edits", "neck", "pooling", "loss")


def places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of keys of every value in nested mappings and lists, without tensors."""
    if isinstance(content, Mapping):
        inside: Any = content.items()
    elif isinstance(content, list) and len(content) < 50:
        inside = enumerate(content)
    else:
        return
    for key, value in inside:
        if not isinstance(value, torch.Tensor) and key not in ("state_dict", "optimizer_states", "loops", "callbacks"):
            yield (*path, key)
            yield from places(value, (*path, key))


def mutate(content: Any, draw: st.DataObject) -> Any:
    """Change one to three places: replace, remove, wrap, or add a key."""
    content = copy.deepcopy(content)
    for _ in range(draw.draw(st.integers(1, 3))):
        found = list(places(content))
        if not found:
            return content
        *above, key = draw.draw(st.sampled_from(found))
        owner = content
        for each in above:
            owner = owner[each]
        how = draw.draw(st.sampled_from(["replace", "replace", "replace", "remove", "wrap", "add"]))
        if how == "replace":
            owner[key] = draw.draw(SPECS)
        elif how == "remove":
            del owner[key]
        elif how == "wrap":
            owner[key] = draw.draw(st.sampled_from([[owner[key]], {"name": owner[key]}, {"x": owner[key]}]))
        elif isinstance(owner, dict):
            owner[draw.draw(st.sampled_from(KEYS))] = draw.draw(SPECS)
    return content


def damage(data: bytes, draw: st.DataObject) -> bytes:
    """Change bytes: cut the end off, overwrite a part, or repeat one."""
    at = draw.draw(st.integers(0, max(0, len(data) - 1)))
    new = draw.draw(st.binary(max_size=12))
    how = draw.draw(st.sampled_from(["cut", "overwrite", "insert"]))
    return data[:at] if how == "cut" else data[:at] + new + data[at + (len(new) if how == "overwrite" else 0) :]


# ---------------------------------------------------------------- what opens it


def experiment(run: Path) -> None:
    config = read_config(run / "config.yaml")
    with opening(run):
        Experiment({**config, "seed_everything": 0}, bare=True)


def figures(run: Path) -> None:
    found = RunFolder(run)
    _ = found.summary, found.environment, found.experiment, found.parent, found.recipe, found.metrics()
    found.predictions("test")
    with contextlib.suppress(UserError):
        found.trained_checkpoint()


def labels(run: Path) -> None:
    imgrec.ImageDataModule({"name": "csv", "file": str(run / "labels.csv")}).setup()


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "model folder": ("model/config.json", lambda run: imgrec.load(run / "model", device="cpu")),
    "checkpoint": ("checkpoints/best.ckpt", lambda run: read_origin(run / "checkpoints" / "best.ckpt")),
    "task": (
        "checkpoints/best.ckpt",
        lambda run: imgrec.load(run / "checkpoints" / "best.ckpt", device="cpu"),
    ),
    "data of a run": ("config.yaml", lambda run: build_data(RunFolder(run).config.get("data") or {}).setup("test")),
    "config of a run": ("config.yaml", experiment),
    "figures of a run": ("summary.json", figures),
    "environment of a run": ("environment.json", figures),
    "table of runs": ("summary.json", lambda run: imgrec.run_table(run.parent)),
    "labels": ("labels.csv", labels),
}  # fmt: skip
DAMAGED: tuple[str, ...] = (
    "model/config.json",
    "model/model.safetensors",
    "checkpoints/best.ckpt",
    "predictions/test.parquet",
)
DAMAGED += ("config.yaml", "summary.json", "metrics.csv", "labels.csv")
OPEN = {
    "model": KINDS["model folder"][1],
    "checkpoints": KINDS["task"][1],
    "predictions": figures,
    "config.yaml": KINDS["config of a run"][1],
    "summary.json": figures,
    "metrics.csv": figures,
    "labels.csv": KINDS["labels"][1],
}


def read(path: Path) -> Any:
    if path.suffix == ".ckpt":
        return torch.load(path, weights_only=True)
    if path.suffix == ".csv":
        return [line.split(",") for line in path.read_text().splitlines()]
    return json.loads(path.read_text()) if path.suffix == ".json" else yaml.safe_load(path.read_text())


def write(path: Path, content: Any) -> None:
    if path.suffix == ".ckpt":
        torch.save(content, path)
    elif path.suffix == ".csv":
        rows = [",".join(map(str, row)) if isinstance(row, list) else str(row) for row in content]
        path.write_text("\n".join(rows), errors="replace")
    else:
        text = json.dumps(content, default=str) if path.suffix == ".json" else yaml.safe_dump(content)
        path.write_text(text)


@pytest.fixture(scope="module")
def place(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a run whose files are changed and restored, in a folder with modules that must never run."""
    home = tmp_path_factory.mktemp("fuzz")
    place_modules(home)
    run = shutil.copytree(trained, home / "runs" / "tiny" / "fuzzed")
    (run / "pictures").mkdir()
    for i in range(20):
        Image.new("L", (8, 8), 10 * i).save(run / "pictures" / f"{i}.png")
    rows = "".join(f"pictures/{i}.png,{'ab'[i % 2]}\n" for i in range(20))
    (run / "labels.csv").write_text("path,label\n" + rows)
    path = run / "checkpoints" / "best.ckpt"
    small = ("state_dict", "hyper_parameters", "datamodule_hyper_parameters", "imgrec", "pytorch-lightning_version")
    content = torch.load(path, weights_only=True)
    torch.save({key: content[key] for key in small}, path)
    (home / "temporary").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("PYTHONPATH", raising=False)
        patch.setenv("XDG_CONFIG_HOME", str(home / "config"))
        patch.setattr(tempfile, "tempdir", str(home / "temporary"))
        yield run


def outcome(run: Path, use: Callable[[Path], Any]) -> str:
    """Open a changed run while events are recorded, and return the kind of the result."""
    home = run.parents[2]
    quiet = io.StringIO()
    with watched(home, sources=(home,)) as watch, warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
            try:
                use(run)
                ended = "opened"
            except UserError:
                ended = "refused"
    assert watch.events == []
    assert not (home / "imported").exists()
    assert not (home / "executed").exists()
    return ended


def run_cases(count: int, test: Callable[[st.DataObject], str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run hypothesis on a function of drawn data, and print how the cases ended."""
    ends: Counter[str] = Counter()

    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.data())
    def cases(data: st.DataObject) -> None:
        ends[test(data)] += 1

    cases()
    with capsys.disabled():
        print(f"\nfuzz, {name}: {sum(ends.values())} cases, {ends['opened']} opened, {ends['refused']} refused")
    assert sum(ends.values()) >= count


def fuzz(run: Path, kind: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    name, use = KINDS[kind]
    path = run / name
    genuine = path.read_bytes()
    content = read(path)
    count = count // 4 if kind in ("checkpoint", "task") else count  # each builds a network

    def case(data: st.DataObject) -> str:
        changed = mutate(content, data)
        try:
            write(path, changed)
        except Exception:  # what the format cannot hold is no case for its reader
            return "not written"
        return outcome(run, use)

    try:
        assert outcome(run, use) == "opened"
        run_cases(count, case, kind, capsys)
    finally:
        path.write_bytes(genuine)


def fuzz_bytes(run: Path, name: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / name
    genuine = path.read_bytes()

    def case(data: st.DataObject) -> str:
        path.write_bytes(damage(genuine, data))
        return outcome(run, OPEN[name.partition("/")[0]])

    try:
        run_cases(count, case, f"bytes of {name}", capsys)
    finally:
        path.write_bytes(genuine)


@pytest.mark.parametrize("kind", KINDS)
def test_changed_content_is_opened_or_refused(kind: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fuzz(place, kind, QUICK, capsys)


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_bytes_are_opened_or_refused(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fuzz_bytes(place, name, QUICK // 4, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_changes(kind: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fuzz(place, kind, SLOW, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("name", DAMAGED)
def test_thousands_of_damaged_files(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fuzz_bytes(place, name, SLOW // 4, capsys)
