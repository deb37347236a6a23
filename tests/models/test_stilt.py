from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models import ModelOutput, VideoModel, create_model, make_options
from models.stilt import StiltOptions
from tests.models.configuration import SMALL_BACKBONE, Configuration

CONFIGURATIONS = {
    "stilt": Configuration(
        options={**SMALL_BACKBONE, "attention_dim": 16, "head_dims": (32, 32)},
        interacts="they attend to each other",
        golden=(
            3.424094,
            3.20843,
            3.018577,
            2.911299,
            2.755544,
            2.621281,
            2.557365,
            2.431061,
            2.234545,
            2.091432,
        ),
    ),
}

SMALL: dict[str, Any] = {
    "backbone": "small",
    "flow_length": 2,
    "attention_dim": 8,
    "head_dims": (12, 10),
}


def _model(seed: int = 0, num_classes: int = 4, **options: Any) -> Any:
    torch.manual_seed(seed)
    return create_model("stilt", num_classes=num_classes, **{**SMALL, **options})


def _clips(model: VideoModel, *, clips: int = 2, frames: int = 3, size: int = 40) -> dict:
    torch.manual_seed(7)
    return model.example_inputs(batch_size=clips, frames=frames, size=size)


def _losses(output: ModelOutput, labels: Tensor) -> dict[str, Tensor]:
    return {name: F.cross_entropy(logits, labels) for name, logits in output.logits.items()}


def test_defaults_are_the_papers() -> None:
    options = make_options("stilt", {})
    assert options.backbone == "resnet50"
    assert options.flow_length == 10
    assert options.head_dims == (512, 1024)
    assert (options.attend_over, options.rounds) == ("frames", 1)
    assert not options.positional_encoding


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"streams": ("spatial",)}, "interaction needs both streams"),
        ({"streams": ("spatial", "sound"), "interaction": False}, "streams must be one or more"),
        ({"backbone": "alexnet"}, "backbone must be one of "),
        ({"sharpness": -1.0}, "sharpness must be a number of at least 0, got -1.0"),
        ({"rounds": 0}, "rounds must be a whole number of at least 1, got 0"),
        (
            {"attention_dropout": 1.0},
            "attention_dropout must be .* at least 0 and below 1, got 1.0",
        ),
        ({"attend_over": "pixels"}, "attend_over must be one of 'frames', 'cells'"),
        (
            {"positional_encoding": True},
            "positional_encoding needs attend_over='cells', got attend_over='frames'",
        ),
        ({"head_dims": (512, 0)}, "each of head_dims must be a whole number of at least 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"model 'stilt': {message}"):
        create_model("stilt", num_classes=4, **options)


@pytest.mark.parametrize(
    ("attend_over", "height", "cells"), [("frames", 40, 1), ("cells", 40, 9), ("cells", 65, 15)]
)
def test_attention_covers_frames_or_cells_and_its_rows_sum_to_one(
    attend_over: str, height: int, cells: int
) -> None:
    model = _model(attend_over=attend_over).eval()
    torch.manual_seed(0)
    rgb, flow = torch.randn(2, 3, 3, height, 40), torch.randn(2, 3, 4, height, 40)
    output = model(rgb, flow)
    assert set(output.attention) == {"summary", "spatial", "temporal"}
    for weights in output.attention.values():
        assert weights.shape == (2, 3 * cells)
        assert (weights > 0).all()
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(2))


@pytest.mark.parametrize("attend_over", ["frames", "cells"])
def test_features_are_the_weighted_backbone_features_and_enter_the_heads(attend_over: str) -> None:
    model = _model(attend_over=attend_over).eval()
    clips = _clips(model)
    output = model(**clips)
    for stream, name in (("spatial", "rgb"), ("temporal", "flow")):
        for clip in range(2):
            expected = torch.zeros(96)
            for frame in range(3):
                (feature_map,) = model.backbones[stream](clips[name][clip, frame : frame + 1])
                if attend_over == "frames":
                    weight = output.attention[stream][clip, frame]
                    expected = expected + weight * feature_map.mean(dim=(1, 2))
                else:
                    weights = output.attention[stream][clip].reshape(3, 3, 3)[frame]
                    expected = expected + torch.einsum("hw,dhw->d", weights, feature_map)
            torch.testing.assert_close(output.features[stream][clip], expected)
        head = model.heads[stream]
        hidden = F.relu(F.linear(output.features[stream], head[0].weight, head[0].bias))
        hidden = F.relu(F.linear(hidden, head[3].weight, head[3].bias))
        logits = F.linear(hidden, head[6].weight, head[6].bias)
        torch.testing.assert_close(output.logits[stream], logits)


def test_heads_have_the_sizes_of_table_3() -> None:
    model: Any = create_model("stilt", num_classes=101, backbone="resnet18")
    for head in model.heads.values():
        assert [tuple(p.shape) for p in head.parameters() if p.ndim == 2] == [
            (512, 512),
            (1024, 512),
            (101, 1024),
        ]


def test_the_plain_net_averages_frames_and_cells() -> None:
    model = _model(interaction=False).eval()
    clips = _clips(model)
    output = model(**clips)
    assert output.attention == {}
    maps = model.backbones["spatial"](clips["rgb"].reshape(6, 3, 40, 40))
    pooled = torch.stack([maps[:3].mean(dim=(0, 2, 3)), maps[3:].mean(dim=(0, 2, 3))])
    torch.testing.assert_close(output.features["spatial"], pooled)


def test_with_interaction_every_logit_depends_on_both_inputs() -> None:
    model = _model().eval()
    clips = {name: x.requires_grad_() for name, x in _clips(model).items()}
    output = model(**clips)
    for logits in output.logits.values():
        gradients = torch.autograd.grad(logits.sum(), list(clips.values()), retain_graph=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients)
    assert not model.independent_streams


def test_without_interaction_no_gradient_crosses_the_streams() -> None:
    model = _model(interaction=False)
    assert model.independent_streams
    groups = model.stream_parameters()
    assert set(groups) == {"spatial", "temporal"}
    output = model(**_clips(model))
    for stream, other in (("spatial", "temporal"), ("temporal", "spatial")):
        crossing = torch.autograd.grad(
            output.logits[stream].sum(), groups[other], retain_graph=True, allow_unused=True
        )
        assert all(gradient is None for gradient in crossing)


def test_parameters_of_the_interaction_are_shared() -> None:
    model = _model(attend_over="cells")
    shared = model.stream_parameters()["shared"]
    assert sorted(map(id, shared)) == sorted(map(id, model.interaction.parameters()))


@pytest.mark.parametrize("stream", ["spatial", "temporal"])
def test_a_stream_starts_alike_alone_beside_the_other_and_with_interaction(stream: str) -> None:
    alone = _model(interaction=False, streams=(stream,)).state_dict()
    plain = _model(interaction=False).state_dict()
    interacting = _model().state_dict()
    assert alone
    for name, value in alone.items():
        assert stream in name
        assert torch.equal(value, plain[name])
        assert torch.equal(value, interacting[name])
    other = _model(seed=1, interaction=False, streams=(stream,)).state_dict()
    assert not torch.equal(other[f"heads.{stream}.0.weight"], alone[f"heads.{stream}.0.weight"])


def test_both_streams_trained_together_without_interaction_are_those_trained_alone() -> None:
    def trained(streams: tuple[str, ...]) -> dict[str, Tensor]:
        model = _model(interaction=False, streams=streams, dropout=0.0)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        clips = _clips(_model(interaction=False), clips=4)
        labels = torch.arange(4)
        for _ in range(4):
            output = model(**{name: clips[name] for name in model.inputs})
            optimiser.zero_grad()
            sum(_losses(output, labels).values(), torch.zeros(())).backward()
            for group in model.stream_parameters().values():
                torch.nn.utils.clip_grad_norm_(group, 0.5)
            optimiser.step()
        return model.state_dict()

    together = trained(("spatial", "temporal"))
    start = _model(interaction=False).state_dict()
    for stream in ("spatial", "temporal"):
        for name, value in trained((stream,)).items():
            assert torch.equal(value, together[name])
            assert not torch.equal(value, start[name])


def test_positional_encodings_tell_cells_apart_by_place_alone() -> None:
    model = _model(attend_over="cells", positional_encoding=True).eval()
    plain = _model(attend_over="cells").eval()
    constant = {"rgb": torch.zeros(1, 1, 3, 40, 40), "flow": torch.zeros(1, 1, 4, 40, 40)}
    assert model(**constant).features["spatial"].shape == (1, 96 + 12)
    assert plain(**constant).features["spatial"].shape == (1, 96)


def test_a_published_net_has_the_published_number_of_parameters() -> None:
    model = create_model("stilt", num_classes=101)
    resnet50 = 25_557_032 - 2048 * 1000 - 1000
    conv1 = 64 * 7 * 7 * (20 - 3)
    head = (2048 + 1) * 512 + (512 + 1) * 1024 + (1024 + 1) * 101
    attention = 5 * 2048 * 512 + 5 * 512 + 3 * 512
    expected = 2 * resnet50 + conv1 + 2 * head + attention
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert isinstance(model.options, StiltOptions)
