"""Shifts worked by hand, and the gated shift against a loop."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from models.layers.shift import GatedShift, temporal_shift


def _line(*frames: list[float]) -> torch.Tensor:
    """Frames of channels, (1, C, T, 1, 1)."""
    return torch.tensor(frames).T[None, :, :, None, None]


def test_temporal_shift_worked_by_hand() -> None:
    x = _line([1.0, 10, 100, 1000], [2, 20, 200, 2000], [3, 30, 300, 3000])
    expected = _line([2.0, 0, 100, 1000], [3, 10, 200, 2000], [0, 20, 300, 3000])
    assert torch.equal(temporal_shift(x, 0.25), expected)


def test_an_eighth_of_the_channels_goes_each_way() -> None:
    x = torch.rand(2, 20, 4, 2, 2) + 1
    moved = (temporal_shift(x, 1 / 8) != x).flatten(2).any(dim=2)[0]
    assert moved.tolist() == [True] * 4 + [False] * 16


def test_one_frame_loses_what_is_shifted() -> None:
    x = torch.ones(1, 8, 1, 1, 1)
    assert temporal_shift(x, 1 / 8).flatten().tolist() == [0, 0, 1, 1, 1, 1, 1, 1]


def test_a_gated_shift_starts_as_a_permutation_of_the_channels() -> None:
    module = GatedShift(8)
    x = torch.randn(2, 8, 3, 2, 2)
    assert torch.equal(module(x), x[:, [0, 2, 1, 3, 4, 6, 5, 7]])


def test_an_open_gate_shifts_the_first_half_back_and_the_second_on() -> None:
    module: Any = GatedShift(4)
    with torch.no_grad():
        module.gate.bias.fill_(100.0)
    x = _line([1.0, 10, 100, 1000], [2, 20, 200, 2000], [3, 30, 300, 3000])
    expected = _line([2.0, 20, 0, 0], [3, 30, 100, 1000], [0, 0, 200, 2000])
    torch.testing.assert_close(module(x), expected)


@pytest.mark.parity("GSM", "the gated shift")
def test_a_gated_shift_agrees_with_a_loop_over_frames_and_channels() -> None:
    torch.manual_seed(0)
    module: Any = GatedShift(8)
    with torch.no_grad():
        module.gate.weight.normal_()
        module.gate.bias.normal_()
        module.norm.running_mean.normal_()
        module.norm.running_var.uniform_(0.5, 2)
    module.eval()
    x = torch.randn(2, 8, 4, 3, 3)
    ours = module(x)
    mean, var = module.norm.running_mean, module.norm.running_var
    active = ((x - mean.view(-1, 1, 1, 1)) / (var + 1e-5).sqrt().view(-1, 1, 1, 1)).clamp(min=0)
    for half, step in ((0, 1), (1, -1)):
        channels = slice(4 * half, 4 * half + 4)
        weight, bias = module.gate.weight[half : half + 1], module.gate.bias[half : half + 1]
        gate = F.conv3d(active[:, channels], weight, bias, padding=1).tanh()[:, 0]
        for t in range(4):
            for c in range(4):
                now = x[:, 4 * half + c, t]
                expected = now - gate[:, t] * now
                if 0 <= t + step < 4:
                    expected = expected + gate[:, t + step] * x[:, 4 * half + c, t + step]
                place = 4 * half + 2 * (c % 2) + c // 2
                torch.testing.assert_close(ours[:, place, t], expected)


def test_a_gated_shift_refuses_channels_that_it_cannot_halve_twice() -> None:
    with pytest.raises(ValueError, match="divisible by 4, got 6"):
        GatedShift(6)
