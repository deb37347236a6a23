"""Multiplicative gating against residual blocks written out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models import VideoModel, create_model
from models.spatiotemporal_multiplier import gated_block
from tests.models.configuration import SMALL_BACKBONE, Configuration

CONFIGURATIONS = {
    "spatiotemporal_multiplier": Configuration(
        options=SMALL_BACKBONE,
        frames=3,
        interacts="motion gates appearance",
        golden=(
            3.247787,
            2.945997,
            2.652911,
            2.372618,
            2.08265,
            1.83634,
            1.595924,
            1.345963,
            1.137808,
            0.949658,
        ),
    ),
}


def _model(**options: Any) -> Any:
    torch.manual_seed(0)
    options = {"backbone": "resnet18", "flow_length": 2, **options}
    return create_model("spatiotemporal_multiplier", num_classes=4, **options)


def _clips(model: VideoModel) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return model.example_inputs(frames=2, size=64)


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50"])
def test_a_block_that_sees_its_own_input_is_the_plain_block(backbone: str) -> None:
    model = _model(backbone=backbone).eval()
    for block in model.backbones["spatial"].layer2:
        x = torch.randn(1, block.conv1.in_channels, 8, 8)
        torch.testing.assert_close(gated_block(block, x, x), block(x))


@pytest.mark.parametrize("interaction", ["multiply", "add", "none"])
def test_motion_enters_the_second_block_of_each_stage(interaction: str) -> None:
    model = _model(interaction=interaction, temporal_conv=False).eval()
    clips = _clips(model)
    a, m = model.backbones["spatial"], model.backbones["temporal"]
    x, y = (net.forward_stage("stem", c[0]) for net, c in ((a, clips["rgb"]), (m, clips["flow"])))
    for i in range(1, 5):
        ours, theirs = a.get_submodule(f"layer{i}"), m.get_submodule(f"layer{i}")
        x, y = ours[0](x), theirs[0](y)
        seen = {"multiply": x * y, "add": x + y, "none": x}[interaction]
        block = ours[1]
        branch = block.bn2(block.conv2(block.relu(block.bn1(block.conv1(seen)))))
        x, y = (branch + x).relu(), theirs[1](y)
    output = model(**clips)
    torch.testing.assert_close(output.features["spatial"][0], x.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(output.features["temporal"][0], y.mean(dim=(0, 2, 3)))


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_the_temporal_convolution_starts_as_the_identity(backbone: str) -> None:
    with_it, without = _model(backbone=backbone), _model(backbone=backbone, temporal_conv=False)
    without.load_state_dict(with_it.state_dict(), strict=False)
    clips = _clips(with_it)
    ours, theirs = with_it.eval()(**clips), without.eval()(**clips)
    for stream in ("spatial", "temporal"):
        torch.testing.assert_close(ours.logits[stream], theirs.logits[stream])


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_gradients_cross_from_appearance_to_motion_only(backbone: str) -> None:
    for interaction, crosses in (("multiply", True), ("none", False)):
        model = _model(backbone=backbone, interaction=interaction)
        assert model.independent_streams is not crosses
        output = model(**_clips(model))
        motion = list(model.backbones["temporal"].parameters())
        gradients = torch.autograd.grad(
            output.logits["spatial"].sum(), motion, allow_unused=True, retain_graph=True
        )
        assert any(g is not None and g.any() for g in gradients) is crosses
        appearance = list(model.backbones["spatial"].parameters())
        back = torch.autograd.grad(output.logits["temporal"].sum(), appearance, allow_unused=True)
        assert all(g is None for g in back)


def test_bad_input_is_refused() -> None:
    match = "model 'spatiotemporal_multiplier': backbone must be one of 'small', 'resnet18'"
    with pytest.raises(ValueError, match=match):
        _model(backbone="vgg16")
