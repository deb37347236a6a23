"""P3D's three ways written out, and its size by ResNet-152's."""

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from models import create_model
from models.flops import count_parameters
from models.p3d import WAYS, P3dBlock, Way
from tests.models.configuration import Configuration

CONFIGURATIONS = {
    "p3d": Configuration(
        options={"width": 0.125, "depths": (1, 1, 1, 1)},
        frames=4,
        golden=(
            1.698502,
            1.128823,
            0.906473,
            0.460688,
            0.346018,
            0.160538,
            0.102832,
            0.06818,
            0.043814,
            0.024107,
        ),
    ),
}


def normalised(x: Tensor) -> Tensor:
    """A new BatchNorm's output in evaluation: mean 0, variance 1."""
    return x / (1 + 1e-5) ** 0.5


@pytest.mark.parity("P3D", "its three blocks")
@pytest.mark.parametrize("way", WAYS)
def test_a_block_divides_space_from_time_as_its_way_says(way: Way) -> None:
    torch.manual_seed(0)
    block = P3dBlock(8, 2, stride=1, way=way).eval()
    x = torch.randn(2, 8, 3, 5, 5)
    weights = dict(block.named_parameters())
    reduce, space, time, expand = (
        weights[f"{name}.0.weight"] for name in ("reduce", "space", "time", "expand")
    )
    small = normalised(torch.einsum("oi,bithw->bothw", reduce[:, :, 0, 0, 0], x)).relu()

    def over_cells(y: Tensor) -> Tensor:
        frames = [F.conv2d(y[:, :, t], space[:, :, 0], padding=1) for t in range(3)]
        return normalised(torch.stack(frames, dim=2)).relu()

    def over_frames(y: Tensor) -> Tensor:
        padded = F.pad(y, (0, 0, 0, 0, 1, 1))
        taps = [
            torch.einsum("oi,bithw->bothw", time[:, :, k, 0, 0], padded[:, :, k : k + 3])
            for k in range(3)
        ]
        return normalised(torch.stack(taps).sum(0)).relu()

    seen = over_cells(small)
    y = {
        "A": over_frames(seen),
        "B": seen + over_frames(small),
        "C": seen + over_frames(seen),
    }[way]
    expected = (x + normalised(torch.einsum("oi,bithw->bothw", expand[:, :, 0, 0, 0], y))).relu()
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_it_is_resnet_152_and_a_convolution_over_time_in_each_of_47_blocks() -> None:
    with torch.device("meta"):
        model = create_model("p3d", num_classes=1000)
        resnet = torchvision.models.resnet152()
    over_time = [block.time for block in model.modules() if isinstance(block, P3dBlock)]
    assert [one is not None for one in over_time] == [True] * 47 + [False] * 3
    added = sum(blocks * (3 * c * c + 2 * c) for blocks, c in ((3, 64), (8, 128), (36, 256)))
    assert count_parameters(model) == count_parameters(resnet) + added
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv3d | nn.Linear)]
    shortcuts = [b.shortcut for b in model.modules() if isinstance(b, P3dBlock) and b.shortcut]
    assert len(weighted) - len(shortcuts) == 199


def test_sixteen_frames_are_one_in_the_last_stage() -> None:
    model = create_model("p3d", num_classes=3, width=0.1, depths=(1, 1, 1, 1)).eval()
    maps = model.get_submodule("nets.spatial")(torch.randn(1, 3, 16, 64, 64))
    assert maps.shape[2:] == (1, 2, 2)
