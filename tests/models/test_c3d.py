"""C3D's fully connected layers."""

from typing import Any

import torch

from models import create_model
from tests.models.configuration import Configuration

CONFIGURATIONS = {
    "c3d": Configuration(
        options={"width": 0.125, "head_dims": (32, 32), "head_grid": 2},
        frames=4,
        golden=(
            1.588243,
            1.54067,
            1.476579,
            1.448557,
            1.426709,
            1.37483,
            1.320938,
            1.277519,
            1.229541,
            1.171297,
        ),
    ),
}


def test_c3d_sees_its_last_map_whole_at_the_papers_size() -> None:
    model: Any = create_model("c3d", num_classes=4, width=0.125, head_dims=(16, 8)).eval()
    clip = model.example_inputs(frames=16, size=112)["rgb"]
    maps = model.nets["spatial"](clip.transpose(1, 2))
    assert maps.shape == (1, 64, 1, 4, 4)
    _, expected = model.heads["spatial"](maps.flatten(1))
    torch.testing.assert_close(model(rgb=clip).logits["spatial"], expected)
