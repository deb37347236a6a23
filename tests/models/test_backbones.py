from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.backbones import Backbone, create_backbone, cross_modality_start, list_backbones
from models.backbones.bn_inception import _halve
from models.flops import count_flops, count_parameters

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "vgg19")
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
# Features that enter torchvision's classifier, and that classifier's parameters and operations.
VGG_CLASSIFIER = 512 * 7 * 7 * 4096 + 4096 * 4096 + 4096 * 1000


def _classifier(name: str) -> Any:
    # VGG's own start would take seconds for its 120 million classifier weights.
    options = {"init_weights": False} if name.startswith("vgg") else {}
    return getattr(torchvision.models, name)(weights=None, **options)


def _assert_features_enter_the_pool(
    backbone: Backbone, classifier: Any, x: Tensor, **tolerance: Any
) -> None:
    seen: list[Tensor] = []
    classifier.avgpool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        classifier(x)
        torch.testing.assert_close(backbone(x), seen[0], **tolerance)


def _published(name: str) -> dict:
    return torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta


@pytest.mark.parametrize("name", list_backbones())
def test_stages_agree_with_their_channels_and_with_the_forward_pass(name: str) -> None:
    in_channels = 20
    backbone = create_backbone(name, in_channels=in_channels).eval()
    size = max(64, backbone.min_size + 1)
    x = torch.randn(2, in_channels, size, size + 3)
    with torch.no_grad():
        maps = backbone.forward_stages(x)
        last = backbone(x)
    assert tuple(maps) == backbone.stages
    for stage, stage_map in maps.items():
        assert stage_map.shape[:2] == (2, backbone.stage_channels[stage])
    sizes = [stage_map.shape[-1] for stage_map in maps.values()]
    assert sizes == sorted(sizes, reverse=True)
    assert torch.equal(last, maps[backbone.stages[-1]])
    assert last.shape[1] == backbone.num_features
    assert last.isfinite().all()


@pytest.mark.parametrize("name", list_backbones())
def test_the_smallest_size_works_and_one_below_is_refused(name: str) -> None:
    backbone = create_backbone(name).eval()
    low = backbone.min_size
    with torch.no_grad():
        assert backbone(torch.randn(1, 3, low, low)).isfinite().all()
    if low > 1:
        with pytest.raises(ValueError, match=f"'{name}' takes images of at least {low} × {low} px"):
            backbone(torch.randn(1, 3, low, low - 1))


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize("name", list_backbones())
def test_wrong_images_are_refused_with_the_backbones_name(name: str) -> None:
    backbone = create_backbone(name, in_channels=4)
    for x in (torch.zeros(1, 3, 99, 99), torch.zeros(4, 99, 99)):
        with pytest.raises(ValueError, match=rf"'{name}' takes images of the shape \(N, 4, H, W\)"):
            backbone(x)


def test_an_unknown_backbone_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no backbone 'resnet51'; there are bn_inception, "):
        create_backbone("resnet51")
    with pytest.raises(ValueError, match="in_channels must be a whole number of at least 1, got 0"):
        create_backbone("small", in_channels=0)


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize("name", TORCHVISION)
def test_sizes_are_the_published_ones(name: str) -> None:
    backbone = create_backbone(name)
    published = _published(name)
    if name.startswith("vgg"):
        classifier = VGG_CLASSIFIER
        parameters = classifier + 4096 + 4096 + 1000
    else:
        classifier = backbone.num_features * 1000
        parameters = classifier + 1000
    assert count_parameters(backbone) + parameters == published["num_params"]
    gmacs = count_flops(backbone, {"x": torch.zeros(1, 3, 224, 224)}) + classifier / 1e9
    assert gmacs == pytest.approx(published["_ops"], abs=2e-3)


@pytest.mark.parity("ResNet and VGG", "torchvision's networks, to their features")
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16"])
def test_loaded_weights_give_the_classifiers_own_features(name: str) -> None:
    torch.manual_seed(0)
    classifier = _classifier(name).eval()
    backbone = create_backbone(name).eval()
    backbone.load_weights(classifier.state_dict())
    _assert_features_enter_the_pool(backbone, classifier, torch.randn(2, 3, 64, 64))


def test_the_cross_modality_start_repeats_the_mean_over_colours() -> None:
    weight = torch.randn(4, 3, 5, 5)
    flow = cross_modality_start(weight, 6)
    assert flow.shape == (4, 6, 5, 5)
    for d in range(4):
        for c in range(6):
            for i in range(5):
                for j in range(5):
                    colours = [float(weight[d, colour, i, j]) for colour in range(3)]
                    assert float(flow[d, c, i, j]) == pytest.approx(sum(colours) / 3, abs=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_a_flow_backbone_starts_from_rgb_weights(name: str) -> None:
    weights = _classifier(name).state_dict()
    backbone = create_backbone(name, in_channels=20)
    backbone.load_weights(weights)
    first = f"{backbone.first_conv}.weight"
    loaded = backbone.state_dict()
    expected = weights[first].mean(dim=1)
    for channel in range(20):
        torch.testing.assert_close(loaded[first][:, channel], expected)
    assert all(torch.equal(loaded[key], weights[key]) for key in loaded if key != first)
    assert weights[first].shape[1] == 3


def test_weights_that_do_not_fit_are_refused_with_what_is_wrong() -> None:
    weights = dict(_classifier("resnet18").state_dict())
    backbone = create_backbone("resnet18")
    missing = {key: value for key, value in weights.items() if key != "layer2.0.conv1.weight"}
    with pytest.raises(
        ValueError, match=r"'resnet18': 1 keys missing \(layer2.0.conv1.weight\), 0 keys unknown"
    ):
        backbone.load_weights(missing)
    with pytest.raises(ValueError, match=r"0 keys missing, 1 keys unknown \(module.conv1.weight"):
        backbone.load_weights({**weights, "module.conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"bn1.bias is \(3,\) and should be \(64,\)"):
        backbone.load_weights({**weights, "bn1.bias": torch.zeros(3)})
    with pytest.raises(ValueError, match="backbone 'resnet50'"):
        create_backbone("resnet50").load_weights(weights)
    with pytest.raises(ValueError, match="keys missing"):
        backbone.load_weights({})


def test_refused_weights_change_nothing() -> None:
    backbone = create_backbone("resnet18")
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    weights = dict(_classifier("resnet18").state_dict())
    with pytest.raises(ValueError, match="bn1"):
        backbone.load_weights({**weights, "bn1.bias": torch.zeros(3)})
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())


def test_checkpoints_that_count_no_batches_load() -> None:
    weights = {
        key: value
        for key, value in _classifier("resnet18").state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    create_backbone("resnet18").load_weights(weights)


def test_layers_that_a_network_inserts_do_not_stop_pretrained_weights() -> None:
    class Gated(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(64, 64, 3, padding=1, bias=False)
            self.gate = nn.Parameter(torch.zeros(1))

    weights = _classifier("resnet18").state_dict()
    backbone = create_backbone("resnet18")
    backbone.get_submodule("layer1.0").conv1 = Gated()
    backbone.load_weights(weights)
    name = "layer1.0.conv1.weight"
    assert torch.equal(backbone.get_parameter(name), weights[name])


def test_the_small_backbone_sees_each_image_alone() -> None:
    backbone = create_backbone("small")
    x = torch.randn(4, 3, 56, 56)
    torch.testing.assert_close(backbone(x)[1:2], backbone(x[1:2]))
    assert isinstance(backbone, Backbone)


@pytest.mark.usefixtures("shapes_alone")
def test_inception_v3_has_the_published_size() -> None:
    backbone = create_backbone("inception_v3")
    published = _published("inception_v3")
    # The published count has the classifier and the auxiliary one (torchvision's, less 3 layers).
    auxiliary = (768 * 128 + 2 * 128) + (128 * 5 * 5 * 768 + 2 * 768) + (768 + 1) * 1000
    parameters = count_parameters(backbone) + (2048 + 1) * 1000 + auxiliary
    assert parameters == published["num_params"]
    gmacs = count_flops(backbone, {"x": torch.zeros(1, 3, 299, 299)}) + 2048 * 1000 / 1e9
    assert gmacs == pytest.approx(published["_ops"], abs=2e-3)


@pytest.mark.usefixtures("shapes_alone")
def test_bn_inception_has_the_published_size() -> None:
    backbone = create_backbone("bn_inception")
    # 11,295,240 with the 1000-way classifier; temporal segment networks give 16 GFLOPs for 8
    # frames.
    assert count_parameters(backbone) + (1024 + 1) * 1000 == 11_295_240
    gmacs = count_flops(backbone, {"x": torch.zeros(8, 3, 224, 224)})
    assert gmacs == pytest.approx(16.3, abs=0.1)


@pytest.mark.usefixtures("shapes_alone")
def test_vgg_m_has_the_published_size() -> None:
    backbone = create_backbone("vgg_m_2048").eval()
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 224, 224)).shape == (1, 512, 6, 6)
    # 102.9 million with the three fully connected layers of VGG-M, which differs in fc7 alone.
    connected = (6 * 6 * 512 + 1) * 4096 + (4096 + 1) * 4096 + (4096 + 1) * 1000
    assert count_parameters(backbone) + connected == 102_908_520


@pytest.mark.usefixtures("shapes_alone")
def test_bn_inception_has_the_layer_names_and_shapes_of_its_checkpoints() -> None:
    shapes = {
        key: tuple(v.shape) for key, v in create_backbone("bn_inception").state_dict().items()
    }
    convolutions = {
        key.removesuffix(".weight"): shape for key, shape in shapes.items() if len(shape) == 4
    }
    assert len(convolutions) == 3 + 8 * 7 + 2 * 5
    for name, (outputs, *_) in convolutions.items():
        assert shapes[f"{name}.bias"] == (outputs,)
        for part in ("weight", "bias", "running_mean", "running_var"):
            assert shapes[f"{name}_bn.{part}"] == (outputs,)
    for name, shape in {
        "conv1_7x7_s2": (64, 3, 7, 7),
        "conv2_3x3_reduce": (64, 64, 1, 1),
        "inception_3a_1x1": (64, 192, 1, 1),
        "inception_3a_pool_proj": (32, 192, 1, 1),
        "inception_3c_double_3x3_2": (96, 96, 3, 3),
        "inception_4c_pool_proj": (128, 576, 1, 1),
        "inception_4d_double_3x3_1": (192, 160, 3, 3),
        "inception_4e_3x3": (192, 128, 3, 3),
        "inception_5a_3x3_reduce": (192, 1056, 1, 1),
        "inception_5b_1x1": (352, 1024, 1, 1),
    }.items():
        assert convolutions[name] == shape
    assert "inception_3c_1x1" not in convolutions
    assert "inception_4e_pool_proj" not in convolutions


@pytest.mark.parametrize("size", [61, 64, 75, 97, 113])
def test_bn_inception_halves_any_size_alike_in_all_branches(size: int) -> None:
    backbone = create_backbone("bn_inception").eval()
    with torch.no_grad():
        maps = backbone.forward_stages(torch.randn(1, 3, size, size + 14))
    for axis in (2, 3):
        before, middle, last = [maps[stage].shape[axis] for stage in backbone.stages[2:]]
        assert (middle, last) == (-(-before // 2), -(-before // 4))


def test_the_halving_pool_takes_the_maximum_of_what_there_is() -> None:
    x = torch.rand(2, 3, 7, 10)
    pooled = _halve(x)
    assert pooled.shape == (2, 3, 4, 5)
    for i in range(4):
        for j in range(5):
            window = x[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            assert torch.equal(pooled[:, :, i, j], window.amax(dim=(2, 3)))


def _random_weights(backbone: Backbone) -> dict[str, Tensor]:
    """A checkpoint whose BatchNorm statistics aren't trivial."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: value + 0.1 * torch.rand(value.shape, generator=generator)
        if value.is_floating_point()
        else value
        for key, value in backbone.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "mean", "border"),
    [("bn_inception", (128, 117, 104), 1), ("vgg_m_2048", (123.68, 116.779, 103.939), 0)],
)
def test_caffe_checkpoints_see_the_images_that_they_were_trained_on(
    name: str, mean: tuple[float, float, float], border: int
) -> None:
    published = create_backbone(name).eval()
    weights = _random_weights(published)
    published.load_state_dict(weights)
    backbone = create_backbone(name).eval()
    backbone.load_weights({**weights, "fc.weight": torch.zeros(1)} if border else weights)

    image = torch.rand(1, 3, 64, 64)
    caffe = (image * 255 - torch.tensor(mean)[:, None, None]).flip(1)
    stage = backbone.stages[0]
    with torch.no_grad():
        expected = published.forward_stages(caffe)[stage]
        ours = backbone.forward_stages((image - IMAGENET_MEAN) / IMAGENET_STD)[stage]
    inside = (..., slice(border, -border or None), slice(border, -border or None))
    torch.testing.assert_close(ours[inside], expected[inside], rtol=1e-3, atol=1e-3)


@pytest.mark.parity("Inception v3", "torchvision's network, to its features")
def test_inception_v3_checkpoints_give_torchvisions_features() -> None:
    torch.manual_seed(0)
    classifier = torchvision.models.Inception3(
        transform_input=True, init_weights=False, num_classes=10
    ).eval()
    for module in classifier.modules():
        if isinstance(module, nn.Conv2d):  # or its features vanish, and agree with any others
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    backbone = create_backbone("inception_v3").eval()
    backbone.load_weights(classifier.state_dict())
    x = torch.randn(1, 3, 96, 96)
    _assert_features_enter_the_pool(backbone, classifier, x, rtol=1e-3, atol=1e-5)


def test_bn_inception_takes_the_flat_norms_of_old_checkpoints() -> None:
    backbone = create_backbone("bn_inception")
    weights = _random_weights(backbone)
    old = {
        key: value[None] if "_bn." in key and value.ndim else value
        for key, value in weights.items()
        if not key.endswith("num_batches_tracked")
    }
    backbone.load_weights(old)
    key = "inception_4e_3x3_bn.running_var"
    assert torch.equal(backbone.state_dict()[key], weights[key])


@pytest.mark.parametrize("name", ["bn_inception", "inception_v3", "vgg_m_2048"])
def test_flow_starts_from_the_scaled_mean_over_colours(name: str) -> None:
    weights = _random_weights(create_backbone(name))
    flow, rgb = create_backbone(name, in_channels=4), create_backbone(name)
    flow.load_weights(weights)
    rgb.load_weights(weights)
    first = f"{flow.first_conv}.weight"
    expected = rgb.state_dict()[first].mean(dim=1)
    for channel in range(4):
        torch.testing.assert_close(flow.state_dict()[first][:, channel], expected)
    # Flow is centred already: only RGB needs its mean shifted.
    moved = [
        key
        for key, value in flow.state_dict().items()
        if key != first and not torch.equal(value, weights[key])
    ]
    assert moved == []
