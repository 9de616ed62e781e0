"""Tests of distillation losses against their definitions in NumPy, and of their sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from imgrec.errors import SpecError, UserError
from imgrec.losses import (
    DISTILLATIONS,
    Signals,
    attention_loss,
    build_distillations,
    check_distillations,
    correlation_loss,
    decoupled_divergence,
    hard_label_loss,
    hint_loss,
    softened_divergence,
)
from imgrec.losses.distillation.features import as_map

BATCH, CLASSES = 6, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = drawn(BATCH, CLASSES), 2 * drawn(BATCH, CLASSES, seed=1)
TARGETS = torch.tensor([0, 1, 2, 3, 4, 0])


def softmax(logits: Any, temperature: float) -> Any:
    powers = np.exp(np.asarray(logits) / temperature)
    return powers / powers.sum(1, keepdims=True)


def divergence(p: Any, q: Any) -> float:
    return float((p * np.log(p / q)).sum(1).mean())


# ---------------------------------------------------------------- logits


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_logits_are_the_divergence_times_the_square(temperature: float) -> None:
    p, q = softmax(TEACHER, temperature), softmax(STUDENT, temperature)
    expected = temperature**2 * divergence(p, q)
    assert float(softened_divergence(STUDENT, TEACHER, temperature)) == pytest.approx(expected, rel=1e-9)


def test_at_a_high_temperature_logits_are_matched_by_their_squared_distance() -> None:
    """Hinton et al., equation 4: the gradient goes to (z - v) / classes where logits have no mean."""
    student = (STUDENT - STUDENT.mean(1, keepdim=True)).requires_grad_()
    teacher = TEACHER - TEACHER.mean(1, keepdim=True)
    softened_divergence(student, teacher, 1e4).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    expected = (student.detach() - teacher) / CLASSES / BATCH
    assert torch.allclose(student.grad, expected, rtol=1e-3, atol=1e-5)


def test_hard_labels_are_the_teachers_classes() -> None:
    named = np.asarray(TEACHER).argmax(1)
    expected = -np.log(softmax(STUDENT, 1.0)[np.arange(BATCH), named]).mean()
    assert float(hard_label_loss(STUDENT, TEACHER)) == pytest.approx(expected, rel=1e-9)
    smooth = -(0.8 * np.log(softmax(STUDENT, 1.0)[np.arange(BATCH), named])).mean()
    smooth -= 0.2 * np.log(softmax(STUDENT, 1.0)).mean()
    assert float(hard_label_loss(STUDENT, TEACHER, 0.2)) == pytest.approx(smooth, rel=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.5, 2.0)])
def test_the_decoupled_parts_by_their_definition(alpha: float, beta: float) -> None:
    p, q = softmax(TEACHER, 4.0), softmax(STUDENT, 4.0)
    target, among = [], []
    for i, c in enumerate(TARGETS.tolist()):
        two_p, two_q = np.array([[p[i, c], 1 - p[i, c]]]), np.array([[q[i, c], 1 - q[i, c]]])
        rest_p, rest_q = np.delete(p[i], c)[None], np.delete(q[i], c)[None]
        target.append(divergence(two_p, two_q))
        among.append(divergence(rest_p / rest_p.sum(), rest_q / rest_q.sum()))
    expected = 16 * (alpha * np.mean(target) + beta * np.mean(among))
    found = decoupled_divergence(STUDENT, TEACHER, TARGETS, 4.0, alpha, beta)
    assert float(found) == pytest.approx(expected, rel=1e-9)


def test_the_decoupled_parts_are_the_whole_with_the_teachers_doubt_as_weight() -> None:
    """Zhao et al., equation 7, image by image: KD = TCKD + (1 - p_target) NCKD."""
    for i in range(BATCH):
        one = slice(i, i + 1)
        doubt = 1 - softmax(TEACHER[one], 3.0)[0, TARGETS[i]]
        whole = softened_divergence(STUDENT[one], TEACHER[one], 3.0)
        parts = decoupled_divergence(STUDENT[one], TEACHER[one], TARGETS[one], 3.0, 1.0, float(doubt))
        assert float(parts) == pytest.approx(float(whole), rel=1e-9)


def test_mixed_images_have_the_class_with_the_largest_share() -> None:
    kind = DISTILLATIONS.build("decoupled")
    student, teacher = signals(STUDENT), signals(TEACHER)
    mixed = torch.full((BATCH, CLASSES), 0.1)
    mixed[torch.arange(BATCH), TARGETS] = 0.6
    assert torch.equal(kind(student, teacher, mixed), kind(student, teacher, TARGETS))


def test_correlation_equals_numpy() -> None:
    p, q = softmax(TEACHER, 2.0), softmax(STUDENT, 2.0)
    rows = np.mean([np.corrcoef(p[i], q[i])[0, 1] for i in range(BATCH)])
    columns = np.mean([np.corrcoef(p[:, j], q[:, j])[0, 1] for j in range(CLASSES)])
    expected = 4 * (0.5 * (1 - rows) + 2.0 * (1 - columns))
    assert float(correlation_loss(STUDENT, TEACHER, 2.0, 0.5, 2.0)) == pytest.approx(expected, rel=1e-6)


def test_half_precision_is_computed_in_float32() -> None:
    for name in ("logits", "hard", "decoupled", "correlation"):
        half = DISTILLATIONS.build(name)(signals(STUDENT.bfloat16()), signals(TEACHER.bfloat16()), TARGETS)
        assert half.dtype == torch.float32


@pytest.mark.parametrize("name", ["logits", "decoupled", "correlation"])
def test_equal_student_and_teacher_have_zero_loss(name: str) -> None:
    student = STUDENT.clone().requires_grad_()
    loss = DISTILLATIONS.build(name)(signals(student), signals(STUDENT), TARGETS)
    loss.backward()
    assert float(loss) == pytest.approx(0, abs=1e-9)
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-7


# ---------------------------------------------------------------- maps


def test_hint_loss_is_half_mean_square_at_smaller_size() -> None:
    student, teacher = drawn(2, 3, 4, 6), drawn(2, 3, 2, 3, seed=1)
    pooled = np.asarray(student).reshape(2, 3, 2, 2, 3, 2).mean((3, 5))
    expected = ((pooled - np.asarray(teacher)) ** 2).mean() / 2
    assert float(hint_loss(student, teacher)) == pytest.approx(expected, rel=1e-9)
    assert float(hint_loss(teacher, student)) == pytest.approx(expected, rel=1e-9)


def test_attention_equals_numpy_for_any_channels() -> None:
    student, teacher = drawn(2, 3, 4, 4), drawn(2, 7, 4, 4, seed=1)

    def attention(maps: Tensor) -> Any:
        flat = (np.asarray(maps) ** 2).sum(1).reshape(2, -1)
        return flat / np.linalg.norm(flat, axis=1, keepdims=True)

    expected = ((attention(student) - attention(teacher)) ** 2).mean()
    assert float(attention_loss(student, teacher)) == pytest.approx(expected, rel=1e-9)
    assert float(attention_loss(student, 3 * student)) == pytest.approx(0, abs=1e-12)


def test_tokens_become_square_map_without_class_token() -> None:
    maps = drawn(2, 3, 4, 4)
    tokens = maps.flatten(2).transpose(1, 2)
    assert torch.equal(as_map(tokens), maps)
    assert torch.equal(as_map(torch.cat([drawn(2, 1, 3), tokens], 1)), maps)
    assert as_map(drawn(2, 3)).shape == (2, 3, 1, 1)
    for wrong in (drawn(2, 7, 3), drawn(2, 1, 1, 1, 1)):
        with pytest.raises(UserError, match="expected maps, tokens or vectors"):
            as_map(wrong)


def test_hint_adapter_learns_channel_mixture() -> None:
    """If the teacher is a linear mixture of the student's channels, the convolution learns this mixture."""
    kind = DISTILLATIONS.build({"name": "features", "layers": {"a": "b"}})
    student = drawn(64, 2, 3, 3).float()
    mixture = drawn(4, 2, seed=2).float()
    teacher = torch.einsum("oc,nchw->nohw", mixture, student)
    pair = signals(STUDENT, student), signals(TEACHER, teacher)
    kind.fit_to(*pair)
    (weight,) = kind.parameters()
    optimizer = torch.optim.LBFGS([weight], max_iter=50, line_search_fn="strong_wolfe")

    def closure() -> float:
        optimizer.zero_grad()
        loss = kind(*pair, TARGETS)
        loss.backward()
        return float(loss)

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert torch.allclose(weight.detach()[:, :, 0, 0], mixture, atol=1e-3)


def test_a_hint_of_pooled_features_needs_no_layer() -> None:
    kind = DISTILLATIONS.build("features")
    student = Signals(STUDENT, drawn(BATCH, 3).float())
    teacher = Signals(TEACHER, drawn(BATCH, 8, seed=1).float())
    kind.fit_to(student, teacher)
    (weight,) = kind.parameters()
    expected = ((student.features @ weight[:, :, 0, 0].T - teacher.features) ** 2).mean() / 2
    assert float(kind(student, teacher, TARGETS).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_pruned_channels_are_rejected() -> None:
    kind = DISTILLATIONS.build({"name": "features", "layers": {"a": "b"}})
    maps = drawn(2, 4, 3, 3).float()
    kind.fit_to(signals(STUDENT, maps), signals(TEACHER, maps))
    with pytest.raises(UserError, match="expected 4 channels, got 2"):
        kind(signals(STUDENT, maps[:, :2]), signals(TEACHER, maps), TARGETS)


def test_attention_of_single_position_is_rejected() -> None:
    kind = DISTILLATIONS.build({"name": "attention", "layers": {"a": "b"}})
    one = drawn(1, 4, 1, 1)
    with pytest.raises(UserError, match="expected maps of more than one position"):
        kind.fit_to(signals(STUDENT, one), signals(TEACHER, drawn(1, 4, 2, 2)))


# ---------------------------------------------------------------- several, and specs


def signals(logits: Tensor, *maps: Tensor) -> Signals:
    return Signals(logits, logits, maps)


def test_sum_passes_maps_of_layers_to_each_kind() -> None:
    total = build_distillations(
        [
            {"name": "attention", "layers": {"a": "b"}, "weight": 100},
            {"name": "logits", "temperature": 2.0, "weight": 0.5},
            {"name": "attention", "layers": {"c": "d", "e": "f"}, "weight": 10},
        ]
    )
    ours, theirs = [drawn(2, 3, 4, 4, seed=s) for s in range(3)], [drawn(2, 5, 4, 4, seed=s) for s in range(3, 6)]
    value, parts = total(signals(STUDENT, *ours), signals(TEACHER, *theirs), TARGETS, (1, 0, 2))
    each = [float(attention_loss(a, b)) for a, b in zip(ours, theirs, strict=True)]
    assert list(parts) == ["attention", "logits", "attention_2"]
    assert float(parts["attention"]) == pytest.approx(100 * each[0])
    assert float(parts["logits"]) == pytest.approx(0.5 * float(softened_divergence(STUDENT, TEACHER, 2.0)))
    assert float(parts["attention_2"]) == pytest.approx(10 * (each[1] + each[2]))
    assert float(value) == pytest.approx(sum(map(float, parts.values())))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("logit", 'model.distillation: no distillation is called "logit". Did you mean "logits"'),
        ({"name": "logits", "temperature": 0}, "temperature: expected float > 0, got 0"),
        ({"name": "logits", "temp": 2}, 'has no argument "temp". Did you mean "temperature"'),
        ({"name": "logits", "weight": -1}, "weight: expected "),
        ("attention", 'needs the argument "layers"'),
        ({"name": "attention", "layers": {}}, "layers: expected {student layer: teacher layer}"),
        ({"name": "features", "layers": ["layer1"]}, "model.distillation.layers: expected dict[str, str]"),
        ([], "an empty list"),
        (["hard", {"name": "hard", "label_smoothing": 1.0}], "model.distillation[1].label_smoothing: expected"),
    ],
)
def test_invalid_spec_is_rejected_with_key(spec: Any, message: str) -> None:
    with pytest.raises(SpecError) as refused:
        check_distillations(spec)
    assert message in str(refused.value)


def test_other_modules_are_rejected() -> None:
    with pytest.raises(SpecError, match=r"expected an imgrec\.losses\.Distillation, got a ReLU"):
        build_distillations("torch.nn.ReLU")
