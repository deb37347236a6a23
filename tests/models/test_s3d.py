"""S3D's head and S3D-G's gates."""

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from models import create_model
from models.flops import count_parameters
from tests.models.configuration import Configuration

CONFIGURATIONS = {
    "s3d": Configuration(
        frames=4,
        golden=(
            1.859525,
            1.790863,
            2.042342,
            1.79166,
            1.087887,
            0.78932,
            0.676765,
            0.124461,
            0.051697,
            0.040764,
        ),
    ),
    "s3d_g": Configuration(
        frames=4,
        golden=(
            1.702658,
            1.762866,
            1.552544,
            1.493098,
            1.215142,
            1.25293,
            0.643442,
            0.489719,
            0.319382,
            0.117234,
        ),
    ),
}


def test_a_gate_scales_each_channel_by_what_the_clip_holds() -> None:
    model: Any = create_model("s3d_g", num_classes=4)
    gates = [m for m in model.modules() if type(m).__name__ == "SelfGating"]
    # One for each temporal convolution: the stem's two, and two in each of nine blocks.
    assert len(gates) == 20
    gate, x = gates[0], torch.randn(2, 64, 3, 4, 4)
    for clip in range(2):
        z = torch.stack([x[clip, c].mean() for c in range(64)])
        share = 1 / (1 + (-(gate.gate.weight @ z + gate.gate.bias)).exp())
        torch.testing.assert_close(gate(x)[clip, 5], share[5] * x[clip, 5])


def test_gates_keep_their_start_when_a_plain_checkpoint_loads() -> None:
    plain: Any = create_model("s3d", num_classes=4)
    gated: Any = create_model("s3d_g", num_classes=4, streams=("spatial", "temporal"))
    before = {k: v.clone() for k, v in gated.nets.state_dict().items() if "gating" in k}
    gated.load_backbone_weights(plain.nets["spatial"].state_dict())
    after = gated.nets.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    key = "spatial.features.2.0.weight"
    assert torch.equal(after[key], plain.nets.state_dict()[key])


@pytest.mark.parity("S3D", "the head")
def test_windows_of_two_frames_are_classified_and_averaged() -> None:
    model: Any = create_model("s3d", num_classes=4).eval()
    maps = torch.randn(2, 1024, 5, 8, 7)
    last = model.heads["spatial"][-1]
    windows = [
        F.linear(maps[:, :, t : t + 2, i : i + 7].mean(dim=(2, 3, 4)), last.weight, last.bias)
        for t in range(4)
        for i in range(2)
    ]
    _, logits = model._classify("spatial", maps)
    torch.testing.assert_close(logits, torch.stack(windows).mean(dim=0), rtol=1e-4, atol=1e-5)


def test_gates_at_the_places_of_the_published_code() -> None:
    with torch.device("meta"):
        model: Any = create_model("s3d_g", num_classes=400, gates="branches")
        plain = create_model("s3d", num_classes=400)
    widths = [gate.gate.out_features for gate in model.modules() if hasattr(gate, "gate")]
    # conv2c, and the branches of 3b to 5c, whose widths add up to those of the blocks.
    blocks = [256, 480, 512, 512, 512, 528, 832, 832, 1024]
    assert widths[0] == 192
    assert [sum(widths[1 + 4 * i : 5 + 4 * i]) for i in range(9)] == blocks
    added = count_parameters(model) - count_parameters(plain)
    assert added == sum(width * (width + 1) for width in widths)
    assert count_parameters(model) / 1e6 == pytest.approx(9.55, abs=0.006)
