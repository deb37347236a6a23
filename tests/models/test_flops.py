import pytest
import torch
from torch import nn

from models import create_model
from models.flops import count_flops, count_parameters


class _Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.norm(self.conv(x)).relu().mean(dim=(2, 3)))


def test_a_multiply_add_counts_once() -> None:
    expected = 2 * (8 * 8 * 8 * 3 * 3 * 3 + 8 * 5)
    assert count_flops(_Layers(), {"x": torch.zeros(2, 3, 16, 16)}) * 1e9 == expected


def test_counting_changes_nothing() -> None:
    layers = _Layers()
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    count_flops(layers, {"x": torch.zeros(2, 3, 16, 16)})
    assert layers.training
    assert all(torch.equal(before[key], value) for key, value in layers.state_dict().items())
    assert all(value.device.type == "cpu" for value in layers.state_dict().values())


@pytest.mark.usefixtures("shapes_alone")
def test_a_network_is_counted_whole() -> None:
    model = create_model(
        "stilt", num_classes=101, backbone="resnet18", interaction=False, streams=("spatial",)
    )
    head = 512 * 512 + 512 * 1024 + 1024 * 101
    inputs = model.example_inputs(frames=2)
    # torchvision's ResNet-18: 1.814 billion with its 512 × 1000 classifier.
    assert abs(count_flops(model, inputs) - 2 * (1.814 - 512e-6) - head / 1e9) < 2e-3


def test_frozen_parameters_count() -> None:
    layers = _Layers().requires_grad_(False)
    assert count_parameters(layers) == (8 * 27 + 8) + 16 + (8 * 5 + 5)
