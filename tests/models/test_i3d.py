"""I3D inflated from an image classifier: a still video has the image's features."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import GoogLeNet

from models import create_model
from tests.models.configuration import Configuration

CONFIGURATIONS = {
    "i3d": Configuration(
        options={"width": 0.125, "streams": ("spatial",)},
        frames=4,
        golden=(
            1.581591,
            1.520131,
            1.43951,
            1.087361,
            1.04384,
            0.630527,
            0.410785,
            0.219856,
            0.137718,
            0.085428,
        ),
    ),
}

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]


@pytest.fixture(scope="module")
def googlenet() -> GoogLeNet:
    torch.manual_seed(0)
    net = GoogLeNet(num_classes=10, aux_logits=True, transform_input=True, init_weights=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.get_buffer("running_mean"), -0.1, 0.1)
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
    return net.eval()


def _still(image: Tensor, frames: int) -> Tensor:
    """(1, C, H, W) → (1, C, T, H, W)."""
    return image.unsqueeze(2).expand(-1, -1, frames, -1, -1)


def test_a_still_video_has_the_images_features(googlenet: GoogLeNet) -> None:
    model: Any = create_model("i3d", num_classes=4, streams=("spatial",)).eval()
    model.load_backbone_weights(googlenet.state_dict())
    first, *rest = model.nets["spatial"]
    image = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        # GoogLeNet sees −1..1; its padding has another colour, so the border is left out.
        maps = googlenet.conv1(2 * image - 1)
        ours = first(_still((image - MEAN) / STD, 12))[:, :, 3]
        inside = (..., slice(2, -2), slice(2, -2))
        torch.testing.assert_close(ours[inside], maps[inside], rtol=1e-3, atol=1e-4)

        # Zeros beyond the ends of the video reach far, but not to the middle of 56 frames.
        ours = _still(maps, 56)
        for layer in rest:
            ours = layer(ours)
        expected = maps
        for name, layer in list(googlenet.named_children())[1:]:
            if name == "aux1" or name == "aux2":
                continue
            if name == "avgpool":
                break
            expected = layer(expected)
    torch.testing.assert_close(ours[:, :, 7], expected, rtol=1e-3, atol=1e-4)


def test_flow_starts_from_the_mean_over_colours(googlenet: GoogLeNet) -> None:
    model: Any = create_model("i3d", num_classes=4)
    weights = googlenet.state_dict()
    model.load_backbone_weights(weights)
    spatial, temporal = (model.nets[stream].conv1 for stream in ("spatial", "temporal"))
    for axis in range(2):
        torch.testing.assert_close(temporal.conv.weight[:, axis], spatial.conv.weight.mean(dim=1))
    # Flow is centred already: only RGB needs its mean shifted.
    assert torch.equal(temporal.bn.running_mean, weights["conv1.bn.running_mean"])
    assert not torch.equal(spatial.bn.running_mean, temporal.bn.running_mean)


def test_weights_of_another_width_are_refused(googlenet: GoogLeNet) -> None:
    with pytest.raises(ValueError, match="the weights don't fit model 'i3d'"):
        create_model("i3d", num_classes=4, width=0.25).load_backbone_weights(googlenet.state_dict())
