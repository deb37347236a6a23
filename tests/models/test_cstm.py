"""The ablation's arms as networks, and that frames' order matters to those that mix them."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models import VideoModel, create_model
from models.backbones import create_backbone
from models.flops import count_parameters
from tests.models.configuration import BOTH_STREAMS, Configuration

CONFIGURATIONS = {
    "cstm": Configuration(
        options={**BOTH_STREAMS, "attention_reduction": 4},
        frames=3,
        golden=(
            3.931782,
            3.504814,
            2.999426,
            2.721208,
            2.649949,
            2.581856,
            2.419674,
            2.223358,
            2.094576,
            2.020567,
        ),
    ),
}

ARMS = ("2d", "shift", "3d", "3d_shift_sum", "gsm", "gsm_attention", "cstm")


def _model(**options: Any) -> Any:
    torch.manual_seed(0)
    options = {"backbone": "small", "attention_reduction": 4, **options}
    return create_model("cstm", num_classes=4, **options)


def _clips(model: VideoModel, frames: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return model.example_inputs(batch_size=2, frames=frames, size=48)


@pytest.mark.parametrize("arm", ARMS)
def test_only_the_plain_network_ignores_the_order_of_the_frames(arm: str) -> None:
    model = _model(module=arm).eval()
    for module in model.modules():
        if type(module).__name__ == "GatedShift":
            torch.nn.init.normal_(module.gate.weight)
        if getattr(module, "volume", None) is not None:
            torch.nn.init.normal_(module.volume.weight, std=0.05)
    clips = _clips(model)
    backwards = {name: x.flip(1) for name, x in clips.items()}
    same = torch.allclose(
        model(**clips).logits["spatial"], model(**backwards).logits["spatial"], atol=1e-5
    )
    assert same is (arm == "2d")


def test_the_plain_network_averages_its_frames() -> None:
    model = _model(module="2d").eval()
    clips = _clips(model)
    frames = [model(rgb=clips["rgb"][:, t : t + 1]).logits["spatial"] for t in range(4)]
    expected = torch.stack(frames).mean(dim=0)
    torch.testing.assert_close(model(**clips).logits["spatial"], expected)


@pytest.mark.parametrize("arm", ARMS)
def test_a_flow_stream_can_stand_beside(arm: str) -> None:
    both = _model(module=arm, streams=("spatial", "temporal"), flow_length=2).eval()
    assert both.independent_streams
    output = both(**_clips(both))
    assert list(output.logits) == ["spatial", "temporal"]


def test_loading_weights_inflates_the_volumes() -> None:
    torch.manual_seed(3)
    checkpoint = create_backbone("small").state_dict()
    for arm in ("3d", "3d_shift_sum", "cstm"):
        model = _model(module=arm)
        model.load_backbone_weights(checkpoint)
        volume = model.backbones["spatial"].get_submodule("stage2.0").volume
        assert torch.equal(volume.weight[:, :, 1], checkpoint["stage2.0.weight"])
        assert not volume.weight[:, :, 0].any()


@pytest.mark.parametrize("backbone", ["bn_inception", "inception_v3", "resnet50"])
def test_the_papers_backbones_take_the_module(backbone: str) -> None:
    model = _model(backbone=backbone).eval()
    output = model(**model.example_inputs(frames=2, size=96))
    assert output.logits["spatial"].isfinite().all()


@pytest.mark.usefixtures("shapes_alone")
def test_shifting_costs_no_parameter_and_a_gate_few() -> None:
    sizes = {arm: count_parameters(_model(backbone="bn_inception", module=arm)) for arm in ARMS}
    assert sizes["shift"] == sizes["2d"]
    # A gate has 2·C/2·27 weights and 2 biases, its BatchNorm 2·C, over the sites' outputs.
    outputs = [64, 64, 128, 224, 192, 160, 96, 128, 352, 352]
    assert sizes["gsm"] - sizes["2d"] == sum(29 * c + 2 for c in outputs)
    assert sizes["2d"] < sizes["gsm"] < sizes["gsm_attention"] < sizes["3d"] < sizes["cstm"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"module": "4d"}, "module must be one of '2d', 'shift'"),
        (
            {"shift_fraction": 0.6},
            "shift_fraction must be .* above 0 and at most 0.5, got 0.6",
        ),
        ({"attention_reduction": 0}, "attention_reduction must be a whole number of at least 1"),
        ({"backbone": "vgg16"}, "backbone must be one of 'small', 'resnet18'"),
        ({"streams": ()}, "streams must be one or more of"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"model 'cstm': {message}"):
        _model(**options)
