"""Convolutions that mix frames, against the formula of each way written out."""

from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import create_backbone
from models.layers.frames import set_frames
from models.layers.temporal_conv import (
    BranchAttention,
    Mixing,
    TemporalConv2d,
    insert_temporal_convs,
    temporal_sites,
)

FRAMES = 3
MIXINGS = get_args(Mixing)


def _site(mixing: Mixing, *, kernel: int = 3, stride: int = 2, bias: bool = True) -> Any:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, kernel, stride=stride, padding=kernel // 2, bias=bias)
    site = TemporalConv2d(conv, mixing, shift_fraction=0.25, reduction=2)
    site.frames = FRAMES
    return site.eval()


def _input() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2 * FRAMES, 8, 6, 5)


def _shifted(x: Tensor) -> Tensor:
    """Two channels from the next frame, two from the one before, a frame at a time."""
    frames = x.reshape(2, FRAMES, 8, 6, 5)
    out = frames.clone()
    for t in range(FRAMES):
        out[:, t, :2] = frames[:, t + 1, :2] if t + 1 < FRAMES else 0
        out[:, t, 2:4] = frames[:, t - 1, 2:4] if t else 0
    return out.reshape(x.shape)


def _plain(site: Any, x: Tensor) -> Tensor:
    return F.conv2d(x, site.weight, site.bias, site.stride, site.padding)


def _volume(site: Any, x: Tensor) -> Tensor:
    """A 3-D convolution as a sum of 2-D ones, one for each frame of the kernel."""
    frames = x.reshape(2, FRAMES, *x.shape[1:])
    kernel = site.volume.weight
    bias = site.bias if site.volume.bias is None else site.volume.bias
    out = []
    for t in range(FRAMES):
        total = torch.zeros(()) if bias is None else bias.reshape(-1, 1, 1)
        for k in range(3):
            if 0 <= t + k - 1 < FRAMES:
                image, padding = frames[:, t + k - 1], site.volume.padding[1:]
                total = total + F.conv2d(image, kernel[:, :, k], None, site.stride, padding)
        out.append(total)
    return torch.stack(out, dim=1).flatten(0, 1)


def _attend(attention: BranchAttention, a: Tensor, b: Tensor) -> Tensor:
    """Softmax over two branches for each channel of each clip."""
    a, b = (x.reshape(2, FRAMES, *x.shape[1:]) for x in (a, b))
    out = torch.empty_like(a)
    for clip in range(2):
        z = (a[clip] + b[clip]).mean(dim=(0, 2, 3))
        hidden = (attention.squeeze.weight @ z + attention.squeeze.bias).clamp(min=0)
        scores = attention.excite.weight @ hidden + attention.excite.bias
        for c in range(len(z)):
            share = torch.sigmoid(scores[c] - scores[c + len(z)])
            out[clip, :, c] = share * a[clip, :, c] + (1 - share) * b[clip, :, c]
    return out.flatten(0, 1)


@pytest.mark.parity("CSTM, GSM and TSM", "the ways of mixing frames")
@pytest.mark.parametrize(("kernel", "stride", "bias"), [(1, 1, True), (3, 2, False)])
@pytest.mark.parametrize("mixing", MIXINGS)
def test_each_way_of_mixing_is_its_formula(
    mixing: Mixing, kernel: int, stride: int, bias: bool
) -> None:
    site, x = _site(mixing, kernel=kernel, stride=stride, bias=bias), _input()
    if site.volume is not None:
        with torch.no_grad():
            site.volume.weight.normal_()
    if mixing == "shift":
        expected = _plain(site, _shifted(x))
    elif mixing == "3d":
        expected = _volume(site, x)
    elif mixing == "3d_shift_sum":
        expected = _volume(site, x) + _plain(site, _shifted(x))
    elif mixing == "cstm":
        expected = _attend(site.attention, _volume(site, x), _plain(site, _shifted(x)))
    else:
        plain = _plain(site, x)
        volume = plain.reshape(2, FRAMES, *plain.shape[1:]).transpose(1, 2)
        gated = site.gated_shift(volume).transpose(1, 2).flatten(0, 1)
        expected = gated if mixing == "gsm" else _attend(site.attention, plain, gated)
    torch.testing.assert_close(site(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_volume_starts_as_the_two_dimensional_convolution(kernel: int) -> None:
    site, x = _site("3d", kernel=kernel), _input()
    torch.testing.assert_close(site(x), _plain(site, x), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        site.weight.normal_()
    site.inflate()
    torch.testing.assert_close(site(x), _plain(site, x), rtol=1e-4, atol=1e-4)


def test_equal_scores_halve_the_branches() -> None:
    attention = BranchAttention(6, 2)
    nn.init.zeros_(attention.excite.weight)
    nn.init.zeros_(attention.excite.bias)
    a, b = torch.randn(2, 2, 6, 3, 4, 4)
    torch.testing.assert_close(attention(a, b), (a + b) / 2)


@pytest.mark.parametrize(
    ("backbone", "count", "some"),
    [
        ("bn_inception", 10, ("inception_3a_1x1", "inception_3c_3x3_reduce", "inception_5b_1x1")),
        ("inception_v3", 10, ("Mixed_5b.branch1x1.conv", "Mixed_7a.branch3x3_1.conv")),
        ("resnet18", 8, ("layer1.0.conv1", "layer4.1.conv1")),
        ("resnet50", 16, ("layer1.0.conv1", "layer4.2.conv1")),
        ("resnet101", 18, ("layer1.0.conv1", "layer1.2.conv1", "layer3.22.conv1")),
        ("small", 3, ("stage2.0", "stage4.0")),
    ],
)
def test_frames_are_mixed_at_the_published_places(
    backbone: str, count: int, some: tuple[str, ...]
) -> None:
    sites = temporal_sites(create_backbone(backbone))
    assert len(sites) == count
    assert set(some) <= set(sites)
    assert not any(site.startswith("Mixed_6d") for site in sites)


def test_a_backbone_without_such_places_is_refused() -> None:
    with pytest.raises(ValueError, match="'vgg16' has no convolution that could mix frames"):
        temporal_sites(create_backbone("vgg16"))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_an_image_classifiers_weights_still_load(mixing: Mixing) -> None:
    torch.manual_seed(0)
    plain, mixed = create_backbone("small"), create_backbone("small")
    insert_temporal_convs(mixed, mixing)
    mixed.load_weights(plain.state_dict())
    for name in temporal_sites(plain):
        weight = plain.get_parameter(f"{name}.weight")
        assert torch.equal(mixed.get_parameter(f"{name}.weight"), weight)


def test_clips_do_not_mix_with_each_other() -> None:
    torch.manual_seed(0)
    for mixing in MIXINGS:
        backbone = create_backbone("small").eval()
        insert_temporal_convs(backbone, mixing)
        set_frames(backbone, FRAMES)
        x = torch.randn(2 * FRAMES, 3, 32, 32)
        together = backbone(x)
        torch.testing.assert_close(together[FRAMES:], backbone(x[FRAMES:]), rtol=1e-4, atol=1e-5)
