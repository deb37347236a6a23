"""What a network takes of a trained one, against tensors picked by hand."""

from typing import Any

import pytest
import torch

from models import VideoModel, create_model
from models.layers.fully_connected import pool_to_grid
from study.training.inheritance import classifier_tensors, inherited

SMALL: dict[str, Any] = {"backbone": "small", "flow_length": 2, "head_dims": (16, 12)}
FUSED: dict[str, Any] = {**SMALL, "method": "sum", "conv": "2d", "pool": "2d"}


def network(model: str, seed: int, *, classes: int = 4, **options: Any) -> Any:
    torch.manual_seed(seed)
    return create_model(model, num_classes=classes, **options).eval()


def start(own: VideoModel, trained: VideoModel, *streams: str, **more: Any) -> Any:
    state = trained.state_dict()
    report = inherited(own, state, streams or own.starting_streams, title="a training", **more)
    own.load_state_dict({name: state[name] for name in report.used}, strict=False)
    return report


def test_a_fused_network_begins_by_scoring_as_its_towers() -> None:
    """In closed form: the temporal stream is the tower; the spatial one the sum of both maps."""
    towers = [network("two_stream", seed, **SMALL) for seed in (1, 2)]
    fused = network("conv_fusion", 3, **FUSED)
    for stream, tower in zip(("spatial", "temporal"), towers, strict=True):
        report = start(fused, tower, stream)
        assert not report.left_out
        assert not report.drawn
    clips = fused.example_inputs(batch_size=2, frames=3, size=48)
    with torch.no_grad():
        scored = fused(**clips).logits
        alone = towers[1](**clips).logits["temporal"]
        torch.testing.assert_close(scored["temporal"], alone, rtol=1e-5, atol=1e-6)
        maps = towers[0].backbones["spatial"](clips["rgb"].flatten(0, 1))
        maps = maps + towers[1].backbones["temporal"](clips["flow"].flatten(0, 1))
        vectors = pool_to_grid(maps, 1)
        for layer in towers[0].heads["spatial"]:
            vectors = layer(vectors)
        expected = vectors.unflatten(0, (2, 3)).mean(dim=1)
        torch.testing.assert_close(scored["spatial"], expected, rtol=1e-5, atol=1e-6)


def test_a_layer_of_a_head_of_another_shape_is_left_out_and_drawn() -> None:
    tower, fused = network("two_stream", 1, **SMALL), network("conv_fusion", 2, **FUSED)
    wide = network("conv_fusion", 2, **{**FUSED, "method": "cat", "towers": 1})
    report = start(wide, tower, "spatial")
    assert list(report.left_out) == ["heads.spatial.0.weight"]
    assert report.drawn == ("heads.spatial.0",)
    start(fused, tower, "spatial")
    before = network("conv_fusion", 2, **FUSED).state_dict()
    for name, value in fused.state_dict().items():
        source = before if "temporal" in name.split(".") else tower.state_dict()
        assert torch.equal(value, source[name]), name


def test_a_whole_network_goes_to_other_classes_but_for_its_last_layer() -> None:
    first = network("stilt", 1, classes=7, **{**SMALL, "interaction": True})
    own = network("stilt", 2, **{**SMALL, "interaction": True})
    before = {name: value.clone() for name, value in own.state_dict().items()}
    last = classifier_tensors("stilt", {**SMALL, "interaction": True})
    assert last == {
        f"heads.{stream}.6.{kind}"
        for stream in ("spatial", "temporal")
        for kind in ("weight", "bias")
    }
    report = start(own, first, whole=True, other_classes=last)
    assert set(report.left_out) == last
    for name, value in own.state_dict().items():
        source = before if name in last else first.state_dict()
        assert torch.equal(value, source[name]), name


@pytest.mark.parametrize(
    ("own", "model", "options", "whole", "said"),
    [
        ("two_stream", "two_stream", {"flow_length": 3}, False, r"shape: \(24, 6, 3, 3\) there"),
        ("two_stream", "two_stream", {"head_dims": (16,)}, True, "spatial.3.weight is of another"),
        ("two_stream", "conv_fusion", {}, True, "fusions.stage4.conv.weight is missing here"),
        ("conv_fusion", "two_stream", {}, True, "fusions.stage4.conv.bias is missing there"),
        ("two_stream", "two_stream", {"backbone": "resnet18"}, False, "no convolution fits"),
    ],
)
def test_networks_that_do_not_fit_are_refused(
    own: str, model: str, options: dict[str, Any], whole: bool, said: str
) -> None:
    trained = network(model, 1, **{**SMALL, **options})
    with pytest.raises(ValueError, match=f"model '{own}' can't start from a training: .*{said}"):
        start(network(own, 2, **SMALL), trained, whole=whole)
