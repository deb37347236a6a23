"""Multiplicative gating against residual blocks written out."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models import VideoModel, create_model
from models.spatiotemporal_multiplier import residual_sum
from tests.models.configuration import SMALL_BACKBONE, Configuration

CONFIGURATIONS = {
    "spatiotemporal_multiplier": Configuration(
        options=SMALL_BACKBONE,
        frames=3,
        interacts="motion gates appearance",
        golden=(
            3.30862,
            2.532495,
            1.841475,
            1.20457,
            0.83979,
            0.541783,
            0.347265,
            0.249684,
            0.1717,
            0.116212,
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
        torch.testing.assert_close(residual_sum(block, x, x).relu(), block(x))


def _branch(block: Any, x: Tensor) -> Tensor:
    return block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))


@pytest.mark.parity("Spatiotemporal multiplier", "the network, to its features")
@pytest.mark.parametrize("interaction", ["multiply", "add", "none"])
def test_motion_multiplies_appearance_before_its_relu(interaction: str) -> None:
    """Equation 5 over every block, with sums x and rectified sums f(x) kept apart."""
    model = _model(interaction=interaction, temporal_conv=False).eval()
    clips = _clips(model)
    a, m = model.backbones["spatial"], model.backbones["temporal"]
    f_a, f_m = (n.forward_stage("stem", c[0]) for n, c in ((a, clips["rgb"]), (m, clips["flow"])))
    x_a = f_a
    for i in range(1, 5):
        for j in range(2):
            ours, theirs = a.get_submodule(f"layer{i}")[j], m.get_submodule(f"layer{i}")[j]
            seen = f_a
            if j == 1 and interaction != "none":
                seen = x_a * f_m if interaction == "multiply" else x_a + f_m
            x_a, x_m = _branch(ours, seen), _branch(theirs, f_m)
            x_a = x_a + (f_a if ours.downsample is None else ours.downsample(f_a))
            x_m = x_m + (f_m if theirs.downsample is None else theirs.downsample(f_m))
            f_a, f_m = x_a.clamp(min=0), x_m.clamp(min=0)
    output = model(**clips)
    for stream, maps in (("spatial", f_a), ("temporal", f_m)):
        pooled = torch.maximum(maps[0], maps[1]).mean(dim=(1, 2))  # over the two frames
        torch.testing.assert_close(output.features[stream][0], pooled)


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
