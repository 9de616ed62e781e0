"""Accuracy lost by int8 and recovered by an accuracy budget or quantization-aware training, at equal training.

Each of three runs of experiments/fashion_mnist/narrow.yaml is fine-tuned for two epochs at a tenth of the learning
rate, once in fp32 and once quantization-aware. The fp32 network is exported to int8 for OpenVINO in two ways. The first
uses the defaults of NNCF. The second has a budget of 0.5 points on the validation images and fails if it is exceeded.
The quantization-aware network is exported for ONNX Runtime. All networks are evaluated on the same test images, which
are not used for any selection. Requires about ten minutes of CPU time.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import Claim, finish, parse_options, pin
from fit_common import fit
from input_common import data

from imgrec import RunFolder, compress_run
from imgrec.errors import UserError
from imgrec.stats.seeds import difference_over_seeds

EXPERIMENT = "fashion_mnist/narrow"
FLOAT, HURT = "fp32, trained on", "int8, plain"
PLAIN, BUDGET = {"biases": "fast"}, {"max_drop": 0.5}
QUICK = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "60"]


def variants(run: RunFolder, epochs: int, calibration: int) -> dict[str, RunFolder | str]:
    """Return the networks made from one run by name. The value of a rejected network is the reason."""
    finetune = {"name": "finetune", "epochs": epochs}
    int8 = {"name": "quantize", "runtime": "openvino", "calibration": calibration}
    plans = {
        FLOAT: [finetune],
        HURT: [finetune, {**int8, **PLAIN}],
        "int8 within a budget": [finetune, {**int8, **BUDGET}],
        "trained for int8": [{"name": "qat", "epochs": epochs}],
    }
    found: dict[str, RunFolder | str] = {"fp32, the run": run}
    for name, steps in plans.items():
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                (found[name],) = compress_run(run, {"name": name.replace(", ", "-").replace(" ", "-"), "steps": steps})
        except UserError as error:
            found[name] = str(error)
    return found


def main() -> None:
    """Train three seeds and compare each int8 network with fp32 after equal training."""
    options = parse_options(__doc__.partition("\n")[0] if __doc__ else "")
    if data("FashionMNIST") is None:
        return
    pin()
    overrides, epochs, calibration = (QUICK, 1, 64) if options.quick else ([], 2, 256)
    right: dict[str, dict[int, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(2 if options.quick else 3):
            run, seconds = fit(Path(folder), f"narrow_{seed}", EXPERIMENT, *overrides, "--seed_everything", str(seed))
            print(f"seed {seed}: trained in {seconds:.0f} CPU s", flush=True)
            for name, variant in variants(run, epochs, calibration).items():
                if isinstance(variant, str):
                    print(f"  {name}: refused: {variant}", flush=True)
                    continue
                found = variant.predictions("test")
                right.setdefault(name, {})[seed] = found.predicted == found.targets
                print(f"  {name}: test {found.accuracy:.2%}{describe_float_layers(variant)}", flush=True)
    for name, seeds in right.items():
        accuracies = [100 * float(each.mean()) for each in seeds.values()]
        spread = f", standard deviation {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        print(f"{name}: {statistics.mean(accuracies):.2f} %{spread}")
    finish([claim_against_float(name, right) for name in list(right)[2:]])


def describe_float_layers(run: RunFolder) -> str:
    """Describe the number of layers that the export kept in floating point, if it is recorded."""
    from imgrec.export.export_folder import read_export

    export = run.summary.get("export")
    quantization = read_export(run.path / export).quantization if export else None
    if quantization is None or "kept" not in quantization:
        return ""
    return f", {len(quantization['kept'])} of {quantization['layers']} layers in float, biases {quantization['biases']}"


def claim_against_float(name: str, right: dict[str, dict[int, np.ndarray]]) -> Claim:
    """Return the claim about the accuracy lost by an int8 network against fp32 after equal training."""
    seeds = sorted(right[name])
    ours, theirs = (np.stack([right[each][seed] for seed in seeds]) for each in (name, FLOAT))
    points = 100 * float(ours.mean() - theirs.mean())
    measured = f"{points:+.2f} points"
    if len(seeds) > 1:
        found = difference_over_seeds(ours, theirs)
        measured += f" (95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f})"
    if (refused := len(right[FLOAT]) - len(seeds)) > 0:
        measured += f", and {refused} refused"
    if name == HURT:
        return Claim(f"{name}, hurts this network", measured, "below -0.5 points", points < -0.5)
    return Claim(f"{name}, against fp32", measured, "-0.5 points at least", points >= -0.5)


if __name__ == "__main__":
    main()
