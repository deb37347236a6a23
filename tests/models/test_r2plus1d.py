"""R(2+1)D in other widths."""

from typing import Any

from models import create_model
from tests.models.configuration import Configuration

CONFIGURATIONS = {
    "r2plus1d": Configuration(
        options={"width": 0.125, "depths": (1, 1, 1, 1)},
        frames=4,
        golden=(
            1.633664,
            0.910898,
            0.68843,
            0.522387,
            0.340987,
            0.250653,
            0.17456,
            0.130723,
            0.105588,
            0.084108,
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
