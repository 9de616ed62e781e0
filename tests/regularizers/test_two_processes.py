"""Tests of additional forward passes with DDP: gradients are the means over the processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import sys
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from imgrec.regularizers import build_regularizers
from imgrec.types import StepOutput, sample_keys


class Step(nn.Module):
    \"\"\"A training step as Lightning has DDP wrap it: the passes are all inside.\"\"\"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Flatten(), nn.Dropout(0.2),
                                   nn.Linear(144, 5))
        specs = [{"name": name, "weight": 0.5} for name in ("r_drop", "pgd", "virtual_adversarial", "jacobian",
                                                            "input_gradient", "jensen_shannon", "center")]
        specs.append({"name": "l2", "weight": 0.1})
        self.penalties = build_regularizers(specs, "r", num_classes=5, feature_dim=144, image_size=8, in_channels=3)

    def forward(self, images, targets, rank):
        torch.manual_seed(100 + rank)
        features = self.model[:4](images)
        logits = self.model[4:](features)
        keys = sample_keys(f"{rank} {i}" for i in range(len(images)))
        output = StepOutput(images, targets, logits, features, 0, keys=keys)
        return nn.functional.cross_entropy(logits, targets) + self.penalties(output, self.model, 0.5)[0]


def share(rank):
    generator = torch.Generator().manual_seed(rank)
    return torch.rand(6, 3, 8, 8, generator=generator), torch.randint(5, (6,), generator=generator)


def gradients(step):
    return {name: parameter.grad for name, parameter in step.named_parameters()}


def main():
    rank, out = int(sys.argv[1]), Path(sys.argv[2])
    distributed.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2)
    step = Step()
    wrapped = DistributedDataParallel(step)
    for _ in range(2):  # DDP finds out at the second pass whether a gradient was missing at the first
        step.zero_grad()
        wrapped(*share(rank), rank).backward()
    alone = [Step(), Step()]
    for other in range(2):
        alone[other](*share(other), other).backward()
    torch.save({"together": gradients(step), "alone": [gradients(each) for each in alone]}, out / f"{rank}.pt")
    distributed.destroy_process_group()


main()
"""


@pytest.mark.slow
def test_the_gradients_are_the_means_over_both_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "script.py")]
    processes = [
        subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    for process in processes:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    first, second = found[0]["alone"]
    for name, gradient in found[0]["together"].items():
        assert torch.equal(gradient, found[1]["together"][name])
        torch.testing.assert_close(gradient, (first[name] + second[name]) / 2)
        assert gradient.any(), name
