"""SMART blocks written out."""

import pytest
import torch
from torch.nn import functional as F

from models import create_model
from models.artnet import Smart
from models.flops import count_flops
from tests.models.configuration import Configuration

CONFIGURATIONS = {
    "artnet": Configuration(
        options={"width": 0.125, "depths": (1, 1, 1, 1)},
        frames=4,
        golden=(
            1.8004,
            1.303813,
            0.87192,
            0.514223,
            0.377086,
            0.250532,
            0.162708,
            0.119172,
            0.093943,
            0.070666,
        ),
    ),
}


def test_a_smart_block_is_appearance_beside_squared_relation() -> None:
    torch.manual_seed(0)
    block = Smart(3, 4, (3, 3, 3), (1, 1, 1)).eval()
    x = torch.randn(2, 3, 3, 5, 5)
    frames = [F.conv2d(x[:, :, t], block.appearance.weight[:, :, 0], padding=1) for t in range(3)]
    appearance = torch.stack(frames, dim=2) / (1 + 1e-5) ** 0.5
    response = F.conv3d(x, block.relation.weight, padding=1) / (1 + 1e-5) ** 0.5
    energy = [(response[:, 2 * i] ** 2 + response[:, 2 * i + 1] ** 2) / 2 for i in range(2)]
    joined = torch.cat([appearance.clamp(min=0), torch.stack(energy, dim=1)], dim=1)
    expected = torch.einsum("oc,bcthw->bothw", block.reduce.weight[:, :, 0, 0, 0], joined)
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


def test_it_has_its_published_size() -> None:
    # 23.5 GFLOPs a clip of 16 frames of 112², as tables of 3-D networks have it.
    model = create_model("artnet", num_classes=400)
    flops = count_flops(model, model.example_inputs(frames=16, size=112))
    assert flops == pytest.approx(23.5, rel=0.03)


@pytest.mark.parametrize(("smart", "blocks"), [("deep", 4), ("first", 1), ("none", 0)])
def test_smart_blocks_stand_where_the_option_says(smart: str, blocks: int) -> None:
    model = create_model("artnet", num_classes=4, smart=smart, width=0.25, depths=(1, 1, 1, 1))
    assert sum(type(m).__name__ == "Smart" for m in model.modules()) == blocks
