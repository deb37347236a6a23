"""The start of fusing convolutions, by its sums."""

import math

import pytest
import torch
from torch import nn

from models.layers.gaussian_identity import gaussian_identity_


def test_the_kernel_sums_to_a_quarter_and_three_quarters_of_the_identity() -> None:
    kernel = gaussian_identity_(torch.empty(5, 10, 3, 3, 3))
    sums = kernel.sum(dim=(2, 3, 4))
    torch.testing.assert_close(sums[:, :5], 0.25 * torch.eye(5))
    torch.testing.assert_close(sums[:, 5:], 0.75 * torch.eye(5))


def test_the_kernel_falls_off_as_a_gaussian_of_sigma_one() -> None:
    kernel = gaussian_identity_(torch.empty(2, 4, 3, 3, 3))[1, 3]
    for t in range(3):
        for i in range(3):
            for j in range(3):
                squared = (t - 1) ** 2 + (i - 1) ** 2 + (j - 1) ** 2
                ratio = kernel[t, i, j] / kernel[1, 1, 1]
                assert ratio.item() == pytest.approx(math.exp(-squared / 2), rel=1e-5)


def test_a_constant_map_is_weighted_away_from_the_border() -> None:
    conv = nn.Conv3d(4, 2, 3, bias=False)
    gaussian_identity_(conv.weight)
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([10.0, 20.0])
    maps = torch.cat([a, b]).reshape(1, 4, 1, 1, 1).expand(1, 4, 3, 3, 3)
    torch.testing.assert_close(conv(maps).flatten(), 0.25 * a + 0.75 * b)


def test_a_matrix_is_the_two_identities() -> None:
    expected = torch.tensor([[0.25, 0, 0.75, 0], [0, 0.25, 0, 0.75]])
    torch.testing.assert_close(gaussian_identity_(torch.empty(2, 4)), expected)
    torch.testing.assert_close(gaussian_identity_(torch.empty(2, 4, 1, 1, 1)).flatten(1), expected)


def test_a_kernel_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match="twice as many input as output channels, got 5 and 2"):
        gaussian_identity_(torch.empty(2, 5, 3, 3, 3))
