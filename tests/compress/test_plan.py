"""Compression plans: names, specs and refused plans."""

from __future__ import annotations

from typing import Any

import pytest

from imgrec.compress.plan import Plan, read_plans
from imgrec.compress.steps import STEPS
from imgrec.errors import UserError

HALF: dict[str, Any] = {"name": "prune", "target": {"macs": 0.5}}


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        (["prune", "finetune", "quantize"], "macs0.5-finetune3-int8"),
        ([{"name": "prune", "target": {"latency": 0.6}}], "latency0.6"),
        (["drop_blocks", {"name": "finetune", "distill": True}], "blocks-macs0.75-distill3"),
        ([{"name": "mask", "sparsity": 0.8}, "qat", "quantize"], "sparse0.8-qat2-int8"),
        ([{"name": "mask", "pattern": "2:4"}, "finetune"], "sparse2of4-finetune3"),
        (["quantize", {"name": "quantize", "runtime": "openvino"}], "int8-openvino-int8"),
        ([{"name": "finetune", "epochs": 5}], "control-finetune5"),
        (
            [HALF, "finetune", {"name": "prune", "target": {"macs": 0.3}}, "finetune"],
            "macs0.5-finetune3-macs0.3-finetune3",
        ),
    ],
)
def test_a_plan_is_named_by_its_steps_and_restored_from_its_specs(steps: list[Any], name: str) -> None:
    plan = Plan.from_specs(steps)
    assert plan.name == name
    assert Plan.from_specs(plan.to_specs()) == plan
    assert [spec["name"] for spec in plan.to_specs()] == [s if isinstance(s, str) else s["name"] for s in steps]
    assert all(step.description for step in plan.steps)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            ["quantize", "finetune"],
            r"plan\[1\]: finetune cannot come after quantize \(plan\[0\]\): .*Put quantize last",
        ),
        (["quantize", "prune"], "prune cannot come after quantize"),
        (["quantize", "qat"], "qat cannot come after quantize"),
        (["quantize", {"name": "quantize", "max_drop": 1.0}], "the plan already exports int8 for onnxruntime"),
        (["qat", "prune"], "prune cannot come after qat .* Put prune before qat"),
        (["qat", "drop_blocks"], "drop_blocks cannot come after qat"),
        (["qat", "mask"], "mask cannot come after qat .* Put mask before qat"),
        (["qat", "finetune"], "Give qat more epochs"),
        (["qat", "qat"], "qat cannot come after qat"),
        (["qat", {"name": "quantize", "runtime": "openvino"}], "int8 in ONNX Runtime"),
        (["mask", "finetune", "prune"], r"prune cannot come after mask \(plan\[0\]\): the masks .* would be lost"),
        (["mask", {"name": "mask", "sparsity": 0.5}], "90 % of the weights are already zero"),
        ([HALF, "finetune", HALF], "0.5 of the MACs remain after it"),
        ([], "expected at least one step. Accepted: drop_blocks, finetune, mask, prune, qat, quantize"),
        ("prune", "expected a list of steps, got 'prune'"),
        (["prun"], r'plan\[0\]: no step is called "prun". Did you mean "prune"'),
        ([{"name": "finetune", "epoch": 2}], 'has no argument "epoch". Did you mean "epochs"'),
        ([{"name": "finetune", "epochs": 0}], r"plan\[0\]\.epochs: expected int > 0, got 0"),
        ([{"name": "finetune", "lr": -1.0}], "lr: expected "),
        ([{"name": "finetune", "ema": 1.0}], "ema: expected "),
        ([{"name": "prune", "target": {"mcs": 0.5}}], 'no cost is called "mcs". Did you mean "macs"'),
        (
            [{"name": "prune", "target": {"macs": 1.5}}],
            r"target.macs: expected the remaining share, a float in \(0, 1\), got 1.5",
        ),
        (
            [{"name": "prune", "target": {"macs": 0.5, "latency": 0.5}}],
            "expected one of parameters, macs, latency and a share",
        ),
        ([{"name": "prune", "importance": "l3"}], r"plan\[0\].importance: expected Literal"),
        ([{"name": "prune", "round_to": 0}], "round_to: expected 1 or more"),
        (["drop_blocks", {"name": "prune", "target": {"macs": 0.8}}], "0.75 of the MACs remain after it"),
        ([{"name": "mask", "criterion": "taylor"}], "requires gradients, but no later step trains"),
        ([{"name": "mask", "pattern": "2-4"}], "mask.pattern: expected N:M"),
        ([{"name": "mask", "sparsity": 1}], "sparsity: expected "),
        ([{"name": "quantize", "to": "int4"}], r"plan\[0\].to: expected Literal"),
        ([{"name": "quantize", "max_drop": -1}], "max_drop: expected "),
    ],
)
def test_invalid_plans_are_refused_with_position_and_reason(steps: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Plan.from_specs(steps)


def test_several_quantizations_and_masks_before_training_are_valid() -> None:
    accepted: list[list[Any]] = [
        ["mask", "finetune", {"name": "mask", "sparsity": 0.95}, "qat", "quantize"],
        ["drop_blocks", "prune", "finetune", "mask", "finetune", "quantize", {"name": "quantize", "to": "fp16"}],
        ["finetune", "prune", "finetune", "qat"],
    ]
    for steps in accepted:
        assert len(Plan.from_specs(steps).steps) == len(steps)


def test_a_yaml_contains_one_plan_or_several_variants() -> None:
    assert [plan.name for plan in read_plans({"steps": ["quantize"]}, name="mine")] == ["mine"]
    assert [plan.name for plan in read_plans({"name": "own", "steps": ["quantize"]}, name="mine")] == ["own"]
    assert [plan.name for plan in read_plans(["quantize"])] == ["int8"]
    several = read_plans({"variants": {"a": [HALF], "b": ["quantize"]}})
    assert [(plan.name, plan.steps[0].name) for plan in several] == [("a", "prune"), ("b", "quantize")]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": []}, 'there is no key "step". Did you mean "steps"'),
        ({"name": 3, "steps": ["prune"]}, "plan.name: expected a name, got 3"),
        ({"name": "a b", "steps": ["prune"]}, "letters, digits, dots and dashes, got 'a b'"),
        ({"variants": {"../a": ["prune"]}}, r"plan.variants.../a: expected a name of letters"),
        ({"variants": {"a": ["prune"]}, "steps": []}, "expected `steps`, a list, or `variants`"),
        ({}, "expected `steps`, a list, or `variants`"),
        ({"variants": {"a": ["quantize", "prune"]}}, r"plan.variants.a\[1\]: prune cannot come after quantize"),
        (3, "expected a list of steps, got 3"),
    ],
)
def test_an_invalid_yaml_is_refused(values: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_plans(values)


def test_every_step_is_registered_and_documents_its_arguments() -> None:
    assert STEPS.names() == ["drop_blocks", "finetune", "mask", "prune", "qat", "quantize"]
    for entry in STEPS:
        assert entry.summary.endswith(".")
        for argument in entry.arguments():
            assert f"{argument.name}:" in entry.doc, f"{entry.name} does not document {argument.name}"
