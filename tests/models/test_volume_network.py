"""The 3-D networks: their volumes, their published sizes, and torchvision's own results."""

from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.video import r2plus1d_18, s3d

from models import create_model
from models.flops import count_flops, count_parameters
from models.volume_network import as_volume

TORCHVISIONS: dict[str, dict[str, Any]] = {"r2plus1d": {"middle": "torchvision"}}
NETWORKS: dict[str, dict[str, Any]] = {
    "artnet": {"width": 0.25, "depths": (1, 1, 1, 1)},
    "c3d": {"width": 0.125, "head_dims": (16,), "head_grid": 2},
    "i3d": {"width": 0.125, "streams": ("spatial",)},
    "r2plus1d": {"width": 0.25, "depths": (1, 1, 1, 1)},
    "s3d": {},
    "s3d_g": {},
}
every_network = pytest.mark.parametrize("name", NETWORKS)


def _model(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return create_model(name, num_classes=4, **{**NETWORKS[name], **options})


def test_stacks_of_flow_become_one_volume_of_fields() -> None:
    flow = torch.randn(2, 3, 8, 5, 4)  # T = 3 stacks of L = 4 fields
    volume = as_volume(flow, 2)
    assert volume.shape == (2, 2, 12, 5, 4)
    for stack in range(3):
        for field in range(4):
            for axis in range(2):
                expected = flow[:, stack, 2 * field + axis]
                assert torch.equal(volume[:, axis, 4 * stack + field], expected)


def test_frames_become_a_volume() -> None:
    rgb = torch.randn(2, 3, 3, 5, 4)
    assert torch.equal(as_volume(rgb, 3)[:, 1, 2], rgb[:, 2, 1])


@pytest.mark.usefixtures("shapes_alone")
@pytest.mark.parametrize(
    ("name", "parameters", "flops", "frames", "size", "tolerance"),
    [
        # torchvision's table for Kinetics-400.
        ("r2plus1d", 31_505_325, 40.519, 16, 112, 1e-4),
        ("s3d", 8_320_048, 17.979, 16, 224, 1e-4),
        # 38.5 GFLOPs a clip, as tables of 3-D networks have it; 79.6 million by its layers.
        ("c3d", 79_634_576, 38.5, 16, 112, 2e-3),
        # 12.7 million parameters a stream; 107.9 GFLOPs (Xie et al., ECCV 2018, Table 1).
        ("i3d", 12_697_264, 107.9, 64, 224, 0.035),
    ],
)
def test_they_have_their_published_sizes(
    name: str, parameters: int, flops: float, frames: int, size: int, tolerance: float
) -> None:
    options = {"streams": ("spatial",), **TORCHVISIONS.get(name, {})}
    model = create_model(name, num_classes=400, **options)
    assert count_parameters(model) == parameters
    ours = count_flops(model, model.example_inputs(frames=frames, size=size))
    assert ours == pytest.approx(flops, rel=tolerance)


@pytest.mark.parity("R(2+1)D-18 and S3D", "torchvision's networks, to their logits")
@pytest.mark.parametrize(
    ("name", "reference", "classifier"),
    [("r2plus1d", r2plus1d_18, "fc"), ("s3d", s3d, "classifier.1")],
)
def test_with_its_weights_they_are_torchvisions_networks(
    name: str, reference: Any, classifier: str
) -> None:
    torch.manual_seed(3)
    theirs = reference(weights=None, num_classes=4).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm3d):
            nn.init.uniform_(module.get_buffer("running_var"), 0.5, 2)
    model: Any = create_model(name, num_classes=4, **TORCHVISIONS.get(name, {})).eval()
    model.load_backbone_weights(theirs.state_dict())
    head, last = model.heads["spatial"][-1], theirs.get_submodule(classifier)
    with torch.no_grad():
        head.weight.copy_(last.weight.flatten(1))
        head.bias.copy_(last.bias)
        clip = torch.randn(1, 16, 3, 224 if name == "s3d" else 64, 224 if name == "s3d" else 64)
        expected = theirs(clip.transpose(1, 2))
        torch.testing.assert_close(
            model(rgb=clip).logits["spatial"], expected, rtol=1e-3, atol=1e-4
        )


@every_network
def test_a_flow_stream_can_stand_beside_or_alone(name: str) -> None:
    both = _model(name, streams=("spatial", "temporal"), flow_length=2).eval()
    clips = both.example_inputs(frames=2, size=48)
    alone = _model(name, streams=("temporal",), flow_length=2).eval()
    output = both(**clips)
    assert list(output.logits) == ["spatial", "temporal"]
    torch.testing.assert_close(
        alone(flow=clips["flow"]).logits["temporal"], output.logits["temporal"]
    )


@every_network
@pytest.mark.parametrize("frames", [1, 3, 5])
def test_short_clips_pass(name: str, frames: int) -> None:
    model = _model(name).eval()
    output = model(**model.example_inputs(frames=frames, size=33))
    assert output.logits["spatial"].isfinite().all()


@every_network
def test_the_order_of_the_frames_matters(name: str) -> None:
    model = _model(name).eval()
    clip = model.example_inputs(frames=8, size=48)["rgb"]
    forwards, backwards = model(rgb=clip), model(rgb=clip.flip(1))
    assert not torch.allclose(forwards.logits["spatial"], backwards.logits["spatial"])


@every_network
def test_frames_that_are_too_small_are_refused(name: str) -> None:
    model = _model(name)
    with pytest.raises(ValueError, match=f"'{name}' takes rgb of at least 32 × 32 px, got"):
        model(rgb=torch.zeros(1, 4, 3, 31, 40))


@every_network
def test_flow_starts_from_the_mean_of_the_rgb_kernel(name: str) -> None:
    checkpoint = _model(name).nets["spatial"].state_dict()
    model = _model(name, streams=("spatial", "temporal"), flow_length=2)
    model.load_backbone_weights(checkpoint)
    first = next(key for key, value in checkpoint.items() if value.ndim == 5)
    temporal = model.nets["temporal"].state_dict()[first]
    for axis in range(2):
        torch.testing.assert_close(temporal[:, axis], checkpoint[first].mean(dim=1))
    assert torch.equal(model.nets["spatial"].state_dict()[first], checkpoint[first])


@every_network
def test_weights_of_another_network_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"the weights don't fit model '{name}'") as error:
        _model(name).load_backbone_weights({"conv1.weight": torch.zeros(4, 3, 3, 3, 3)})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("c3d", {"head_dims": (0,)}, "each of head_dims must be a whole number of at least 1"),
        ("i3d", {"width": -1.0}, "width must be a number of at least 0"),
        ("r2plus1d", {"depths": (2, 2, 2)}, "depths must be"),
        ("artnet", {"smart": "all"}, "smart must be one of 'deep', 'first', 'none'"),
        ("s3d", {"streams": ("rgb",)}, "streams must be one or more of 'spatial', 'temporal'"),
        ("s3d_g", {"dropout": 1.0}, "dropout must be a number of at least 0 and below 1"),
    ],
)
def test_bad_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"model '{name}': {message}"):
        _model(name, **options)
