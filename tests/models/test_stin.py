"""STIN's modules against loops over segments and cells."""

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from models import VideoModel, create_model
from models.layers.non_local import NonLocal
from models.stin import ApparentDifference, TemporalSelfAttention
from tests.models.configuration import SMALL_BACKBONE, Configuration

CONFIGURATIONS = {
    "stin": Configuration(
        options={**SMALL_BACKBONE, "attention_dim": 16},
        golden=(
            6.463315,
            6.086647,
            5.695394,
            5.39274,
            5.082074,
            4.746154,
            4.426917,
            4.118139,
            3.780679,
            3.452429,
        ),
    ),
}

SMALL: dict[str, Any] = {"backbone": "small", "flow_length": 2, "attention_dim": 8}


def _model(**options: Any) -> Any:
    torch.manual_seed(0)
    return create_model("stin", num_classes=4, **{**SMALL, **options})


def _clips(model: VideoModel, frames: int = 3) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return model.example_inputs(batch_size=2, frames=frames, size=48)


@pytest.mark.parity("STIN", "the apparent difference")
@pytest.mark.parametrize("rectified", [True, False])
def test_the_apparent_difference_is_that_of_projected_neighbours(rectified: bool) -> None:
    torch.manual_seed(0)
    module = ApparentDifference(5, "features", rectified=rectified)
    maps = torch.randn(2, 4, 5, 3, 2)
    phi = module.project.weight[:, :, 0, 0]  # (out, in)
    ours = module(maps, torch.zeros(2, 4, 3, 8, 8))
    for b in range(2):
        for t in range(4):
            for i in range(3):
                for j in range(2):
                    if t == 3:
                        expected = torch.zeros(5)
                    else:
                        expected = phi @ maps[b, t + 1, :, i, j] - phi @ maps[b, t, :, i, j]
                    if rectified:
                        expected = expected.clamp(min=0)
                    torch.testing.assert_close(ours[b, t, :, i, j], expected)


def test_the_pixel_difference_is_pooled_to_the_cells() -> None:
    torch.manual_seed(0)
    module = ApparentDifference(5, "pixels", rectified=False)
    rgb = torch.randn(1, 3, 3, 8, 8)
    ours = module(torch.zeros(1, 3, 5, 2, 2), rgb)
    phi = module.project.weight[:, :, 0, 0]
    corner = (rgb[0, 2, :, 4:, :4] - rgb[0, 1, :, 4:, :4]).abs().mean(dim=(1, 2))
    torch.testing.assert_close(ours[0, 1, :, 1, 0], phi @ corner)
    assert not ours[0, 2].any()


def test_a_still_clip_has_no_apparent_difference() -> None:
    for difference in ("features", "pixels"):
        module = ApparentDifference(5, difference, rectified=False)
        maps, rgb = torch.randn(1, 1, 5, 2, 2), torch.randn(1, 1, 3, 8, 8)
        assert not module(maps.expand(-1, 4, -1, -1, -1), rgb.expand(-1, 4, -1, -1, -1)).any()
        assert not module(maps, rgb).any()


def test_the_signed_difference_telescopes_and_the_rectified_one_does_not() -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 5, 4, 2, 2)
    maps[:, -1] = maps[:, 0]
    rgb = torch.zeros(1, 5, 3, 8, 8)
    signed = ApparentDifference(4, "features", rectified=False)(maps, rgb)
    rectified = ApparentDifference(4, "features", rectified=True)(maps, rgb)
    assert signed.mean(dim=1).abs().max() < 1e-6
    assert rectified.mean(dim=1).max() > 0.1


@pytest.mark.parity("STIN", "non-local attention")
def test_non_local_attention_is_a_softmax_over_all_cells() -> None:
    torch.manual_seed(0)
    layer: Any = NonLocal(6, 3)
    assert all(p.any() == (p.ndim > 1) for p in layer.parameters()), "biases start from zero"
    assert max(p.abs().max() for p in layer.parameters()) < 0.05
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    x = torch.randn(2, 6, 5)
    ours, received = layer(x)
    theta, phi, g = (
        torch.einsum("ac,bcn->bna", m.weight[:, :, 0], x) + m.bias
        for m in (layer.query, layer.key, layer.value)
    )
    expected_received = torch.zeros(2, 5)
    for b in range(2):
        for i in range(5):
            strength = torch.stack([(3**-0.5 * theta[b, i] @ phi[b, j]).exp() for j in range(5)])
            y = sum(strength[j] * g[b, j] for j in range(5)) / strength.sum()
            torch.testing.assert_close(
                ours[b, :, i], layer.out.weight[:, :, 0] @ y + layer.out.bias
            )
            expected_received[b] += strength / strength.sum() / 5
    torch.testing.assert_close(received, expected_received)


@pytest.mark.parametrize(("within", "same"), [("frame", True), ("clip", False)])
def test_attention_within_a_frame_does_not_look_at_other_frames(
    within: Literal["frame", "clip"], same: bool
) -> None:
    torch.manual_seed(0)
    maps = torch.randn(1, 3, 4, 2, 2)
    other = maps.clone()
    other[:, 2] += 1
    module = TemporalSelfAttention(4, 3, within)
    first, received = module(maps)
    assert torch.allclose(first[:, :2], module(other)[0][:, :2]) is same
    assert received.shape == (1, 12)
    torch.testing.assert_close(received.sum(dim=1), torch.ones(1))


def test_clip_attention_on_one_frame_is_frame_attention() -> None:
    torch.manual_seed(0)
    within_clip = TemporalSelfAttention(4, 3, "clip")
    within_frame = TemporalSelfAttention(4, 3, "frame")
    within_frame.load_state_dict(within_clip.state_dict())
    maps = torch.randn(2, 1, 4, 3, 2)
    for ours, theirs in zip(within_clip(maps), within_frame(maps), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("stage", [None, "stage3"])
def test_injection_starts_as_the_plain_two_stream_net(stage: str | None) -> None:
    with_it, without = _model(stage=stage), _model(stage=stage, injection=False)
    clips = _clips(with_it)
    with_it.eval(), without.eval()
    missing = without.load_state_dict(with_it.state_dict(), strict=False)
    assert sorted(missing.unexpected_keys) == ["scales.spatial", "scales.temporal"]
    ours, plain = with_it(**clips), without(**clips)
    for stream in ("spatial", "temporal"):
        torch.testing.assert_close(ours.logits[stream], plain.logits[stream])
        with torch.no_grad():
            with_it.scales[stream].fill_(0.5)
        assert not torch.allclose(with_it(**clips).logits[stream], plain.logits[stream])


@pytest.mark.parametrize("stage", ["stage2", "stage4"])
def test_the_modules_map_times_gamma_is_added_to_the_streams(stage: str) -> None:
    model = _model(stage=stage).eval()
    for parameter in model.injections["temporal"].parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    clips = _clips(model)
    output = model(**clips)
    for gamma in (0.7, -0.3):
        for stream, name in (("spatial", "rgb"), ("temporal", "flow")):
            with torch.no_grad():
                model.scales[stream].fill_(gamma)
            maps = [model.backbones[stream].forward_stages(clips[name][:, t]) for t in range(3)]
            F = torch.stack([m[stage] for m in maps], dim=1)  # (B, T, C, h, w)
            module = model.injections[stream]
            M = module(F, clips[name]) if stream == "spatial" else module(F)[0]
            frames = []
            for t in range(3):
                x = F[:, t] + gamma * M[:, t]
                for later in range(int(stage[-1]) + 1, 5):
                    x = model.backbones[stream].get_submodule(f"stage{later}")(x)
                frames.append(x.mean(dim=(2, 3)))
            expected = model.heads[stream](sum(frames) / 3)
            torch.testing.assert_close(model(**clips).logits[stream], expected)
            assert not torch.allclose(output.logits[stream], expected, atol=1e-3)


@pytest.mark.parametrize("difference_loss", [True, False])
@pytest.mark.parametrize("attention_loss", [True, False])
def test_each_auxiliary_loss_can_be_left_out(difference_loss: bool, attention_loss: bool) -> None:
    model = _model(difference_loss=difference_loss, attention_loss=attention_loss)
    output = model(**_clips(model))
    names = ["apparent_difference"] * difference_loss + ["self_attention"] * attention_loss
    assert list(output.auxiliary_logits) == names


def test_without_injection_and_losses_nothing_is_left_of_the_modules() -> None:
    model = _model(injection=False, difference_loss=False, attention_loss=False)
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"backbones", "heads"}


def test_the_auxiliary_classifier_sees_the_mean_difference_of_the_segments() -> None:
    model = _model().eval()
    clips = _clips(model, frames=4)
    maps = torch.stack([model.backbones["spatial"](clips["rgb"][:, t]) for t in range(4)], dim=1)
    change = model.injections["spatial"](maps, clips["rgb"])[:, :3].mean(dim=(1, 3, 4))
    torch.testing.assert_close(
        model(**clips).auxiliary_logits["apparent_difference"],
        model.auxiliary_heads["spatial"](change),
    )


def test_the_auxiliary_classifier_sees_the_mean_of_the_attended_flow() -> None:
    model = _model().eval()
    clips = _clips(model)
    total = torch.zeros(2, 96)
    for t in range(3):
        maps = model.backbones["temporal"](clips["flow"][:, t])
        attended, _ = model.injections["temporal"](maps.unsqueeze(1))
        total += attended.mean(dim=(1, 3, 4)) / 3
    torch.testing.assert_close(
        model(**clips).auxiliary_logits["self_attention"], model.auxiliary_heads["temporal"](total)
    )


def test_a_stream_alone_is_that_stream_of_both() -> None:
    both = _model().eval()
    clips = _clips(both)
    for stream, name in (("spatial", "rgb"), ("temporal", "flow")):
        alone = _model(streams=(stream,)).eval()
        torch.testing.assert_close(
            alone(**{name: clips[name]}).logits[stream], both(**clips).logits[stream]
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stage": "layer9"}, "stage must be one of stage1, stage2, stage3, stage4 with"),
        ({"difference": "flow"}, "difference must be one of 'features', 'pixels'"),
        ({"attention_dim": 0}, "attention_dim must be a whole number of at least 1"),
        ({"dropout": 1.0}, "dropout must be a number of at least 0 and below 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"model 'stin': {message}"):
        _model(**options)
