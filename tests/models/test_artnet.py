"""ARTNet against the arithmetic of its authors' network."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import create_model
from models.flops import count_flops
from tests.models.configuration import Configuration

CONFIGURATIONS = {
    "artnet": Configuration(
        options={"width": 0.125, "depths": (1, 1, 1, 1)},
        frames=4,
        golden=(
            1.58386,
            1.015982,
            0.700801,
            0.486702,
            0.357601,
            0.243139,
            0.178202,
            0.138226,
            0.114669,
            0.093237,
        ),
    ),
}


def _norm(layer: nn.BatchNorm3d, x: Tensor) -> Tensor:
    return F.batch_norm(
        x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=layer.eps
    )


def _smart(block: Any, x: Tensor, *, stride: int) -> Tensor:
    """The authors' SMART block: appearance frame by frame, energies pair by pair."""
    size = block.appearance.kernel_size[1]
    frames = [
        F.conv2d(x[:, :, t], block.appearance.weight[:, :, 0], stride=stride, padding=size // 2)
        for t in range(0, x.shape[2], stride)
    ]
    appearance = _norm(block.appearance_norm, torch.stack(frames, dim=2))
    response = F.conv3d(x, block.relation.weight, stride=stride, padding=(1, size // 2, size // 2))
    response = _norm(block.relation_norm, response)
    pairs = range(0, response.shape[1], 2)
    energy = [0.5 * response[:, i] ** 2 + 0.5 * response[:, i + 1] ** 2 for i in pairs]
    pooled = _norm(block.energy_norm, torch.stack(energy, dim=1))
    joined = torch.cat([appearance, pooled], dim=1).clamp(min=0)
    return torch.einsum("oc,bcthw->bothw", block.reduce.weight[:, :, 0, 0, 0], joined)


@pytest.mark.parity("ARTNet-R18", "the network, to its features")
def test_the_network_is_the_authors() -> None:
    torch.manual_seed(0)
    model: Any = create_model("artnet", num_classes=4, width=0.125).double().eval()
    net = model.nets["spatial"]
    with torch.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor.uniform_(0.3, 0.7)
    clip = torch.randn(2, 6, 3, 32, 32, dtype=torch.float64)
    x = _smart(net.conv1, clip.transpose(1, 2), stride=2)
    for stage in range(1, 5):
        for j, block in enumerate(net.get_submodule(f"layer{stage}")):
            stride = 2 if stage > 1 and j == 0 else 1
            seen = _norm(block.bn1, x).clamp(min=0)
            y = F.conv3d(seen, block.conv1.weight, stride=stride, padding=1)
            y = _norm(block.bn2, y).clamp(min=0)
            if stage < 4:
                y = _smart(block.conv2, y, stride=1)
            else:
                y = F.conv3d(y, block.conv2.weight, padding=1)
            if stride == 2:
                x = F.conv3d(seen, block.shortcut.weight, stride=2, padding=1)
            x = x + y
    expected = _norm(net.bn, x).clamp(min=0).mean(dim=(2, 3, 4))
    torch.testing.assert_close(model(rgb=clip).features["spatial"], expected, rtol=1e-9, atol=1e-9)


@pytest.mark.usefixtures("shapes_alone")
def test_it_has_the_size_of_the_published_network() -> None:
    # The sum over the released network's layers. Tables of 3-D networks print 23.5 for it.
    model = create_model("artnet", num_classes=400)
    flops = count_flops(model, model.example_inputs(frames=16, size=112))
    maps, sites = {1: 56**2 * 8, 2: 28**2 * 4, 3: 14**2 * 2, 4: 7**2}, 0
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        three, half = 27 * width**2, 27 * width**2 // 2
        smart = 9 * width**2 + three + 3 * width**2 // 2 if stage < 4 else three
        first = 2 * three if stage == 1 else three + 2 * half  # its own shortcut is one too
        sites += maps[stage] * (first + 2 * smart)
    stem = maps[1] * 3 * 64 * (49 + 147) + maps[1] * 96 * 64
    assert flops == pytest.approx((stem + sites + 512 * 400) / 1e9, rel=1e-6)
    assert flops == pytest.approx(25.7, abs=0.05)


@pytest.mark.parametrize(("smart", "blocks"), [("deep", 4), ("first", 1), ("none", 0)])
def test_smart_blocks_stand_where_the_option_says(smart: str, blocks: int) -> None:
    model = create_model("artnet", num_classes=4, smart=smart, width=0.25, depths=(1, 1, 1, 1))
    assert sum(type(m).__name__ == "Smart" for m in model.modules()) == blocks
