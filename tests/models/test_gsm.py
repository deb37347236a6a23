"""Gate-shift networks: at their start a plain network with permuted channels."""

import pytest
import torch

from models import create_model
from models.flops import count_flops, count_parameters
from models.layers.shift import GatedShift
from tests.models.configuration import BOTH_STREAMS, Configuration

CONFIGURATIONS = {
    "gsm": Configuration(
        options=BOTH_STREAMS,
        frames=3,
        golden=(
            3.203984,
            2.814345,
            2.533258,
            2.412098,
            2.175452,
            1.843195,
            1.574587,
            1.381734,
            1.190357,
            1.008371,
        ),
    ),
}


@pytest.mark.usefixtures("shapes_alone")
def test_it_has_its_published_size() -> None:
    # BN-Inception, 8 frames, 174 classes: 10.5 million parameters, 16.5 GFLOPs (CVPR 2020).
    model = create_model("gsm", num_classes=174)
    assert count_parameters(model) == pytest.approx(10.5e6, rel=5e-3)
    assert count_flops(model, model.example_inputs(frames=8, size=224)) == pytest.approx(
        16.5, rel=0.02
    )


def test_at_its_start_no_frame_sees_another() -> None:
    torch.manual_seed(0)
    model = create_model("gsm", num_classes=4, backbone="small").eval()
    clip = model.example_inputs(frames=3, size=48)
    frames = [model(rgb=clip["rgb"][:, t : t + 1]).logits["spatial"] for t in range(3)]
    expected = torch.stack(frames).mean(dim=0)
    torch.testing.assert_close(model(**clip).logits["spatial"], expected)
    for module in model.modules():
        if isinstance(module, GatedShift):
            torch.nn.init.ones_(module.get_parameter("gate.bias"))
    assert not torch.allclose(model(**clip).logits["spatial"], expected)


def test_a_backbone_that_cannot_mix_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="model 'gsm': backbone must be one of 'small'"):
        create_model("gsm", num_classes=4, backbone="vgg16")
