import dataclasses

import pytest
import torch
from torch import Tensor, nn

from models import (
    ModelOutput,
    VideoModel,
    create_model,
    list_models,
    make_options,
    model_options,
    register_model,
    registry,
)
from models.backbones import create_backbone
from models.checks import check_count, check_fields


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class _Options:
    width: int = 4
    sizes: tuple[int, ...] = (1,)

    def __post_init__(self) -> None:
        check_fields(self)
        check_count("width", self.width)


class _Toy(VideoModel):
    def __init__(self, options: _Options, *, num_classes: int) -> None:
        super().__init__(
            num_classes=num_classes,
            flow_length=3,
            min_frames=2,
            min_size=4,
            independent_streams=True,
        )
        self.heads = nn.ModuleDict()
        for stream, channels in (("spatial", 3), ("temporal", 6)):
            with self.own_seed(stream):
                self.heads[stream] = nn.Linear(channels, num_classes)
        self.common = nn.Linear(options.width, options.width)

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        used = self.check_inputs(rgb, flow)
        features = {"spatial": used["rgb"], "temporal": used["flow"]}
        features = {stream: x.mean(dim=(1, 3, 4)) for stream, x in features.items()}
        logits = {stream: self.heads[stream](x) for stream, x in features.items()}
        return ModelOutput(logits=logits, features=features)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(registry, "_MODELS", dict(registry._MODELS))
    register_model("toy", _Options)(_Toy)
    return "toy"


def test_a_registered_model_is_listed_and_built_by_name(toy: str) -> None:
    model = create_model(toy, num_classes=5, width=7)
    assert toy in list_models()
    assert list_models() == sorted(list_models())
    assert model_options(toy) is _Options
    assert isinstance(model, _Toy)
    assert model.model_name == "toy"
    assert model.training
    assert model(**model.example_inputs(size=8)).logits["temporal"].shape == (1, 5)


def test_a_name_is_taken_once(toy: str) -> None:
    with pytest.raises(ValueError, match="registered already"):
        register_model(toy, _Options)(_Toy)


def test_options_without_a_default_and_what_is_no_model_are_refused(toy: str) -> None:
    @dataclasses.dataclass
    class Needy:
        depth: int
        width: int = 3

    with pytest.raises(ValueError, match="option of model 'new' needs a default, but depth has"):
        register_model("new", Needy)(_Toy)
    with pytest.raises(ValueError, match="options of model 'new' must be a dataclass, but got"):
        register_model("new", dict)(_Toy)
    with pytest.raises(ValueError, match="model 'new' must be a VideoModel, but got"):
        register_model("new", _Options)(nn.Linear)  # type: ignore[type-var]
    assert "new" not in list_models()


def test_an_unknown_model_is_answered_with_those_there_are(toy: str) -> None:
    for ask in (lambda: create_model("stilts", num_classes=2), lambda: model_options("stilts")):
        with pytest.raises(ValueError, match=r"no model 'stilts'; there are .*stilt, .*toy"):
            ask()


def test_an_unknown_option_is_answered_with_those_there_are(toy: str) -> None:
    with pytest.raises(ValueError, match="'toy': unknown options depth; there are width, sizes"):
        make_options(toy, {"depth": 3, "width": 2})


def test_a_bad_value_is_answered_with_model_option_and_value(toy: str) -> None:
    with pytest.raises(
        ValueError, match="'toy': width must be a whole number of at least 1, got 0"
    ):
        create_model(toy, num_classes=2, width=0)
    with pytest.raises(ValueError, match="model 'toy': width must be a whole number, got 'wide'"):
        create_model(toy, num_classes=2, width="wide")


def test_options_come_from_json_lists(toy: str) -> None:
    assert make_options(toy, {"sizes": [2, 3]}) == _Options(sizes=(2, 3))


@pytest.mark.parametrize("num_classes", [1, 0, 2.0, True, "3"])
def test_a_wrong_number_of_classes_is_refused(toy: str, num_classes: int) -> None:
    with pytest.raises(ValueError, match="'toy': num_classes must be a whole number of at least 2"):
        create_model(toy, num_classes=num_classes)


def test_wrong_inputs_are_answered_with_model_what_it_takes_and_what_it_got(toy: str) -> None:
    model = create_model(toy, num_classes=2)
    good = model.example_inputs(batch_size=2, frames=3, size=8)
    model(**good)
    rgb, flow = good["rgb"], good["flow"]
    wrong = [
        ({"rgb": rgb}, r"takes rgb and flow, but flow is missing"),
        ({"rgb": rgb[0], "flow": flow}, r"rgb of the shape \(B, T, 3, H, W\), got \(3, 3, "),
        ({"rgb": rgb[:, :, :1], "flow": flow}, r"rgb of the shape .* got \(2, 3, 1, 8, 8\)"),
        (
            {"rgb": rgb, "flow": flow[:, :, :4]},
            r"\(B, T, 6, H, W\) \(two for each of 3 flow fields\), got \(2, 3, 4, 8, 8\)",
        ),
        ({"rgb": rgb[:, :1], "flow": flow}, r"with T at least 2, got \(2, 1, 3, 8, 8\)"),
        (
            {"rgb": rgb[:1], "flow": flow},
            r"the same \(B, T, H, W\), got \(1, 3, 8, 8\) and \(2, 3, 8, 8\)",
        ),
        ({"rgb": rgb, "flow": flow[:, :2]}, r"the same .* \(2, 3, 8, 8\) and \(2, 2, 8, 8\)"),
        ({"rgb": rgb, "flow": flow[..., 1:]}, r"the same .* \(2, 3, 8, 8\) and \(2, 3, 8, 7\)"),
        ({"rgb": rgb.byte(), "flow": flow}, r"rgb normalised, .* got torch\.uint8"),
        ({"rgb": rgb[..., :3], "flow": flow}, r"rgb of at least 4 × 4 px, got 8 × 3"),
    ]
    for inputs, message in wrong:
        with pytest.raises(ValueError, match=f"model 'toy' takes .*{message}|'toy' {message}"):
            model(**inputs)


def test_parameters_fall_into_disjoint_groups_by_stream(toy: str) -> None:
    model = create_model(toy, num_classes=2)
    groups = model.stream_parameters()
    assert {name: len(group) for name, group in groups.items()} == {
        "spatial": 2,
        "temporal": 2,
        "shared": 2,
    }
    together = [id(parameter) for group in groups.values() for parameter in group]
    assert sorted(together) == sorted(map(id, model.parameters()))


def test_own_seed_depends_on_the_seed_and_name_and_leaves_the_outer_stream_alone(toy: str) -> None:
    def draws(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(seed)
        model = create_model(toy, num_classes=2)
        state = torch.get_rng_state()
        with model.own_seed("a"):
            a = torch.rand(3)
        with model.own_seed("b"):
            b = torch.rand(3)
        assert torch.equal(state, torch.get_rng_state())
        return a, b, torch.rand(3)

    a, b, after = draws(0)
    again = draws(0)
    assert torch.equal(a, again[0])
    assert torch.equal(after, again[2])
    assert not torch.equal(a, b)
    assert not torch.equal(a, draws(1)[0])


class _TwoBackbones(VideoModel):
    def __init__(self, *, partial_bn: bool) -> None:
        super().__init__(num_classes=2, flow_length=2, partial_bn=partial_bn)
        self.backbones = nn.ModuleDict(
            {
                "spatial": create_backbone("resnet18"),
                "temporal": create_backbone("resnet18", in_channels=4),
            }
        )
        self.norm = nn.BatchNorm2d(3)


def test_partial_bn_trains_only_the_first_norm_of_each_backbone_and_those_outside() -> None:
    model = _TwoBackbones(partial_bn=True).train()
    norms = {
        name: layer for name, layer in model.named_modules() if isinstance(layer, nn.BatchNorm2d)
    }
    trained = [name for name, layer in norms.items() if layer.training]
    assert trained == ["backbones.spatial.bn1", "backbones.temporal.bn1", "norm"]
    assert [name for name, layer in norms.items() if layer.weight.requires_grad] == trained
    assert len(norms) == 2 * 20 + 1

    means = {name: layer.get_buffer("running_mean") for name, layer in norms.items()}
    before = {name: mean.clone() for name, mean in means.items()}
    for name, channels in (("spatial", 3), ("temporal", 4)):
        model.backbones[name](torch.randn(2, channels, 32, 32) + 1)
    moved = [name for name, mean in means.items() if not torch.equal(mean, before[name])]
    assert moved == trained[:2]

    model.eval()
    assert not any(layer.training for layer in norms.values())


def test_without_partial_bn_every_norm_trains() -> None:
    model = _TwoBackbones(partial_bn=False).train()
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_pretrained_weights_reach_every_backbone_and_need_one(toy: str) -> None:
    from torchvision.models import resnet18

    weights = resnet18(weights=None).state_dict()
    model = _TwoBackbones(partial_bn=False)
    model.load_backbone_weights(weights)
    for backbone in model.backbones.values():
        name = "layer4.1.conv2.weight"
        assert torch.equal(backbone.get_parameter(name), weights[name])
    with pytest.raises(ValueError, match="model 'toy' has no backbone"):
        create_model(toy, num_classes=2).load_backbone_weights(weights)


def test_lists_become_tuples_where_an_option_is_a_tuple_or_none() -> None:
    options = make_options("attention_consistency", {"levels": ["stage3", "stage4"]})
    assert options.levels == ("stage3", "stage4")
