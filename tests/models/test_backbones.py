import pytest
import torch
import torchvision
from torch import Tensor, nn

from models.backbones import Backbone, create_backbone, cross_modality_start, list_backbones
from models.flops import count_flops, count_parameters

TORCHVISION = ("resnet18", "resnet34", "resnet50", "resnet101", "vgg16", "vgg19")
# Features that enter torchvision's classifier, and that classifier's parameters and operations.
VGG_CLASSIFIER = 512 * 7 * 7 * 4096 + 4096 * 4096 + 4096 * 1000


def _classifier(name: str) -> nn.Module:
    # VGG's own start would take seconds for its 120 million classifier weights.
    options = {"init_weights": False} if name.startswith("vgg") else {}
    return getattr(torchvision.models, name)(weights=None, **options)


def _published(name: str) -> dict:
    return torchvision.models.get_model_weights(name).IMAGENET1K_V1.meta


@pytest.mark.parametrize("name", list_backbones())
@pytest.mark.parametrize("in_channels", [3, 20])
def test_stages_agree_with_their_channels_and_with_the_forward_pass(
    name: str, in_channels: int
) -> None:
    backbone = create_backbone(name, in_channels=in_channels).eval()
    size = max(64, backbone.min_size)
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


@pytest.mark.parametrize("name", list_backbones())
def test_wrong_images_are_refused_with_the_backbones_name(name: str) -> None:
    backbone = create_backbone(name, in_channels=4)
    for x in (torch.zeros(1, 3, 99, 99), torch.zeros(4, 99, 99)):
        with pytest.raises(ValueError, match=rf"'{name}' takes images of the shape \(N, 4, H, W\)"):
            backbone(x)


def test_an_unknown_backbone_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no backbone 'resnet51'; there are small, resnet18"):
        create_backbone("resnet51")
    with pytest.raises(ValueError, match="`in_channels` must be at least 1, but got 0"):
        create_backbone("small", in_channels=0)


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


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg16"])
def test_loaded_weights_give_the_classifiers_own_features(name: str) -> None:
    torch.manual_seed(0)
    classifier = _classifier(name).eval()
    backbone = create_backbone(name).eval()
    backbone.load_weights(classifier.state_dict())
    x = torch.randn(2, 3, 64, 64)
    seen: list[Tensor] = []
    classifier.avgpool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        classifier(x)
        torch.testing.assert_close(backbone(x), seen[0])


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
    backbone.layer1[0].conv1 = Gated()
    backbone.load_weights(weights)
    assert torch.equal(backbone.layer1[0].conv1.weight, weights["layer1.0.conv1.weight"])


def test_the_small_backbone_sees_each_image_alone() -> None:
    backbone = create_backbone("small")
    x = torch.randn(4, 3, 56, 56)
    torch.testing.assert_close(backbone(x)[1:2], backbone(x[1:2]))
    assert isinstance(backbone, Backbone)
