"""STM's block against a loop over frames and channels."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models import create_model
from models.backbones import create_backbone
from models.flops import count_flops, count_parameters
from models.stm import StmConv2d
from tests.models.configuration import BOTH_STREAMS, Configuration

CONFIGURATIONS = {
    "stm": Configuration(
        options={**BOTH_STREAMS, "motion_reduction": 4},
        frames=3,
        golden=(
            3.226398,
            3.022046,
            2.794767,
            2.639609,
            2.472835,
            2.273111,
            2.097352,
            1.927026,
            1.752477,
            1.578195,
        ),
    ),
}


@pytest.mark.parametrize("stride", [1, 2])
def test_the_block_is_its_two_modules_written_out(stride: int) -> None:
    torch.manual_seed(0)
    site = StmConv2d(nn.Conv2d(6, 5, 3, stride=stride, padding=1), reduction=2)
    site.frames = 3
    with torch.no_grad():
        site.over_time.weight.normal_()
        site.widen.weight.normal_()
    x = torch.randn(2, 3, 6, 7, 5)  # (B, T, C, H, W)
    ours = site(x.flatten(0, 1)).unflatten(0, (2, 3))
    kernel, narrow = site.over_time.weight[:, 0, :, 0, 0], site.narrow.weight[:, :, 0, 0]
    z = torch.einsum("dc,btchw->btdhw", narrow, x)
    for t in range(3):
        mixed = torch.zeros(2, 6, 7, 5)
        for k in range(3):
            if 0 <= t + k - 1 < 3:
                mixed = mixed + kernel[:, k].reshape(-1, 1, 1) * x[:, t + k - 1]
        expected = F.conv2d(mixed, site.weight, site.bias, stride=stride, padding=1)
        if t < 2:
            ahead = torch.stack(
                [
                    F.conv2d(z[:, t + 1, d : d + 1], site.ahead.weight[d : d + 1], padding=1)[:, 0]
                    for d in range(3)
                ],
                dim=1,
            )
            change = (ahead - z[:, t])[:, :, ::stride, ::stride]
            expected = expected + torch.einsum(
                "oc,bchw->bohw", site.widen.weight[:, :, 0, 0], change
            )
        torch.testing.assert_close(ours[:, t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_it_starts_as_the_two_dimensional_network(backbone: str) -> None:
    torch.manual_seed(0)
    plain = create_backbone(backbone).eval()
    model = create_model("stm", num_classes=4, backbone=backbone).eval()
    model.load_backbone_weights(plain.state_dict())
    clip = model.example_inputs(frames=3, size=64)["rgb"]
    expected = plain(clip[0]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(model(rgb=clip).features["spatial"][0], expected)


def test_it_has_its_published_size() -> None:
    # STM, R50, 16 frames, 400 classes: 66.5 GFLOPs, 24.4 million parameters (ICCV 2019).
    model = create_model("stm", num_classes=400)
    assert count_parameters(model) == pytest.approx(24.4e6, rel=5e-3)
    assert count_flops(model, model.example_inputs(frames=16, size=224)) == pytest.approx(
        66.5, rel=0.01
    )


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="model 'stm': backbone must be one of 'small'"):
        create_model("stm", num_classes=4, backbone="bn_inception")
    with pytest.raises(
        ValueError, match="model 'stm': motion_reduction must be a whole number of at"
    ):
        create_model("stm", num_classes=4, motion_reduction=0)
