"""The attention-consistency loss against loops, and SlowFast against its published figures."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import resnet50

from models import VideoModel, create_model
from models.attention_consistency import activation_energy, attention_distance, class_activation
from models.flops import count_flops, count_parameters
from models.layers.slow_fast import Lateral, Pathway
from tests.models.configuration import SMALL_BACKBONE, Configuration

CONFIGURATIONS = {
    "attention_consistency": Configuration(
        options={**SMALL_BACKBONE, "speed_ratio": 2, "channel_ratio": 4},
        frames=3,
        interacts="a loss compares them",
        golden=(
            3.336545,
            2.016388,
            1.350999,
            1.021749,
            0.836238,
            0.688203,
            0.554606,
            0.451695,
            0.368172,
            0.295482,
        ),
    ),
}

SMALL: dict[str, Any] = {"backbone": "small", "flow_length": 2, "speed_ratio": 2}


def _model(**options: Any) -> Any:
    torch.manual_seed(0)
    options = {"channel_ratio": 4, **SMALL, **options}
    return create_model("attention_consistency", num_classes=4, **options)


def _clips(model: VideoModel, frames: int = 4, size: int = 48) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return model.example_inputs(batch_size=2, frames=frames, size=size)


def _loss(model: VideoModel, clips: dict[str, Tensor]) -> Tensor:
    return model(**clips).auxiliary_losses["attention_consistency"]


def test_activation_energy_is_the_mean_square_over_channels() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 5, 3, 2, 2)
    energy = activation_energy(maps)
    expected = sum(maps[1, c, 2, 0, 1].item() ** 2 for c in range(5)) / 5
    assert energy[1, 2, 0, 1].item() == pytest.approx(expected, rel=1e-5)


def test_a_class_activation_map_averages_to_the_classs_logit() -> None:
    torch.manual_seed(0)
    maps, weight = torch.rand(2, 5, 3, 2, 2), torch.rand(2, 5)
    pooled = maps.mean(dim=(2, 3, 4))
    activation = class_activation(maps, weight)
    torch.testing.assert_close(activation.mean(dim=(1, 2, 3)), (pooled * weight).sum(dim=1))
    assert not class_activation(maps, -weight).any()


@pytest.mark.parametrize("distance", ["mse", "cosine", "kl"])
def test_distances_agree_with_a_loop_over_frames_and_cells(distance: str) -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, 3, 2, 2) + 0.1, torch.rand(2, 3, 2, 2) + 0.1
    ours = attention_distance(a, b, distance)  # type: ignore[arg-type]
    for clip in range(2):
        total = 0.0
        for t in range(3):
            x, y = a[clip, t].flatten().tolist(), b[clip, t].flatten().tolist()
            if distance == "kl":
                p, q = ([v / sum(z) for v in z] for z in (x, y))
                total += sum(v * math.log(v / w) for v, w in zip(p, q, strict=True))
                continue
            x, y = ([v / math.hypot(*z) for v in z] for z in (x, y))
            if distance == "mse":
                total += sum((v - w) ** 2 for v, w in zip(x, y, strict=True)) / 4
            else:
                total += 1 - sum(v * w for v, w in zip(x, y, strict=True))
        assert ours[clip].item() == pytest.approx(total / 3, rel=1e-3)


@pytest.mark.parametrize("distance", ["mse", "cosine", "kl"])
def test_the_distance_of_a_map_from_a_multiple_of_itself_is_zero(distance: str) -> None:
    a = torch.rand(2, 3, 4, 4)
    assert attention_distance(a, 7 * a, distance).abs().max() < 1e-6  # type: ignore[arg-type]
    assert attention_distance(a, torch.zeros_like(a), distance).isfinite().all()  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["slow_fast", "two_stream"])
@pytest.mark.parametrize("attention", ["activation", "cam"])
def test_with_a_stopped_gradient_the_spatial_stream_feels_nothing_of_the_loss(
    form: str, attention: str
) -> None:
    for stop_gradient in (True, False):
        model = _model(form=form, map=attention, stop_gradient=stop_gradient).eval()
        _loss(model, _clips(model)).sum().backward()
        groups = model.stream_parameters()
        spatial = [p.grad for p in groups["spatial"] if p.grad is not None]
        assert any(p.grad is not None and p.grad.any() for p in groups["temporal"])
        assert any(grad.any() for grad in spatial) is not stop_gradient


def test_the_loss_sums_over_the_levels() -> None:
    parts = []
    for levels in (("stage2",), ("stage4",), ("stage2", "stage4")):
        model = _model(form="two_stream", levels=levels).eval()
        parts.append(_loss(model, _clips(model)))
    torch.testing.assert_close(parts[0] + parts[1], parts[2])


def test_the_two_stream_loss_compares_each_frame_with_its_flow() -> None:
    model = _model(form="two_stream", levels=("stage3",)).eval()
    clips = _clips(model, frames=3)
    expected = torch.zeros(2)
    for t in range(3):
        a, b = (
            model.towers[stream].forward_stages(clips[name][:, t])["stage3"].square().mean(dim=1)
            for stream, name in (("spatial", "rgb"), ("temporal", "flow"))
        )
        a, b = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (a, b))
        expected += (a - b).square().mean(dim=1) / 3
    torch.testing.assert_close(_loss(model, clips), expected)


def test_both_activation_maps_are_of_the_class_that_the_spatial_stream_predicts() -> None:
    model = _model(form="two_stream", map="cam").eval()
    clips = _clips(model, frames=2)
    with torch.no_grad():
        for stream, predicted in (("spatial", 1), ("temporal", 3)):
            model.heads[stream][-1].bias[predicted] = 100.0
        expected = torch.zeros(2)
        for t in range(2):
            a, b = (
                torch.einsum(
                    "bchw,c->bhw",
                    model.towers[stream](clips[name][:, t]),
                    model.heads[stream][-1].weight[1],
                ).clamp(min=0)
                for stream, name in (("spatial", "rgb"), ("temporal", "flow"))
            )
            a, b = (x.flatten(1) / x.flatten(1).norm(dim=1, keepdim=True) for x in (a, b))
            expected += (a - b).square().mean(dim=1) / 2
        torch.testing.assert_close(_loss(model, clips), expected)


def test_a_period_of_fast_frames_meets_its_slow_frame() -> None:
    model = _model(speed_ratio=2)
    attention = torch.arange(5.0).reshape(1, 5, 1, 1)
    means = model._mean_over_periods(attention).flatten()
    assert means.tolist() == [0.5, 2.5, 4.0]
    wide = _model(speed_ratio=8)
    assert wide._mean_over_periods(attention).flatten().tolist() == [2.0]


@pytest.mark.parametrize("frames", [1, 3, 4, 5])
def test_the_slow_pathway_sees_every_alpha_th_frame(frames: int) -> None:
    model = _model(levels=()).eval()
    clips = _clips(model, frames=frames)
    shown = {"rgb": clips["rgb"].clone()}
    shown["rgb"][:, 1::2] = 0
    before, after = model(**clips), model(**shown)
    torch.testing.assert_close(before.logits["spatial"], after.logits["spatial"])
    if frames > 1:
        assert not torch.allclose(before.logits["temporal"], after.logits["temporal"])


def test_lateral_connections_carry_the_fast_pathway_to_the_one_classifier() -> None:
    model = _model(lateral=True, levels=()).eval()
    output = model(**_clips(model, frames=5))
    assert list(output.logits) == ["spatial"]
    assert output.features["spatial"].shape == (2, 24 * 32 + 6 * 32)
    assert not model.independent_streams


@pytest.mark.parity("SlowFast", "a lateral connection")
def test_a_lateral_connection_sees_five_fast_frames_around_each_slow_one() -> None:
    torch.manual_seed(0)
    lateral = Lateral(3, 2).eval()
    slow, fast = torch.randn(2, 4, 3, 2, 2), torch.randn(2, 3, 5, 2, 2)
    ours = lateral(slow, fast)
    assert torch.equal(ours[:, :4], slow)
    kernel = lateral.conv.weight[:, :, :, 0, 0]  # (6, 3, 5)
    for k in range(3):
        total = torch.zeros(2, 6, 2, 2)
        for d in range(5):
            t = 2 * k + d - 2
            if 0 <= t < 5:
                total += torch.einsum("oc,bchw->bohw", kernel[:, :, d], fast[:, :, t])
        expected = (total / (1 + 1e-5) ** 0.5).clamp(min=0)
        torch.testing.assert_close(ours[:, 4:, k], expected)


def test_streams_are_independent_only_without_loss_and_lateral_connections() -> None:
    assert _model(levels=()).independent_streams
    assert not _model().independent_streams
    assert _model(levels=())(**_clips(_model())).auxiliary_losses == {}


def test_the_last_three_stages_are_compared_by_default_and_the_last_with_cam() -> None:
    assert _model().levels == ("layer2", "layer3", "layer4")
    assert _model(form="two_stream").levels == ("stage2", "stage3", "stage4")
    assert _model(form="two_stream", map="cam").levels == ("stage4",)


@pytest.mark.usefixtures("shapes_alone")
def test_slow_fast_has_its_published_size() -> None:
    # SlowFast 4×16, R50, 256² crops: 36.1 GFLOPs (ICCV 2019, Table 5), 34.5 million parameters.
    flops = {}
    for lateral in (True, False):
        model = create_model("attention_consistency", num_classes=400, lateral=lateral, levels=())
        flops[lateral] = count_flops(model, model.example_inputs(frames=32, size=256))
        if lateral:
            assert count_parameters(model) == pytest.approx(34.5e6, rel=2e-3)
    assert flops[True] == pytest.approx(36.1, abs=0.05)
    # The published saving is 7.1 %; these two networks differ by 5.4 %.
    assert 1 - flops[False] / flops[True] == pytest.approx(0.054, abs=1e-3)


def test_two_dimensional_weights_are_inflated_to_the_slow_pathway() -> None:
    torch.manual_seed(0)
    checkpoint = resnet50(weights=None).state_dict()
    model = _model(backbone="resnet50", levels=()).eval()
    fast = model.towers["temporal"].conv1.weight.clone()
    model.load_backbone_weights(checkpoint)
    assert torch.equal(model.towers["temporal"].conv1.weight, fast)
    slow = model.towers["spatial"]
    torch.testing.assert_close(
        slow.layer3[0].conv1.weight.sum(dim=2), checkpoint["layer3.0.conv1.weight"]
    )
    net = resnet50(weights=None).eval()
    net.load_state_dict(checkpoint)
    image = torch.randn(1, 3, 64, 64)
    maps = image.unsqueeze(2).expand(-1, -1, 5, -1, -1)
    for stage in ("stem", "layer1", "layer2"):
        maps = slow.forward_stage(stage, maps)
    expected = net.maxpool(net.relu(net.bn1(net.conv1(image))))
    expected = net.layer2(net.layer1(expected))
    torch.testing.assert_close(maps[:, :, 2], expected, rtol=1e-3, atol=1e-4)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(ValueError, match="the weights don't fit the pathway"):
        _model().load_backbone_weights(resnet50(weights=None).state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": ("layer9",)}, "levels must be some of stem, layer1, .* got layer9"),
        ({"map": "cam", "levels": ("layer2",)}, r"map='cam' needs levels=\('layer4',\)"),
        ({"form": "two_stream", "lateral": True}, "lateral needs form='slow_fast'"),
        ({"map": "cam", "lateral": True}, "map='cam' needs a classifier for each stream"),
        ({"backbone": "vgg16"}, "backbone must be one of 'resnet50', 'small'"),
        ({"distance": "l1"}, "distance must be one of 'mse', 'cosine', 'kl'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"model 'attention_consistency': {message}"):
        _model(**options)


def test_a_pathways_blocks_start_as_their_shortcuts() -> None:
    pathway: Any = Pathway(4, (2, 1, 1, 1), stem_frames=1, block_frames=(1, 1, 3, 3))
    x = torch.rand(1, 4, 2, 8, 8)
    first, second = pathway.layer1
    expected = first.downsample(x).relu()
    torch.testing.assert_close(first(x), expected)
    torch.testing.assert_close(second(expected), expected)
