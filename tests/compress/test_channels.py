from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from imgrec.compress import (
    ChannelPruning,
    cost_of,
    loss_gradients,
    parse_target,
    prune_channels,
    rebuild,
    surgery_of,
)
from imgrec.compress.pruning.dependency_graph import Attention
from imgrec.errors import UserError
from imgrec.models import Classifier, build_classifier
from imgrec.registry import Spec
from imgrec.types import DataFacts

FACTS = DataFacts(tuple("abcde"), (1,) * 5, image_size=32)
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TINY = {"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [8, 16, 16, 24], "stem_type": "deep", "stem_width": 8}
CONV1 = "backbone.network.layer2.0.conv1"


def built(spec: Spec = TINY, head: Spec = "linear") -> Classifier:
    torch.manual_seed(0)
    model = build_classifier(spec, head, "half", FACTS).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


NETWORKS: list[Spec] = [
    TINY,
    "mobilenetv3_small_050",
    {"name": "vit_tiny_patch16_224", "depth": 2, "embed_dim": 48, "patch_size": 8},
    {"name": "convnext_atto", "depths": [1, 1, 2, 1], "dims": [8, 16, 16, 24]},
    {"name": "resnet9", "channels": [8, 16, 16, 24]},
    {"name": "densenet121", "block_config": [2, 2], "growth_rate": 8},
    {"name": "resnext50_32x4d", "layers": [1, 1, 1, 1], "cardinality": 4},
]
LARGER: list[Spec] = [
    "tf_efficientnet_lite0",
    "torchvision/resnet18",
    "torchvision/mobilenet_v3_small",
    "torchvision/vit_b_16",
    "regnety_002",
]


def titled(spec: Spec) -> str:
    return spec if isinstance(spec, str) else spec["name"]


@pytest.mark.parametrize(
    "spec", [*NETWORKS, *(pytest.param(spec, marks=pytest.mark.slow) for spec in LARGER)], ids=titled
)
def test_half_of_the_macs_and_the_rebuilt_network_has_the_same_logits(spec: Spec) -> None:
    model = built(spec)
    parameters = dict(model.named_parameters())
    report = prune_channels(model, IMAGES, {"macs": 0.5})
    assert 0.4 * report.macs[0] <= report.macs[1] <= 0.5 * report.macs[0]
    assert report.parameters[1] < report.parameters[0]
    assert report.macs[1] == cost_of(model, IMAGES, "macs")
    assert not report.skipped
    assert "head.linear" not in report.widths
    assert model(IMAGES).shape == (4, 5)
    again = rebuild(built(spec), json.loads(json.dumps(surgery_of(model)))).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert {name: p.shape for name, p in again.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    assert all(parameter is parameters[name] for name, parameter in model.named_parameters())
    F.cross_entropy(model.train()(IMAGES), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("head", ["linear", "cosine"])
def test_pruned_logits_equal_dense_logits_with_zeroed_channels(head: Spec) -> None:
    model, dense = built(head=head), built(head=head)
    report = prune_channels(model, IMAGES, {"parameters": 0.4})
    with torch.no_grad():
        for name, tensor in dense.state_dict().items():
            if name in report.kept:
                values = model.state_dict()[name]
                assert torch.equal(tensor.flatten()[report.kept[name]], values)
                tensor.copy_(torch.ones_like(tensor) if name.endswith("running_var") else torch.zeros_like(tensor))
                tensor.view(-1)[report.kept[name].flatten()] = values.flatten()
        torch.testing.assert_close(model(IMAGES), dense(IMAGES), rtol=1e-4, atol=1e-5)
    assert model.backbone.feature_dim == model.forward_features(IMAGES).shape[1] < 24


def kept_channels(report: Any, name: str, before: Tensor) -> list[int]:
    """Return the remaining output channels of a layer, from the indices of their first weights."""
    rows = report.kept[f"{name}.weight"].flatten(1)[:, 0]
    return [int(row) // before[0].numel() for row in rows]


def expected_scores(criterion: str, model: Classifier, gradients: dict[str, Tensor]) -> Tensor:
    """Compute the importance of the channels between two convolutions of a block by its definition."""
    block = "backbone.network.layer2.0."
    weights = {n: p.detach() for n, p in model.named_parameters()}
    first, norm, second = (f"{block}{n}.weight" for n in ("conv1", "bn1", "conv2"))
    if criterion == "l1":
        return weights[first].abs().sum((1, 2, 3))
    if criterion == "l2":
        return weights[first].square().sum((1, 2, 3)).sqrt()
    if criterion == "bn_scale":
        return weights[norm].abs()
    of = {n: (weights[n] * gradients[n] if criterion == "taylor" else weights[n]).square() for n in weights}
    total = of[first].sum((1, 2, 3)) + of[norm] + of[second].sum((0, 2, 3))
    return total / 3 if criterion == "taylor" else (total / 3).sqrt()


@pytest.mark.parametrize("criterion", ["l1", "l2", "group_l2", "bn_scale", "taylor"])
def test_the_most_important_channels_of_each_criterion_remain(criterion: Any) -> None:
    model = built()
    targets = torch.arange(4)
    gradients = loss_gradients(model, [(IMAGES, targets)])
    F.cross_entropy(model(IMAGES), targets).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)
    scores = expected_scores(criterion, model, gradients)
    before = model.state_dict()[f"{CONV1}.weight"].clone()
    how = ChannelPruning(importance=criterion, scope="layer")
    report = prune_channels(model, IMAGES, {"macs": 0.6}, how, batches=lambda: [(IMAGES, targets)])
    kept = kept_channels(report, CONV1, before)
    assert 1 <= len(kept) < 16
    assert kept == sorted(scores.argsort(descending=True)[: len(kept)].tolist())


def test_random_importance_depends_on_the_seed() -> None:
    def selected(seed: int) -> list[int]:
        model = built()
        how = ChannelPruning(importance="random", scope="layer", seed=seed)
        before = model.state_dict()[f"{CONV1}.weight"].clone()
        return kept_channels(prune_channels(model, IMAGES, {"macs": 0.5}, how), CONV1, before)

    assert selected(1) == selected(1)
    assert selected(1) != selected(2)


def test_widths_are_multiples_and_every_layer_keeps_its_share() -> None:
    model = built()
    report = prune_channels(model, IMAGES, {"macs": 0.5}, ChannelPruning(round_to=4, keep=0.3))
    assert report.widths
    assert all(after % 4 == 0 and after >= 0.3 * before for before, after in report.widths.values())


def test_auto_rounds_wide_layers_to_vectors_and_narrow_ones_to_less() -> None:
    model = built({"name": "resnet18", "layers": [1, 1, 1, 1], "channels": [16, 32, 48, 64], "stem_width": 16})
    report = prune_channels(model, IMAGES, {"macs": 0.6}, ChannelPruning(round_to="auto"))
    multiples = {16: 4, 32: 8, 48: 8, 64: 8}
    assert report.widths
    assert all(after % multiples[before] == 0 for before, after in report.widths.values())


def test_attention_loses_heads_or_dimensions() -> None:
    spec = {"name": "vit_tiny_patch16_224", "depth": 1, "embed_dim": 48, "num_heads": 6, "patch_size": 8}
    include = ["*.attn.qkv"]
    heads, size = 6, 8
    attention: Attention
    for attention in ("heads", "dims"):
        model = built(spec)
        how = ChannelPruning(attention=attention, include=include, scope="layer")
        prune_channels(model, IMAGES, {"macs": 0.9}, how)
        attn: Any = model.get_submodule("backbone.network.blocks.0.attn")
        assert attn.qkv.out_features == 3 * attn.num_heads * attn.head_dim
        assert attn.proj.in_features == attn.num_heads * attn.head_dim
        if attention == "heads":
            assert attn.num_heads < heads
            assert attn.head_dim == size
        else:
            assert attn.num_heads == heads
            assert attn.head_dim < size
        assert attn.scale == attn.head_dim**-0.5


def test_patterns_select_the_pruned_layers() -> None:
    model = built()
    prune_channels(model, IMAGES, {"macs": 0.95}, ChannelPruning(include=["*.layer2.0.conv1", "*.layer4.0.conv1"]))
    dense = dict(built().named_modules())
    changed = {
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.out_channels != dense[name].out_channels
    }
    assert changed
    assert changed <= {CONV1, "backbone.network.layer4.0.conv1"}
    other = built()
    report = prune_channels(other, IMAGES, {"macs": 0.6}, ChannelPruning(exclude=["*.layer2.*"]))
    assert report.widths
    assert not any(".layer2." in name for name in report.widths)


def test_a_share_of_the_dense_network_in_several_rounds() -> None:
    model = built()
    dense = cost_of(model, IMAGES, "parameters")
    for share in (0.8, 0.6):
        prune_channels(model, IMAGES, {"parameters": share}, dense=dense)
    assert 0.55 * dense <= cost_of(model, IMAGES, "parameters") <= 0.6 * dense
    assert len(surgery_of(model)) == 1
    again = rebuild(built(), surgery_of(model)).eval()
    again.load_state_dict(model.state_dict())
    assert torch.equal(again(IMAGES), model(IMAGES))
    assert prune_channels(model, IMAGES, {"parameters": 0.7}, dense=dense).step is None
    targets = torch.arange(4)
    taylor = ChannelPruning(importance="taylor")
    found = prune_channels(built(), IMAGES, {"macs": 0.5}, taylor, lambda: [(IMAGES, targets)], rounds=3)
    assert 0.4 * found.macs[0] <= found.macs[1] <= 0.5 * found.macs[0]


def test_latency_targets() -> None:
    model = built({"name": "resnet9", "channels": [32, 64, 64, 64]})
    report = prune_channels(model, IMAGES, {"latency": 0.7})
    assert report.macs[1] < report.macs[0]
    assert report.share <= 0.7


def test_latency_is_a_share_of_the_dense_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test a target of latency with a clock that counts multiply-accumulates."""

    def by_macs(model: nn.Module, reference: nn.Module, images: Tensor, kind: str) -> float:
        assert kind == "latency"
        return cost_of(model, images, "macs") / cost_of(reference, images, "macs")

    monkeypatch.setattr("imgrec.compress.pruning.channel_search.share_of", by_macs)
    model = built()
    first = prune_channels(model, IMAGES, {"latency": 0.7}, rounds=2)
    assert first.share == pytest.approx(first.macs[1] / first.macs[0])
    assert 0.6 < first.share <= 0.7
    assert prune_channels(model, IMAGES, {"latency": 0.71}, start=first.share).step is None
    second = prune_channels(model, IMAGES, {"latency": 0.5}, start=first.share)
    assert second.share == pytest.approx(second.macs[1] / first.macs[0])
    assert 0.4 < second.share <= 0.5


def test_invalid_requests_are_refused_without_changes() -> None:
    model = built()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def refusal(target: Any = None, spec: Any = None, **how: Any) -> str:
        given = model if spec is None else built(spec)
        with pytest.raises(UserError) as caught:
            prune_channels(given, IMAGES, target or {"macs": 0.5}, ChannelPruning(**how))
        return str(caught.value)

    assert "remain if every layer keeps 0.1 of its channels" in refusal({"macs": 0.001})
    assert "0.5 of the MACs cannot be reached" in refusal(include=[CONV1])
    assert "it is" not in refusal(include=[CONV1])
    assert "cannot be pruned" in refusal(include=["head*"])
    assert 'no layer matches "backbone.network.layr2.0.conv1". Did you mean' in refusal(
        exclude=["backbone.network.layr2.0.conv1"]
    )
    assert 'Did you mean "taylor"' in refusal(importance="tailor")
    assert "requires batches" in refusal(importance="taylor")
    assert "does not apply" in refusal(
        spec={"name": "vit_tiny_patch16_224", "depth": 1, "embed_dim": 24}, importance="bn_scale"
    )
    assert "scope: expected global or layer" in refusal(scope="local")
    assert "expected a list" in refusal(include="head")
    assert 'Did you mean "macs"' in refusal({"mac": 0.5})
    assert "a float in (0, 1)" in refusal({"macs": 50})
    assert "cannot trace" in refusal(spec="torchvision/shufflenet_v2_x0_5")
    assert "auxiliary: false" in refusal(spec={"name": "torchvision/googlenet"})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert surgery_of(model) == []
    with pytest.raises(UserError, match="one of parameters, macs, latency"):
        parse_target({})
