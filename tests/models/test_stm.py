"""STM's block against the authors' arithmetic, frame by frame."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import create_model
from models.backbones import create_backbone
from models.flops import count_flops, count_parameters
from models.layers.frames import set_frames
from models.stm import ChannelwiseMotion, ChannelwiseTemporal
from tests.models.configuration import BOTH_STREAMS, Configuration

CONFIGURATIONS = {
    "stm": Configuration(
        options={**BOTH_STREAMS, "motion_reduction": 4},
        frames=3,
        golden=(
            4.902891,
            3.509026,
            2.906532,
            2.928918,
            3.042762,
            2.739554,
            2.171551,
            1.801956,
            1.723518,
            1.726406,
        ),
    ),
}


def _bottleneck_of_the_authors(block: Any, x: Tensor, *, stride: int) -> Tensor:
    """The authors' bottleneck, frame by frame, in evaluation mode; x is (T, C, h, w)."""

    def norm(layer: nn.BatchNorm2d, y: Tensor) -> Tensor:
        return F.batch_norm(
            y, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
        )

    seen = norm(block.bn1, F.conv2d(x, block.conv1.weight)).clamp(min=0)
    kernel = block.over_time.conv.weight[:, 0, :, 0, 0]  # (C, 3)
    motion = block.motion
    z = norm(motion.norm, F.conv2d(seen, motion.narrow.weight))
    frames = []
    for t in range(len(x)):
        mixed = torch.zeros_like(seen[:1])
        for k, source in enumerate((t - 1, t, t + 1)):
            if 0 <= source < len(x):
                mixed = mixed + kernel[:, k].reshape(1, -1, 1, 1) * seen[source : source + 1]
        y = F.conv2d(mixed, block.conv2.weight, stride=stride, padding=1)
        y = norm(block.bn2, y).clamp(min=0)
        change = torch.zeros_like(z[:1])
        if t + 1 < len(x):
            ahead = F.conv2d(z[t + 1 : t + 2], motion.ahead.weight, padding=1, groups=z.shape[1])
            change = ahead - z[t : t + 1]
        wide = F.conv2d(change, motion.widen.weight)
        if stride == 2:
            corners = [wide[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)]
            wide = torch.stack(corners).amax(dim=0)
        frames.append(norm(block.bn3, F.conv2d(y + wide, block.conv3.weight)))
    shortcut = x
    if block.downsample is not None:
        shortcut = norm(block.downsample[1], F.conv2d(x, block.downsample[0].weight, stride=stride))
    return (torch.cat(frames) + shortcut).clamp(min=0)


def _at_random(module: nn.Module) -> nn.Module:
    """Gives every parameter and statistic a value of its own."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 0.5) if tensor.ndim == 1 else tensor.normal_(std=0.2)
    return module.eval()


@pytest.mark.parity("STM-R50", "its bottleneck")
@pytest.mark.parametrize(("index", "stride"), [(0, 2), (1, 1)])
def test_a_block_is_the_authors_bottleneck(index: int, stride: int) -> None:
    model: Any = create_model("stm", num_classes=4)
    block = _at_random(model.backbones["spatial"].layer2[index]).double()
    set_frames(block, 3)
    x = torch.rand(2, 3, (256, 512)[index], 8, 6, dtype=torch.float64)
    ours = block(x.flatten(0, 1)).unflatten(0, (2, 3))
    for clip in range(2):
        expected = _bottleneck_of_the_authors(block, x[clip], stride=stride)
        torch.testing.assert_close(ours[clip], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parity("STM-R50", "the temporal convolution's start")
def test_it_starts_by_shifting_a_quarter_of_the_channels_each_way() -> None:
    module = ChannelwiseTemporal(8)
    module.frames = 3
    x = torch.randn(3, 8, 2, 2)
    shifted = module(x)
    for t in range(3):
        before = x[t - 1, :2] if t > 0 else torch.zeros(2, 2, 2)
        after = x[t + 1, 6:] if t < 2 else torch.zeros(2, 2, 2)
        torch.testing.assert_close(shifted[t], torch.cat([before, x[t, 2:6], after]))


@pytest.mark.parametrize("backbone", ["small", "resnet18"])
def test_without_its_modules_it_is_the_two_dimensional_network(backbone: str) -> None:
    torch.manual_seed(0)
    plain = create_backbone(backbone).eval()
    model = create_model("stm", num_classes=4, backbone=backbone).eval()
    model.load_backbone_weights(plain.state_dict())
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ChannelwiseTemporal):
                module.conv.weight.zero_()[:, :, 1] = 1
            elif isinstance(module, ChannelwiseMotion):
                module.widen.weight.zero_()
    clip = model.example_inputs(frames=3, size=64)["rgb"]
    expected = plain(clip[0]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(model(rgb=clip).features["spatial"][0], expected)


@pytest.mark.usefixtures("shapes_alone")
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
