"""A custom task in a separate file, from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
import yaml

import imgrec
from imgrec import ClassificationTask

Cli = Callable[..., "CompletedProcess[str]"]

OWN = '''
from torch import Tensor, nn

from imgrec import ClassificationTask
from imgrec.losses import CrossEntropy


class Margin(nn.Module):
    """Margin of the target logit over each other logit."""

    def __init__(self, margin: float = 1.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        own = logits.gather(1, targets[:, None])
        return (logits - own + self.margin).clamp(min=0).mean()


class Sharper(ClassificationTask):
    """A task with a penalty on low confidence.

    Args:
        sharpness: Weight of the penalty.
    """

    def __init__(self, sharpness: float = 0.1, **rest) -> None:
        super().__init__(**rest)
        self.sharpness = sharpness

    def compute_loss(self, output):
        return super().compute_loss(output) - self.sharpness * output.logits.softmax(1).amax(1).mean()
'''


@pytest.fixture(autouse=True)
def _own_file(tmp_path: Path) -> Iterator[None]:
    (tmp_path / "my_research.py").write_text(OWN)
    yield
    sys.modules.pop("my_research", None)


def test_a_custom_task_trains_tests_predicts_and_loads(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    words = ["--model.class_path", "my_research.Sharper", "--model.sharpness", "0.3", "--trainer.max_epochs", "1"]
    done = cli("fit", "--config", tiny, *words)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs/tiny").iterdir()
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["class_path"] == "my_research.Sharper"
    assert config["model"]["init_args"]["sharpness"] == 0.3

    checkpoint = torch.load(run / "checkpoints/best.ckpt", weights_only=True)
    assert checkpoint["imgrec"]["task"] == "my_research.Sharper"
    assert checkpoint["hyper_parameters"]["sharpness"] == 0.3
    own: type[ClassificationTask] = sys.modules["my_research"].Sharper
    task = own.load_from_checkpoint(run / "checkpoints/best.ckpt", weights_only=True)
    assert task.sharpness == 0.3
    assert task.hparams["backbone"]["channels"] == [8, 8, 8, 8]

    before = json.loads((run / "summary.json").read_text())["test"]
    sys.modules.pop("my_research")  # as another process would
    tested = cli("test", run)
    assert tested.returncode == 0, tested.stderr
    assert json.loads((run / "summary.json").read_text())["test"] == before
    alone = tmp_path / "alone.ckpt"
    alone.write_bytes((run / "checkpoints/best.ckpt").read_bytes())
    assert cli("test", alone).stdout.split("\n\n")[0] in tested.stdout
    assert len(imgrec.load(alone).facts.class_names) == 10


def test_the_config_of_a_run_trains_a_subclass(cli: Cli, trained: Path) -> None:
    """The other values of the config stay."""
    printed = cli(
        "fit", "--config", trained / "config.yaml", "--model.class_path=my_research.Sharper", "--print_config"
    )
    before = yaml.safe_load((trained / "config.yaml").read_text())
    after = yaml.safe_load(printed.stdout)
    assert after["model"]["init_args"].pop("sharpness") == 0.1
    assert after["model"].pop("class_path") == "my_research.Sharper"
    assert before["model"].pop("class_path") == "imgrec.ClassificationTask"
    assert after == before


def test_an_invalid_argument_of_a_custom_task_raises(cli: Cli, tiny: Path) -> None:
    def refused(*words: str) -> str:
        done = cli("fit", "--config", tiny, "--model.class_path", "my_research.Sharper", *words)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert 'no key "sharpnes". Did you mean "sharpness"' in refused("--model.sharpnes", "0.3")
    assert "model.sharpness: expected float, got 'very' (str)" in refused("--model.sharpness", "very")
    assert 'model.loss: no loss is called "focl"' in refused("--model.loss", "focl")


def test_a_missing_class_raises(cli: Cli, tiny: Path) -> None:
    done = cli("fit", "--config", tiny, "--model.class_path", "my_research.Sharpr")
    assert done.returncode == 2
    assert 'model: there is no class "my_research.Sharpr". Did you mean "Sharper"?' in done.stderr
    done = cli("fit", "--config", tiny, "--model.class_path", "my_research.Margin")
    assert (done.returncode, done.stderr) == (2, "imgrec: error: model: my_research.Margin is no LightningModule\n")


def test_a_custom_loss_by_dotted_path(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    done = cli("fit", "--config", tiny, "--model.loss", "{name: my_research.Margin, margin: 2}")
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "runs/tiny").iterdir()
    task = ClassificationTask.load_from_checkpoint(run / "checkpoints/best.ckpt", weights_only=True)
    assert task.loss.margin == 2.0
    assert (run / "model/model.safetensors").is_file()
    done = cli("fit", "--config", tiny, "--model.loss", "{name: my_research.Margin, margn: 2}")
    assert 'model.loss: the loss "my_research.Margin" has no argument "margn". Did you mean "margin"?' in done.stderr
