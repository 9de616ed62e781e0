"""Effect of huge pages on a CPU: time of normalizing a batch of photographs and of a training step."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable

from common import Claim, finish, measure_interleaved, parse_options, pin, print_table

NORMALIZE = """
from imgrec.models.normalization import IMAGENET_MEAN, IMAGENET_STD
trunk = Backbone(torch.nn.Flatten(), 1, IMAGENET_MEAN, IMAGENET_STD)
model = Classifier(trunk, torch.nn.Identity(), IMAGENET_MEAN, IMAGENET_STD)
images = torch.randint(0, 256, (64, 3, 224, 224), dtype=torch.uint8)
work = lambda: model.normalize(images)
"""

STEP = """
facts = DataFacts(tuple("0123456789"), (1,) * 10, 96)
model = build_classifier("tf_efficientnet_lite0", "linear", "half", facts)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
images = torch.randint(0, 256, (32, 3, 96, 96), dtype=torch.uint8)
targets = torch.arange(32) % 10
def work():
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), targets).backward()
    optimizer.step()
"""

AROUND = """
import time
from imgrec.models import Backbone, Classifier, build_classifier
from imgrec.types import DataFacts
import torch
torch.set_num_threads(1)
{setup}
work(); work()
begun = time.process_time()
for _ in range({times}): work()
print((time.process_time() - begun) / {times})
"""


def main() -> None:
    options = parse_options(__doc__ or "")
    pin()
    claims = []
    for name, setup, times, goal in (("normalizing 64 photos", NORMALIZE, 10, 1.5), ("a step of Lite0", STEP, 4, 1.0)):
        found = measure_interleaved(
            {"with huge pages": make_measurement(setup, times, "1"), "without": make_measurement(setup, times, "0")},
            1 if options.quick else 5,
        )
        print(name)
        print_table(found, "CPU s", base="without")
        pairs = zip(found["without"], found["with huge pages"], strict=True)
        ratio = statistics.median(without / huge for without, huge in pairs)
        claims.append(Claim(f"{name}, huge pages", f"{ratio:.2f}x", f"{goal}x", ratio >= goal))
    finish(claims)


def make_measurement(setup: str, times: int, huge: str) -> Callable[[], float]:
    """Return a function that measures one run of the code in a subprocess, because torch reads the setting once."""
    code = AROUND.format(setup=setup, times=times)
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": huge}

    def measure() -> float:
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return float(done.stdout)

    return measure


if __name__ == "__main__":
    main()
