"""R(2+1)D in its published sizes and in other widths."""

from typing import Any

import pytest
import torch

from models import create_model
from models.flops import count_parameters
from tests.models.configuration import Configuration

CONFIGURATIONS = {
    "r2plus1d": Configuration(
        options={"width": 0.125, "depths": (1, 1, 1, 1)},
        frames=4,
        golden=(
            1.379833,
            0.843314,
            0.504638,
            0.427304,
            0.321952,
            0.191058,
            0.136465,
            0.091344,
            0.065843,
            0.051413,
        ),
    ),
}


def test_the_width_scales_the_stages_and_not_the_stem() -> None:
    model: Any = create_model("r2plus1d", num_classes=4, width=0.5, depths=(1, 1, 1, 1))
    net = model.nets["spatial"]
    published = {"layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}
    assert net.stem[3].out_channels == 64
    for stage, channels in published.items():
        assert net.get_submodule(stage)[-1].conv2[0][3].out_channels == channels // 2


@pytest.mark.parametrize(
    ("middle", "depths", "millions"),
    [
        ("paper", (2, 2, 2, 2), 33.4),
        ("paper", (3, 4, 6, 3), 63.7),
        ("torchvision", (2, 2, 2, 2), 31.5),  # as torchvision's documentation has it
        ("torchvision", (3, 4, 6, 3), 61.8),
    ],
)
def test_it_has_its_published_size(
    middle: str, depths: tuple[int, int, int, int], millions: float
) -> None:
    with torch.device("meta"):
        model = create_model("r2plus1d", num_classes=400, middle=middle, depths=depths)
    assert count_parameters(model) / 1e6 == pytest.approx(millions, abs=0.06)


def test_a_pair_of_convolutions_has_the_parameters_of_one_over_cells_and_frames() -> None:
    with torch.device("meta"):
        model: Any = create_model("r2plus1d", num_classes=4)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        for block in model.nets["spatial"].get_submodule(stage):
            for pair in (block.conv1[0], block.conv2[0]):
                cells, frames = pair[0].weight, pair[3].weight
                whole = 27 * cells.shape[1] * frames.shape[0]
                # As many channels as fit: one more would be too many.
                extra = 9 * cells.shape[1] + 3 * frames.shape[0]
                assert whole - extra < cells.numel() + frames.numel() <= whole
