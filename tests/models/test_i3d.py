"""I3D inflated from an image classifier: a still video has the image's features."""

import itertools
import math
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
            1.820137,
            1.059762,
            1.644691,
            1.533254,
            1.251334,
            0.778042,
            0.45207,
            0.320956,
            0.188644,
            0.132851,
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


@pytest.mark.parity("I3D", "torchvision's GoogLeNet on a still video")
def test_a_still_video_has_the_images_features(googlenet: GoogLeNet) -> None:
    model: Any = create_model("i3d", num_classes=4, streams=("spatial",)).eval()
    model.load_backbone_weights(googlenet.state_dict())
    first, *rest = model.nets["spatial"]
    image = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        # GoogLeNet sees −1..1; its padding has another colour, so the border is left out, and its
        # first windows begin a pixel before those of "same" padding.
        maps = googlenet.conv1(2 * image.roll((-1, -1), dims=(2, 3)) - 1)
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


@pytest.mark.parity("I3D", "SAME padding")
@pytest.mark.parametrize("sizes", [(8, 6, 7), (5, 8, 10)])
@pytest.mark.parametrize("layer", ["conv1", "pool1", "pool3", "pool4"])
def test_padding_is_the_originals_same(layer: str, sizes: tuple[int, int, int]) -> None:
    """Each window from its definition: ⌈n/s⌉ of them, the smaller half of the zeros before."""
    model: Any = create_model("i3d", num_classes=4, width=0.1, streams=("spatial",)).eval()
    module = model.nets["spatial"].get_submodule(layer)
    x = torch.rand(1, 3, *sizes)
    with torch.no_grad():
        ours = module(x)
    kernel, stride = {
        "conv1": ((7, 7, 7), (2, 2, 2)), "pool1": ((1, 3, 3), (1, 2, 2)),
        "pool3": ((3, 3, 3), (2, 2, 2)), "pool4": ((2, 2, 2), (2, 2, 2)),
    }[layer]  # fmt: skip
    places = [math.ceil(n / s) for n, s in zip(sizes, stride, strict=True)]
    assert ours.shape[2:] == torch.Size(places)
    before = [
        max((p - 1) * s + k - n, 0) // 2
        for p, s, k, n in zip(places, stride, kernel, sizes, strict=True)
    ]
    for place in itertools.product(*map(range, places)):
        window = torch.zeros(3, *kernel)
        first = [p * s - b for p, s, b in zip(place, stride, before, strict=True)]
        for t, i, j in itertools.product(*map(range, kernel)):
            at = (first[0] + t, first[1] + i, first[2] + j)
            if all(0 <= cell < n for cell, n in zip(at, sizes, strict=True)):
                window[:, t, i, j] = x[0, :, at[0], at[1], at[2]]
        expected = window.amax(dim=(1, 2, 3))
        if layer == "conv1":
            summed = (module.conv.weight * window).sum(dim=(1, 2, 3, 4))
            expected = summed.clamp(min=0) / (1 + module.bn.eps) ** 0.5
        torch.testing.assert_close(ours[(0, slice(None), *place)], expected)
