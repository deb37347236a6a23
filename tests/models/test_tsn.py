"""Temporal segment networks against one frame at a time."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models import VideoModel, create_model
from models.flops import count_flops, count_parameters
from tests.models.configuration import SMALL_BACKBONE, Configuration

CONFIGURATIONS = {
    "tsn": Configuration(
        options=SMALL_BACKBONE,
        golden=(
            3.30025,
            2.96367,
            2.630334,
            2.403133,
            2.179997,
            1.948545,
            1.738479,
            1.540752,
            1.321593,
            1.094735,
        ),
    ),
}


def _model(**options: Any) -> Any:
    torch.manual_seed(0)
    return create_model("tsn", num_classes=4, **{"backbone": "small", "flow_length": 2, **options})


def _clips(model: VideoModel) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return model.example_inputs(batch_size=2, frames=3, size=48)


@pytest.mark.parametrize("consensus", ["average", "max"])
def test_the_consensus_is_over_the_frames_own_logits(consensus: str) -> None:
    model = _model(consensus=consensus).eval()
    clips = _clips(model)
    alone = [model(**{k: x[:, t : t + 1] for k, x in clips.items()}) for t in range(3)]
    for stream, logits in model(**clips).logits.items():
        frames = torch.stack([output.logits[stream] for output in alone])
        expected = frames.mean(dim=0) if consensus == "average" else frames.max(dim=0).values
        torch.testing.assert_close(logits, expected)


def test_average_features_have_the_average_logits() -> None:
    model = _model().eval()
    output = model(**_clips(model))
    for stream, features in output.features.items():
        torch.testing.assert_close(model.heads[stream](features), output.logits[stream])


def test_a_stream_alone_is_that_stream_of_both() -> None:
    both, alone = _model().eval(), _model(streams=("temporal",)).eval()
    clips = _clips(both)
    torch.testing.assert_close(
        alone(flow=clips["flow"]).logits["temporal"], both(**clips).logits["temporal"]
    )


@pytest.mark.usefixtures("shapes_alone")
def test_it_has_its_published_size() -> None:
    # TSN-R50 with 400 classes: 24.33 million parameters, 4.1 GFLOPs a 224² frame.
    model = create_model("tsn", num_classes=400, backbone="resnet50", streams=("spatial",))
    assert count_parameters(model) == pytest.approx(24.33e6, rel=1e-3)
    flops = count_flops(model, model.example_inputs(frames=8, size=224))
    assert flops / 8 == pytest.approx(4.1, rel=5e-3)


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="model 'tsn': consensus must be one of 'average'"):
        _model(consensus="median")
