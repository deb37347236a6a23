"""TSM: TSN with shifted residual branches and no more parameters."""

from typing import Any

import pytest
import torch

from models import create_model
from models.backbones import create_backbone
from models.flops import count_flops, count_parameters
from models.layers.frames import set_frames
from tests.models.configuration import BOTH_STREAMS, Configuration

CONFIGURATIONS = {
    "tsm": Configuration(
        options=BOTH_STREAMS,
        frames=3,
        golden=(
            3.680534,
            3.250042,
            2.841788,
            2.623957,
            2.482753,
            2.328456,
            2.17085,
            2.037028,
            1.919344,
            1.779734,
        ),
    ),
}


@pytest.mark.usefixtures("shapes_alone")
def test_it_has_the_size_of_a_segment_network() -> None:
    # TSM-R50, 8 frames: 24.3 million parameters and 33 GFLOPs (ICCV 2019, Table 2).
    shifted = create_model("tsm", num_classes=400)
    plain = create_model("tsn", num_classes=400, backbone="resnet50", streams=("spatial",))
    assert count_parameters(shifted) == count_parameters(plain)
    inputs = shifted.example_inputs(frames=8, size=224)
    assert count_flops(shifted, inputs) == count_flops(plain, inputs)
    assert count_flops(shifted, inputs) == pytest.approx(33, rel=0.01)


@pytest.mark.parity("TSM", "a residual block")
def test_a_residual_branch_is_shifted_and_its_shortcut_is_not() -> None:
    torch.manual_seed(0)
    model: Any = create_model("tsm", num_classes=4, backbone="resnet18").eval()
    block = model.backbones["spatial"].layer1[0]
    set_frames(block, 2)
    x = torch.randn(2, 64, 6, 6)
    shifted = x.clone()
    shifted[0, :8], shifted[1, :8] = x[1, :8], 0
    shifted[0, 8:16], shifted[1, 8:16] = 0, x[0, 8:16]
    plain: Any = create_backbone("resnet18").eval()
    plain.load_weights(model.backbones["spatial"].state_dict())
    first = plain.layer1[0]
    branch = first.bn2(first.conv2(first.relu(first.bn1(first.conv1(shifted)))))
    torch.testing.assert_close(block(x), (branch + x).relu())


@pytest.mark.parametrize("fraction", [0.0, 0.75])
def test_a_fraction_that_cannot_be_shifted_both_ways_is_refused(fraction: float) -> None:
    with pytest.raises(
        ValueError,
        match=r"'tsm': shift_fraction must be .* above 0 and at most 0\.5, got",
    ):
        create_model("tsm", num_classes=4, shift_fraction=fraction)


def test_a_backbone_that_cannot_mix_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="model 'tsm': backbone must be one of 'small'"):
        create_model("tsm", num_classes=4, backbone="vgg16")
