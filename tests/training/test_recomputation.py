import copy
from typing import Any

import pytest
import torch
from torch import nn

from models import VideoModel, create_model
from study.training.recomputation import recompute_activations

# Every kind of network: stages, blocks, plain layers, dropout, frozen and gated norms.
NETS: dict[str, dict[str, Any]] = {
    "stilt": {"backbone": "small", "interaction": True, "flow_length": 2},
    "tsn": {"backbone": "resnet18", "flow_length": 2, "partial_bn": True},
    "cstm": {"backbone": "bn_inception", "flow_length": 2},
    "conv_fusion": {"backbone": "vgg16", "flow_length": 2, "head_dims": (8, 8), "head_grid": 1},
    "attention_consistency": {"backbone": "small", "flow_length": 2},
    "spatiotemporal_multiplier": {"backbone": "resnet18", "flow_length": 2},
    "c3d": {"width": 0.1, "head_dims": (8,), "head_grid": 1},
    "i3d": {"width": 0.1, "flow_length": 2},
    "artnet": {"width": 0.1, "depths": (1, 1, 1, 1)},
    "s3d_g": {},
    "r2plus1d": {"width": 0.1, "depths": (1, 1, 1, 1)},
}  # fmt: skip
FRAMES = {"c3d": 4, "i3d": 4, "artnet": 8, "s3d_g": 4, "r2plus1d": 4}


def step(model: VideoModel, frames: int) -> int:
    """Runs a training step; returns the bytes that autograd keeps between its two passes."""
    torch.manual_seed(1)
    inputs = model.example_inputs(batch_size=2, frames=max(frames, model.min_frames), size=64)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = model(**inputs)
        every = [*output.logits.values(), *output.auxiliary_logits.values()]
        loss = sum(logits.square().sum() for logits in every)
    loss.backward()
    return sum(kept.values())


@pytest.mark.parametrize("name", NETS)
def test_recomputation_changes_no_gradient_and_no_buffer(name: str) -> None:
    torch.manual_seed(0)
    plain = create_model(name, num_classes=4, **NETS[name])
    ours = copy.deepcopy(plain)
    recompute_activations(ours)
    kept = [step(model, FRAMES.get(name, 2)) for model in (plain, ours)]
    assert kept[1] < 0.7 * kept[0]  # besides the segments' inputs, which no hook sees
    for (key, value), other in zip(plain.named_parameters(), ours.parameters(), strict=True):
        if value.grad is None or other.grad is None:
            assert value.grad is other.grad, key
        else:
            assert torch.equal(value.grad, other.grad), key
    assert plain.state_dict().keys() == ours.state_dict().keys()
    for (key, buffer), copied in zip(plain.named_buffers(), ours.buffers(), strict=True):
        assert torch.equal(buffer, copied), key


def test_running_statistics_move_once_a_step() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    recompute_activations(net)
    for _ in range(3):
        net(torch.randn(2, 3, 8, 8)).sum().backward()
    assert net[1].num_batches_tracked == 3
    assert net[1].momentum == 0.1


def test_a_copy_of_a_treated_network_runs_its_own_layers() -> None:
    first = nn.Linear(3, 4)
    net = nn.Sequential(first, nn.ReLU(), nn.Linear(4, 2))
    recompute_activations(net)
    other = copy.deepcopy(net)
    nn.init.zeros_(first.weight)
    x = torch.randn(5, 3)
    expected = other[2](other[1](other[0](x)))
    torch.testing.assert_close(other(x), expected, rtol=0, atol=0)
    assert not torch.equal(net(x), expected)


def test_evaluation_and_treating_twice_are_harmless() -> None:
    torch.manual_seed(0)
    model = create_model("tsn", num_classes=4, **NETS["tsn"]).eval()
    inputs = model.example_inputs(frames=2, size=64)
    with torch.inference_mode():
        expected = model(**inputs).logits["spatial"]
        for _ in range(2):
            recompute_activations(model)
        assert torch.equal(model(**inputs).logits["spatial"], expected)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.train().get_submodule("backbones.spatial.conv1").register_forward_hook(count)
    model(**inputs).logits["spatial"].sum().backward()
    assert calls == 2  # once forward, once again
