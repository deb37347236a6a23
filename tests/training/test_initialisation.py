"""Weights that networks start from.

No published file is at hand: each format is made here, its names by rule and its shapes those of
the published network, from torchvision's networks where these are the same.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.video import r2plus1d_18, s3d

from models import VideoModel, create_model
from models.layers.slow_fast import Pathway
from study.data.clips.transforms import FLOW_STD
from study.training.checkpoint import save_checkpoint
from study.training.initialisation import StartReport, initial_network, load_starting_weights
from study.training.published_weights import read_published
from study.training.weights import read_state_dict

CLASSES = 4
RENAMED: dict[str, list[tuple[str, str]]] = {
    "tsn": [("^fc", "new_fc"), ("^(?!new_fc)", "base_model.")],
    "tsm": [
        ("^fc", "new_fc"),
        ("^(?!new_fc)", "base_model."),
        (r"(layer\d\.\d\.conv1)", r"\1.net"),
    ],
    "mmaction2": [
        ("^fc", "cls_head.fc_cls"),
        ("^(?!cls_head)", "backbone."),
        (r"conv(\d)\.", r"conv\1.conv."),
        (r"bn(\d)\.", r"conv\1.bn."),
        (r"downsample\.0", "downsample.conv"),
        (r"downsample\.1", "downsample.bn"),
    ],
    "S3D": [
        (r"^classifier\.1", "fc.0"),
        (r"^features", "base"),
        (r"(base\.(?:0|3)|branch[12]\.1)\.0\.0\.", r"\1.conv_s."),
        (r"(base\.(?:0|3)|branch[12]\.1)\.0\.1\.", r"\1.bn_s."),
        (r"(base\.(?:0|3)|branch[12]\.1)\.1\.0\.", r"\1.conv_t."),
        (r"(base\.(?:0|3)|branch[12]\.1)\.1\.1\.", r"\1.bn_t."),
        (r"(branch0|branch[12]\.0|branch3\.1|base\.2)\.0\.", r"\1.conv."),
        (r"(branch0|branch[12]\.0|branch3\.1|base\.2)\.1\.", r"\1.bn."),
        (r"branch0\.(conv|bn)", r"branch0.0.\1"),
    ],
}


def renamed(state_dict: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    result = {}
    for name, value in state_dict.items():
        for pattern, replacement in RENAMED[kind]:
            name = re.sub(pattern, replacement, name)
        result[name] = value
    return result


def image_network(channels: int, classes: int) -> nn.Module:
    """A ResNet-18 whose norms have statistics and scales of their own."""
    torch.manual_seed(3)
    net = resnet18(num_classes=classes)
    if channels != 3:
        net.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in (("running_var", 0.5, 2), ("running_mean", -1, 1)):
                nn.init.uniform_(module.get_buffer(values), low, high)
    return net.eval()


def start(model: VideoModel, state_dict: Mapping[str, Tensor], *streams: str) -> StartReport:
    report = load_starting_weights(model, state_dict, streams)
    assert report.used | report.left_out.keys() == state_dict.keys()
    assert not report.used & report.left_out.keys()
    return report


@pytest.mark.parametrize("kind", ["tsn", "mmaction2"])
@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_a_published_tsn_gives_its_own_logits(kind: str, stream: str) -> None:
    channels, name = (3, "rgb") if stream == "spatial" else (10, "flow")
    theirs = image_network(channels, CLASSES)
    model = create_model(
        "tsn", num_classes=CLASSES, backbone="resnet18", flow_length=5, streams=(stream,)
    ).eval()
    report = start(model, renamed(theirs.state_dict(), kind), stream)
    assert not report.left_out
    assert not report.drawn
    clip, tolerance = model.example_inputs(frames=2, size=64)[name], 1e-4
    given = clip
    if stream == "temporal" and kind == "mmaction2":  # bytes, less 128, divided by 128
        given = (clip * 255 * FLOW_STD + 127.5 - 128) / 128
        tolerance = 2e-2  # its padding is half a grey level from no motion
    with torch.no_grad():
        expected, logits = theirs(given[0]).mean(dim=0), model(**{name: clip}).logits[stream][0]
    torch.testing.assert_close(logits, expected, rtol=1e-3, atol=tolerance)


def test_a_published_tsm_is_our_network_with_the_shift_and_another_classifier_is_left_out() -> None:
    theirs = image_network(3, 400)
    model: Any = create_model("tsm", num_classes=CLASSES, backbone="resnet18", streams=("spatial",))
    report = start(model, renamed(theirs.state_dict(), "tsm"), "spatial")
    reason = "of a classifier of other classes: (400, 512) in the file and (4, 512) here"
    assert report.left_out["new_fc.weight"] == reason
    assert report.left_out.keys() == {"new_fc.weight", "new_fc.bias"}
    assert report.drawn == ("heads.spatial.1",)
    for name, value in model.backbones["spatial"].state_dict().items():
        assert torch.equal(value, theirs.state_dict()[name]), name


def bn_inception(*, gates: bool) -> dict[str, Tensor]:
    """The names of tsn-pytorch's, and of GSM's gates."""
    torch.manual_seed(4)
    net: Any = create_model("gsm", num_classes=CLASSES)
    state = {}
    for name, value in net.backbones["spatial"].state_dict().items():
        site, gate, rest = name.partition(".gated_shift.")
        rest = rest.replace("norm.", "bn.").replace("gate.", "conv3D.")
        if gates or not gate:
            key = f"base_model.gsm_{site}.{rest}" if gate else f"base_model.{name}"
            state[key] = torch.randn_like(value) if value.is_floating_point() else value
    return state | {"new_fc.weight": torch.randn(174, 1024), "new_fc.bias": torch.randn(174)}


def test_published_gates_are_taken_by_gsm_and_left_out_of_tsn() -> None:
    state = bn_inception(gates=True)
    gates = [name for name in state if name.startswith("base_model.gsm_")]
    assert len(gates) == 10 * 7
    model = create_model("gsm", num_classes=CLASSES)
    report = start(model, state, "spatial")
    assert report.left_out.keys() == {"new_fc.weight", "new_fc.bias"}
    gate = model.get_parameter("backbones.spatial.inception_3a_1x1.gated_shift.gate.weight")
    assert torch.equal(gate, state["base_model.gsm_inception_3a_1x1.conv3D.weight"])
    plain = create_model("tsn", num_classes=CLASSES, streams=("spatial",))
    report = start(plain, state, "spatial")
    assert {report.left_out[name] for name in gates} == {"this network has no such layer"}
    assert report.left_out.keys() - set(gates) == {"new_fc.weight", "new_fc.bias"}


I3D = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def pytorch_i3d(channels: int) -> dict[str, Tensor]:
    """The published names and shapes, as saved before norms counted their batches."""
    units = {
        "Conv3d_1a_7x7": (64, channels, 7),
        "Conv3d_2b_1x1": (64, 64, 1),
        "Conv3d_2c_3x3": (192, 64, 3),
    }
    for block, (before, one, reduce_a, three_a, reduce_b, three_b, pooled) in I3D.items():
        units |= {
            f"Mixed_{block}.b0": (one, before, 1),
            f"Mixed_{block}.b1a": (reduce_a, before, 1),
            f"Mixed_{block}.b1b": (three_a, reduce_a, 3),
            f"Mixed_{block}.b2a": (reduce_b, before, 1),
            f"Mixed_{block}.b2b": (three_b, reduce_b, 3),
            f"Mixed_{block}.b3b": (pooled, before, 1),
        }
    state = {}
    for name, (after, before, size) in units.items():
        state[f"{name}.conv3d.weight"] = torch.randn(after, before, size, size, size)
        for value in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.bn.{value}"] = torch.rand(after) + 0.5
    state["logits.conv3d.weight"] = torch.randn(400, 1024, 1, 1, 1)
    return state | {"logits.conv3d.bias": torch.randn(400)}


def test_published_i3ds_of_frames_and_of_flow_start_the_two_streams() -> None:
    torch.manual_seed(5)
    model = create_model("i3d", num_classes=CLASSES)
    for stream, channels in (("spatial", 3), ("temporal", 2)):
        state = pytorch_i3d(channels)
        report = start(model, state, stream)
        assert report.left_out.keys() == {"logits.conv3d.weight", "logits.conv3d.bias"}
        assert report.drawn == (f"heads.{stream}.1",)
        branch = model.get_parameter(f"nets.{stream}.mixed_4f.three_b.1.conv.weight")
        assert torch.equal(branch, state["Mixed_4f.b2b.conv3d.weight"])
    with pytest.raises(ValueError, match=r"conv1.conv.weight.* 2, 7, 7, 7.* 3, 7, 7, 7"):
        load_starting_weights(model, pytorch_i3d(2), ("spatial",))


def s3d_state() -> dict[str, Tensor]:
    return renamed(s3d(num_classes=CLASSES).state_dict(), "S3D")


@pytest.mark.parametrize(
    ("model", "options", "make"),
    [
        ("s3d", {}, s3d_state),
        ("s3d", {}, lambda: s3d(num_classes=CLASSES).state_dict()),
        (
            "r2plus1d",
            {"middle": "torchvision"},
            lambda: r2plus1d_18(num_classes=CLASSES).state_dict(),
        ),
    ],
    ids=["S3D", "torchvision's S3D", "torchvision's R(2+1)D"],
)
def test_published_3d_networks_are_used_to_the_last_tensor(
    model: str, options: dict[str, Any], make: Callable[[], dict[str, Tensor]]
) -> None:
    state = make()
    net: Any = create_model(model, num_classes=CLASSES, streams=("spatial",), **options)
    report = start(net, state, "spatial")
    assert not report.left_out
    assert not report.drawn
    own = [tuple(value.shape) for value in net.nets["spatial"].state_dict().values()]
    theirs = [tuple(value.shape) for name, value in state.items() if not re.match("fc|class", name)]
    assert sorted(own) == sorted(theirs)


def test_the_names_of_s3d_are_those_of_its_modules() -> None:
    names = set(s3d_state())
    assert {"base.0.conv_s.weight", "base.0.bn_t.running_var", "base.2.conv.weight"} <= names
    assert {"base.5.branch0.0.bn.weight", "base.15.branch2.1.conv_t.weight"} <= names
    assert {"base.8.branch1.0.conv.weight", "base.8.branch3.1.bn.bias", "fc.0.weight"} <= names


def test_a_published_slow_only_starts_the_slow_pathway() -> None:
    pathway = Pathway(64, (3, 4, 6, 3), stem_frames=1, block_frames=(1, 1, 3, 3))
    state = renamed(pathway.state_dict(), "mmaction2")
    assert state["backbone.layer3.0.conv1.conv.weight"].shape == (256, 512, 3, 1, 1)
    options = {"form": "slow_fast", "backbone": "resnet50", "levels": ()}
    model = create_model("attention_consistency", num_classes=CLASSES, **options)
    report = start(model, state, "spatial")
    assert not report.left_out
    assert report.drawn == ("heads.spatial.1",)
    with pytest.raises(ValueError, match="no weights for the fast pathway, temporal"):
        load_starting_weights(model, state, ("temporal",))


@pytest.mark.parametrize(
    ("state", "first", "shift", "theirs"),
    [
        (lambda: pytorch_i3d(3), "conv1.conv", "conv1.bn.running_mean", lambda v: 2 * v - 1),
        (lambda: pytorch_i3d(2), "conv1.conv", "conv1.bn.running_mean", lambda v: 2 * v - 1),
        (s3d_state, "features.0.0.0", "features.0.0.1.running_mean", lambda v: 2 * v - 1),
        (
            lambda: r2plus1d_18(num_classes=2).state_dict(),
            "stem.0",
            "stem.1.running_mean",
            lambda v: (
                (v - torch.tensor([0.43216, 0.394666, 0.37645]).reshape(3, 1, 1, 1))
                / torch.tensor([0.22803, 0.22145, 0.216989]).reshape(3, 1, 1, 1)
            ),
        ),
    ],
    ids=["I3D", "I3D of flow", "S3D", "torchvision"],
)
def test_the_first_layer_sees_what_it_was_trained_on(
    state: Any, first: str, shift: str, theirs: Any
) -> None:
    torch.manual_seed(6)
    published = read_published(state())
    assert published is not None
    kernel = published.body[f"{first}.weight"]
    channels = kernel.shape[1]
    stream = "spatial" if channels == 3 else "temporal"
    body = published.body_for(stream)
    v = torch.rand(channels, *kernel.shape[2:])
    own = (v - 0.5) / FLOW_STD
    if channels == 3:
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
        own = (v - mean.reshape(3, 1, 1, 1)) / std.reshape(3, 1, 1, 1)
    expected = (kernel * theirs(v)).flatten(1).sum(1) - published.body[shift]
    seen = (body[f"{first}.weight"] * own).flatten(1).sum(1) - body[shift]
    torch.testing.assert_close(seen, expected, rtol=1e-3, atol=1e-3)


def test_a_strange_tensor_and_another_flow_length_are_refused() -> None:
    state = renamed(image_network(10, CLASSES).state_dict(), "tsn")
    model = create_model("tsn", num_classes=CLASSES, backbone="resnet18", streams=("temporal",))
    message = r"conv1.weight is \(64, 10, 7, 7\) and should be \(64, 20, 7, 7\).*set flow_length"
    with pytest.raises(ValueError, match=message):
        load_starting_weights(model, state, ("temporal",))
    with pytest.raises(ValueError, match=r"look like weights of TSN or TSM .* have: lstm\.w"):
        load_starting_weights(model, state | {"lstm.w": torch.zeros(1)}, ("temporal",))


def small(seed: int, classes: int = CLASSES, **options: Any) -> VideoModel:
    return initial_network(
        "stilt",
        {"backbone": "small", "flow_length": 2, "head_dims": (8,), "attention_dim": 8, **options},
        num_classes=classes,
        seed=seed,
    )


def test_a_checkpoint_of_ours_starts_the_streams_that_are_named(tmp_path: Path) -> None:
    trained = small(1)
    save_checkpoint(tmp_path / "c.pt", {"model": trained.state_dict(), "history": []})
    state = read_state_dict(tmp_path / "c.pt")
    every = small(2)
    assert not start(every, state, "spatial", "temporal").left_out
    assert all(torch.equal(x, every.state_dict()[name]) for name, x in state.items())
    one, drawn = small(2), small(2)
    report = start(one, state, "temporal")
    for name, value in one.state_dict().items():
        source = state if "temporal" in name.split(".") else drawn.state_dict()
        assert torch.equal(value, source[name]), name
    assert set(report.left_out.values()) == {"of another stream"}


def test_another_dataset_keeps_its_classifier_and_another_network_its_own_layers() -> None:
    state = small(1).state_dict()
    report = start(small(2, 7), state, "spatial", "temporal")
    streams, kinds = ("spatial", "temporal"), ("weight", "bias")
    assert report.left_out.keys() == {f"heads.{s}.3.{kind}" for s in streams for kind in kinds}
    assert report.drawn == ("heads.spatial.3", "heads.temporal.3")
    plain = create_model("tsn", num_classes=CLASSES, backbone="small", flow_length=2)
    report = start(plain, state, "spatial", "temporal")
    assert "this network has no such tensor" in report.left_out.values()
    assert report.drawn == ("heads.spatial.1", "heads.temporal.1")


def test_a_checkpoint_of_ours_that_does_not_fit_is_refused() -> None:
    state = small(1).state_dict()
    message = r"stage1\.0\.weight is \(24, 4, 3, 3\) in the file and \(24, 6, 3, 3\) here"
    with pytest.raises(ValueError, match=message):
        load_starting_weights(small(2, flow_length=3), state, ("temporal",))
    spatial = {name: value for name, value in state.items() if "temporal" not in name}
    with pytest.raises(ValueError, match="no convolution of stream temporal of model 'stilt'"):
        load_starting_weights(small(2), spatial, ("temporal",))


def test_two_streams_start_from_two_files_as_each_alone() -> None:
    rgb, flow = (image_network(channels, 2).state_dict() for channels in (3, 4))
    options = {"backbone": "resnet18", "flow_length": 2}
    reports: list[StartReport] = []
    both = initial_network(
        "tsn",
        options,
        num_classes=CLASSES,
        seed=1,
        weights=[(rgb, ("spatial",)), (flow, ("temporal",))],
        report=reports.append,
    )
    assert [report.streams for report in reports] == [("spatial",), ("temporal",)]
    assert reports[0].left_out.keys() == {"fc.weight", "fc.bias"}
    for stream, state in (("spatial", rgb), ("temporal", flow)):
        alone = initial_network(
            "tsn",
            {**options, "streams": (stream,)},
            num_classes=CLASSES,
            seed=1,
            weights=[(state, (stream,))],
        )
        for name, value in alone.state_dict().items():
            assert torch.equal(both.state_dict()[name], value), name
