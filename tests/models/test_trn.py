"""Temporal relations against a loop over scales and relations."""

from itertools import pairwise
from typing import Any

import pytest
import torch

from models import create_model
from models.trn import relation_frames
from tests.models.configuration import BOTH_STREAMS, Configuration

CONFIGURATIONS = {
    "trn": Configuration(
        options={**BOTH_STREAMS, "frames": 3, "relation_dim": 32},
        frames=3,
        fewest_frames=2,
        golden=(
            3.197464,
            3.149524,
            3.078511,
            3.006557,
            2.940693,
            2.889352,
            2.84217,
            2.790328,
            2.738941,
            2.682518,
        ),
    ),
}


def _model(**options: Any) -> Any:
    torch.manual_seed(0)
    options = {"backbone": "small", "frames": 4, "relation_dim": 6, **options}
    return create_model("trn", num_classes=4, **options)


@pytest.mark.parametrize("frames", [2, 3, 4, 8, 16, 25])
def test_relations_are_increasing_distinct_and_inside_the_clip(frames: int) -> None:
    for scale in range(2, frames + 1):
        chosen = relation_frames(frames, scale, 3)
        assert 1 <= len(set(chosen)) == len(chosen) <= 3
        for relation in chosen:
            assert len(relation) == scale
            assert relation[0] >= 0
            assert relation[-1] < frames
            assert all(a < b for a, b in pairwise(relation))
    assert relation_frames(frames, frames, 3) == [tuple(range(frames))]


def test_relations_worked_by_hand() -> None:
    assert relation_frames(8, 2, 2) == [(1, 5), (3, 7)]
    assert relation_frames(3, 2, 3) == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parity("TRN", "the head")
def test_the_logits_are_summed_over_scales_and_relations() -> None:
    model = _model().eval()
    head = model.heads["spatial"]
    frames = torch.randn(2, 4, 96)
    expected = torch.zeros(2, 4)
    for scale in (2, 3, 4):
        for relation in relation_frames(4, scale, 3):
            parts = [(head.project.weight @ frames[:, t].T).T + head.project.bias for t in relation]
            joined = torch.cat([part.clamp(min=0) for part in parts], dim=1)
            hidden = head.relate[str(scale)](joined).clamp(min=0)
            expected += head.classify[str(scale)](hidden)
    torch.testing.assert_close(head(frames)[1], expected)


@pytest.mark.parametrize("frames", [2, 3, 6])
def test_clips_of_other_lengths_use_the_scales_that_they_fill(frames: int) -> None:
    model = _model().eval()
    features, logits = model.heads["spatial"](torch.randn(2, frames, 96))
    assert features.shape == (2, 3 * 6)
    assert logits.isfinite().all()
    filled = [features[:, 6 * i : 6 * i + 6].any().item() for i in range(3)]
    assert filled == [scale <= frames for scale in (2, 3, 4)]


def test_the_order_of_the_frames_matters() -> None:
    model = _model().eval()
    clip = model.example_inputs(frames=4, size=48)["rgb"]
    forwards, backwards = model(rgb=clip), model(rgb=clip.flip(1))
    assert not torch.allclose(forwards.logits["spatial"], backwards.logits["spatial"])


def test_a_single_frame_has_no_relation_and_is_refused() -> None:
    model = _model()
    with pytest.raises(ValueError, match=r"model 'trn' takes rgb .* with T at least 2"):
        model(rgb=torch.zeros(1, 1, 3, 48, 48))


@pytest.mark.parametrize("name", ["frames", "relations", "relation_dim"])
def test_bad_options_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"model 'trn': {name} must be a whole number of at least"):
        _model(**{name: 0})
