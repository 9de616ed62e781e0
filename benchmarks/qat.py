"""A network that int8 hurts, and what brings it back: a budget, training for int8; beside as much training in fp32.

experiments/fashion_mnist/narrow.yaml, three seeds. Each run is trained on by two epochs at a tenth of the rate, once in
fp32 and once quantization-aware. What the first gives is exported to int8 for OpenVINO: plainly, as NNCF does it by
default; and with a budget of 0.5 points on the validation images, which is refused where it cannot be held. What the
second gives is exported for ONNX Runtime. All five, fp32 among them, name the same test images, which nothing was
chosen on. About ten minutes of CPU time.
"""

from __future__ import annotations

import contextlib
import io
import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import Claim, arguments, finish, pin
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
    """The networks that are made from one run, by name; in the place of one that is refused, the reason."""
    more = {"name": "finetune", "epochs": epochs}
    int8 = {"name": "quantize", "runtime": "openvino", "calibration": calibration}
    plans = {
        FLOAT: [more],
        HURT: [more, {**int8, **PLAIN}],
        "int8 within a budget": [more, {**int8, **BUDGET}],
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
    """Three seeds, and what each way costs against as much training in fp32."""
    options = arguments(__doc__.partition("\n")[0] if __doc__ else "")
    if data("FashionMNIST") is None:
        return
    pin()
    words, epochs, calibration = (QUICK, 1, 64) if options.quick else ([], 2, 256)
    right: dict[str, dict[int, np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as place:
        for seed in range(2 if options.quick else 3):
            run, seconds = fit(Path(place), f"narrow_{seed}", EXPERIMENT, *words, "--seed_everything", str(seed))
            print(f"seed {seed}: trained in {seconds:.0f} CPU s", flush=True)
            for name, made in variants(run, epochs, calibration).items():
                if isinstance(made, str):
                    print(f"  {name}: refused: {made}", flush=True)
                    continue
                found = made.predictions("test")
                right.setdefault(name, {})[seed] = found.predicted == found.targets
                print(f"  {name}: test {found.accuracy:.2%}{kept_in_float(made)}", flush=True)
    for name, seeds in right.items():
        accuracies = [100 * float(each.mean()) for each in seeds.values()]
        spread = f", standard deviation {statistics.stdev(accuracies):.2f}" if len(accuracies) > 1 else ""
        print(f"{name}: {statistics.mean(accuracies):.2f} %{spread}")
    finish([against(name, right) for name in list(right)[2:]])


def kept_in_float(run: RunFolder) -> str:
    """How many layers the export left in floating point, where it says so."""
    from imgrec.export.export_folder import read_export

    where = run.summary.get("export")
    said = read_export(run.path / where).quantization if where else None
    if said is None or "kept" not in said:
        return ""
    return f", {len(said['kept'])} of {said['layers']} layers in float, biases {said['biases']}"


def against(name: str, right: dict[str, dict[int, np.ndarray]]) -> Claim:
    """What a way to int8 loses against fp32 that was trained as long."""
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
