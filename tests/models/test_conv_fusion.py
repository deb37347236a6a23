"""Convolutional fusion against loops over channels, cells and frames."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import VideoModel, create_model
from models.conv_fusion import TowerFusion, bilinear
from tests.models.configuration import SMALL_BACKBONE, Configuration

CONFIGURATIONS = {
    "conv_fusion": Configuration(
        options={**SMALL_BACKBONE, "head_dims": (32, 32), "pool_frames": 2},
        interacts="one tower enters the other",
        golden=(
            3.923102,
            3.13027,
            2.952315,
            2.785728,
            2.666775,
            2.584507,
            2.400671,
            2.181605,
            1.994884,
            1.811314,
        ),
    ),
}

SMALL: dict[str, Any] = {"backbone": "small", "flow_length": 2, "head_dims": (16, 12)}
LAST = "stage4"


def _model(**options: Any) -> Any:
    torch.manual_seed(0)
    return create_model("conv_fusion", num_classes=4, **{**SMALL, **options})


def _clips(model: VideoModel, frames: int = 3, size: int = 48) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return model.example_inputs(batch_size=2, frames=frames, size=size)


def _maps(channels: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    return torch.randn(2, 4, channels, 3, 2), torch.randn(2, 4, channels, 3, 2)


def _fusion(method: str, *, conv: str = "3d", channels: int = 3) -> TowerFusion:
    return TowerFusion(method, channels, conv=conv, vectors=False)  # type: ignore[arg-type]


def test_sum_and_max_work_channel_by_channel() -> None:
    a, b = _maps()
    summed, highest = _fusion("sum")(a, b), _fusion("max")(a, b)
    for place in [(0, 0, 0, 0, 0), (1, 3, 2, 2, 1), (1, 2, 1, 0, 1)]:
        assert summed[place] == a[place] + b[place]
        assert highest[place] == max(a[place], b[place])


def test_concatenation_interleaves_the_channels() -> None:
    a, b = _maps()
    stacked = _fusion("cat")(a, b)
    assert stacked.shape == (2, 4, 6, 3, 2)
    for d in range(3):
        assert torch.equal(stacked[:, :, 2 * d], a[:, :, d])
        assert torch.equal(stacked[:, :, 2 * d + 1], b[:, :, d])


def test_a_two_dimensional_convolution_starts_as_the_weighted_sum() -> None:
    a, b = _maps()
    expected = (0.25 * a + 0.75 * b).clamp(min=0)
    torch.testing.assert_close(_fusion("conv", conv="2d")(a, b), expected)


@pytest.mark.parity("Convolutional fusion", "the 3-D fusion layer")
def test_a_three_dimensional_convolution_smooths_over_frames_and_cells() -> None:
    a, b = _maps(channels=1)
    with torch.no_grad():
        fused = _fusion("conv", channels=1)(a, b)
    mixed = 0.25 * a + 0.75 * b
    bell = torch.tensor([-1.0, 0.0, 1.0]).square().div(-2).exp()
    bell = bell / bell.sum()
    for t in range(4):
        for i in range(3):
            for j in range(2):
                total = torch.zeros(2)
                for dt in range(3):
                    for di in range(3):
                        for dj in range(3):
                            place = (t + dt - 1, i + di - 1, j + dj - 1)
                            if all(0 <= p < n for p, n in zip(place, (4, 3, 2), strict=True)):
                                weight = bell[dt] * bell[di] * bell[dj]
                                total += weight * mixed[:, place[0], 0, place[1], place[2]]
                torch.testing.assert_close(fused[:, t, 0, i, j], total.clamp(min=0))


@pytest.mark.parity("Convolutional fusion", "bilinear fusion")
def test_bilinear_fusion_sums_outer_products_over_cells() -> None:
    torch.manual_seed(0)
    a, b = torch.rand(2, 3, 5), torch.rand(2, 4, 5) - 0.5
    expected = torch.zeros(2, 3, 4)
    for n in range(5):
        for d in range(3):
            for e in range(4):
                expected[:, d, e] += a[:, d, n] * b[:, e, n]
    expected = expected.flatten(1)
    expected = expected.sign() * expected.abs().sqrt()
    expected = expected / expected.pow(2).sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(bilinear(a, b), expected, atol=1e-4, rtol=1e-4)


def test_bilinear_gradients_are_finite_where_a_channel_is_silent() -> None:
    a, b = torch.zeros(1, 2, 3, requires_grad=True), torch.rand(1, 2, 3)
    bilinear(a, b)[0, 1].backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


@pytest.mark.parity("Convolutional fusion", "the final network behind its towers")
def test_the_final_net_is_fused_pooled_and_classified_as_the_paper_draws_it() -> None:
    model = _model(pool_frames=2).eval()
    clips = _clips(model)
    spatial, temporal = (
        torch.stack([model.backbones[s](x[:, t]) for t in range(3)], dim=1)
        for s, x in (("spatial", clips["rgb"]), ("temporal", clips["flow"]))
    )
    fused = model.fusions[LAST](spatial, temporal)
    output = model(**clips)
    for stream, maps in (("spatial", fused), ("temporal", temporal)):
        windows = [maps[:, :2].amax(dim=1), maps[:, 2]]
        hidden = [model.heads[stream][:6](w.mean(dim=(2, 3))) for w in windows]
        feature = (hidden[0] + hidden[1]) / 2
        torch.testing.assert_close(output.features[stream], feature)
        torch.testing.assert_close(output.logits[stream], model.heads[stream][6](feature))


def test_two_dimensional_pooling_averages_the_frames_classifications() -> None:
    model = _model(pool="2d", conv="2d").eval()
    clips = _clips(model)
    one_by_one = [model(**{name: x[:, t : t + 1] for name, x in clips.items()}) for t in range(3)]
    for stream, logits in model(**clips).logits.items():
        mean = torch.stack([output.logits[stream] for output in one_by_one]).mean(dim=0)
        torch.testing.assert_close(logits, mean)


def test_vgg_pools_to_its_own_grid_and_takes_its_classifier() -> None:
    options = {"backbone": "vgg16", "head_dims": (8, 8), "flow_length": 1}
    model = _model(**options).eval()
    assert model.layers == ("relu5_3",)
    assert model.heads["spatial"][0].in_features == 512 * 7 * 7
    checkpoint = {
        **{k: torch.randn_like(v) for k, v in model.backbones["spatial"].state_dict().items()},
        "classifier.0.weight": torch.randn(8, 512 * 7 * 7), "classifier.0.bias": torch.randn(8),
        "classifier.3.weight": torch.randn(5, 8), "classifier.3.bias": torch.randn(5),
    }  # fmt: skip
    untouched = model.heads["temporal"][3].weight.clone()
    model.load_backbone_weights(checkpoint)
    for stream in ("spatial", "temporal"):
        assert torch.equal(model.heads[stream][0].weight, checkpoint["classifier.0.weight"])
    assert torch.equal(model.heads["temporal"][3].weight, untouched)
    assert torch.equal(
        model.backbones["temporal"].features[0].weight[:, 0],
        checkpoint["features.0.weight"].mean(dim=1),
    )


def test_towers_of_two_kinds_meet_at_the_layer_of_the_same_number() -> None:
    model = _model(
        backbone="vgg16", temporal_backbone="vgg_m_2048", head_dims=(8,), head_grid=1, towers=1
    ).eval()
    clips = _clips(model, frames=2, size=64)
    assert model(**clips).logits["spatial"].shape == (2, 4)
    before = {k: v.clone() for k, v in model.backbones["spatial"].state_dict().items()}
    temporal = model.backbones["temporal"]
    checkpoint = {k: torch.randn_like(v) for k, v in temporal.state_dict().items()}
    model.load_backbone_weights(checkpoint)
    after = model.backbones["spatial"].state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert torch.equal(temporal.features[-3].weight, checkpoint["features.12.weight"])


def test_weights_that_fit_no_tower_are_refused() -> None:
    model = _model(backbone="vgg16", temporal_backbone="vgg_m_2048", head_dims=(8,), head_grid=1)
    with pytest.raises(ValueError, match="the weights don't fit backbone 'vgg16'"):
        model.load_backbone_weights({"conv1.weight": torch.zeros(1)})


@pytest.mark.parametrize("layer", ["stage1", "stage2", "stage3", LAST])
@pytest.mark.parametrize("method", ["sum", "max", "conv"])
def test_fusion_at_any_layer_reaches_every_parameter_that_is_trained(
    layer: str, method: str
) -> None:
    model = _model(layers=(layer,), method=method, towers=1)
    for head in model.heads.values():
        head.eval()
    model(**_clips(model)).logits["spatial"].square().sum().backward()
    trained = {k: p for k, p in model.named_parameters() if p.requires_grad}
    assert [k for k, p in trained.items() if p.grad is None] == []
    idle = {k.split(".")[2] for k, p in model.named_parameters() if not p.requires_grad}
    assert idle == {f"stage{i}" for i in range(int(layer[-1]) + 1, 5)}


def test_fusion_at_several_layers_and_in_the_classifier() -> None:
    model = _model(layers=("stage3", LAST, "fc6", "fc8"), method="sum", towers=1, pool="2d").eval()
    clips = _clips(model, frames=1)
    spatial, temporal = clips["rgb"][:, 0], clips["flow"][:, 0]
    for i in range(1, 5):
        spatial = model.backbones["spatial"].get_submodule(f"stage{i}")(spatial)
        temporal = model.backbones["temporal"].get_submodule(f"stage{i}")(temporal)
        if i >= 3:
            spatial = spatial + temporal
    s, t = (
        model.heads[stream][:2](x.mean(dim=(2, 3)))
        for stream, x in (("spatial", spatial), ("temporal", temporal))
    )
    s = s + t
    s, t = model.heads["spatial"][3:5](s), model.heads["temporal"][3:5](t)
    expected = model.heads["spatial"][6](s) + model.heads["temporal"][6](t)
    output = model(**clips)
    torch.testing.assert_close(output.logits["spatial"], expected)
    assert list(output.logits) == ["spatial"]


def test_convolution_of_logits_starts_as_their_weighted_sum() -> None:
    model = _model(layers=(LAST, "fc8"), method="conv").eval()
    output = model(**_clips(model))
    spatial = model.heads["spatial"][6](output.features["spatial"])
    expected = 0.25 * spatial + 0.75 * output.logits["temporal"]
    torch.testing.assert_close(output.logits["spatial"], expected)
    assert (output.logits["spatial"] < 0).any()


@pytest.mark.parametrize("pool", ["2d", "3d"])
def test_bilinear_features_have_length_one_a_window(pool: str) -> None:
    model = _model(method="bilinear", pool=pool, towers=2).eval()
    output = model(**_clips(model, frames=1))
    assert output.features["spatial"].shape == (2, 96 * 96)
    norms = output.features["spatial"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(2))


def test_three_dimensional_bilinear_pooling_sums_over_all_frames() -> None:
    model = _model(method="bilinear", pool="3d", towers=1).eval()
    clips = _clips(model)
    a, b = (
        torch.cat([model.backbones[s](x[:, t]).flatten(2) for t in range(3)], dim=2)
        for s, x in (("spatial", clips["rgb"]), ("temporal", clips["flow"]))
    )
    torch.testing.assert_close(model(**clips).features["spatial"], bilinear(a, b))


def test_frozen_towers_get_no_gradient_and_keep_their_statistics() -> None:
    model = _model(backbone="resnet18", freeze_towers=True, head_dims=(8,), dropout=0.0).train()
    before = {k: v.clone() for k, v in model.backbones.state_dict().items()}
    output = model(**_clips(model, size=64))
    sum(x.square().sum() for x in output.logits.values()).backward()
    assert all(p.grad is None for p in model.backbones.parameters())
    assert model.fusions["layer4"].conv.weight.grad.any()
    after = model.backbones.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize(
    ("options", "spatial", "temporal"),
    [
        ({"layers": ("layer2",), "towers": 1}, ("layer3", "layer4"), ()),
        ({"layers": ("layer2",), "towers": 2}, ("layer3", "layer4"), ("layer3", "layer4")),
        ({"layers": ("layer2", "layer4"), "towers": 1}, ("layer3", "layer4"), ("layer3", "layer4")),
        ({"layers": ("layer2", "layer3"), "towers": 1}, ("layer3", "layer4"), ("layer3",)),
        ({"layers": ("layer4",), "towers": 2}, (), ()),
    ],
)
def test_what_follows_the_first_fusion_layer_learns(
    options: dict[str, Any], spatial: tuple[str, ...], temporal: tuple[str, ...]
) -> None:
    """By hand, of towers with batch normalisation: what is before it keeps its statistics too."""
    model = _model(backbone="resnet18", freeze_towers=True, head_dims=(8,), **options).train()
    for stream, expected in {"spatial": spatial, "temporal": temporal}.items():
        tower = model.backbones[stream]
        learning = {n.split(".")[0] for n, p in tower.named_parameters() if p.requires_grad}
        assert learning == set(expected)
        norms = {
            name.split(".")[0]
            for name, layer in tower.named_modules()
            if isinstance(layer, torch.nn.BatchNorm2d) and layer.training
        }
        assert norms == set(expected)


def test_default_is_the_papers_final_net() -> None:
    torch.manual_seed(0)
    model: Any = create_model("conv_fusion", num_classes=101, head_dims=(4,))
    assert model.streams == ("spatial", "temporal")
    conv = model.fusions["relu5_3"].conv
    assert conv.weight.shape == (512, 1024, 3, 3, 3)
    assert model.options.pool_frames == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ("stage9",)}, "layers must be some of stage1, stage2, stage3, stage4, fc6"),
        ({"layers": ("stage4", "stage4")}, "layers must be some of .* none twice"),
        ({"method": "cat", "layers": ("stage2",)}, r"method='cat' needs layers=\('stage4',\)"),
        ({"method": "bilinear", "layers": ("fc6",)}, "method='bilinear' needs layers="),
        ({"temporal_backbone": "vgg16"}, "the temporal tower 'vgg16' has no layer like 'stage4'"),
        ({"temporal_backbone": "alexnet"}, "temporal_backbone must be one of"),
        ({"towers": 3}, "towers must be one of 1, 2, got 3"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"model 'conv_fusion': {message}"):
        _model(**options)


def test_towers_of_other_channels_can_only_be_fused_bilinearly() -> None:
    options = {"backbone": "resnet18", "temporal_backbone": "resnet50", "head_dims": (8,)}
    with pytest.raises(ValueError, match="has 512 and 'layer4' of the temporal one 2048"):
        _model(**options)
    model = _model(**options, method="bilinear").eval()
    assert model(**_clips(model)).logits["spatial"].shape == (2, 4)


def test_the_pools_windows_cover_every_frame() -> None:
    model = _model(pool_frames=5).eval()
    maps = torch.randn(2 * 7, 96, 3, 3)
    pooled = model._pool("temporal", maps, 7)
    frames = maps.unflatten(0, (2, 7))
    windows = torch.stack([frames[:, :5].amax(dim=1), frames[:, 5:].amax(dim=1)], dim=1)
    torch.testing.assert_close(
        pooled, F.adaptive_avg_pool2d(windows.flatten(0, 1), 1).reshape(2, 2, 96)
    )
