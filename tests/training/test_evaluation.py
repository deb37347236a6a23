from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import ModelOutput, VideoModel
from study.data.clips.dataset import ClipDataset, ClipSettings
from study.data.clips.transforms import model_inputs
from study.training.evaluation import score
from tests.memory_store import make_store


class _Pooled(VideoModel):
    """A linear classifier on the mean and the left half's mean of each channel, by stream."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__(num_classes=classes, flow_length=2, independent_streams=True)
        self.heads = nn.ModuleDict(
            {"spatial": nn.Linear(6, classes), "temporal": nn.Linear(8, classes)}
        )
        self.largest_batch = 0

    def forward(self, rgb: Tensor | None = None, flow: Tensor | None = None) -> ModelOutput:
        assert rgb is not None
        assert flow is not None
        self.largest_batch = max(self.largest_batch, len(rgb))
        left = [x[..., : x.shape[-1] // 2].mean((1, 3, 4)) for x in (rgb, flow)]
        features = {
            name: torch.cat([x.mean((1, 3, 4)), half], 1)
            for name, x, half in zip(self.streams, (rgb, flow), left, strict=True)
        }
        return ModelOutput(
            logits={name: self.heads[name](x) for name, x in features.items()},
            features=features,
        )


def _model() -> _Pooled:
    torch.manual_seed(0)
    return _Pooled()


def _data(**clip: Any) -> ClipDataset:
    store = make_store(videos=7)
    settings = {"segments": 2, "flow_length": 2, "crop_size": 20, **clip}
    return ClipDataset(store, store.videos, clip=ClipSettings(**settings), augment=False)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_scores_are_the_softmax_of_the_views_mean_logits(batch_size: int) -> None:
    model, data = _model(), _data(clips=2, crops="three")
    scores = score(model, data, batch_size=batch_size)
    assert model.largest_batch <= batch_size
    assert scores.videos == [video.name for video in data.videos]
    assert scores.labels.tolist() == [video.label for video in data.videos]
    for row in range(7):
        item = data[row]
        logits, features = [], []
        for view in range(6):
            clip = {kind: item[kind][view][None] for kind in ("rgb", "flow")}
            output = model(**model_inputs(clip, torch.device("cpu")))
            logits.append(output.logits["temporal"][0])
            features.append(output.features["temporal"][0])
        expected = torch.stack(logits).mean(0).softmax(0).detach().numpy()
        np.testing.assert_allclose(scores.scores["temporal"][row], expected, atol=1e-6)
        expected = torch.stack(features).mean(0).detach().numpy()
        np.testing.assert_allclose(scores.features["temporal"][row], expected, atol=1e-5)
    assert scores.scores["spatial"].dtype == np.float32


def test_a_mirrored_views_logits_count_for_the_mirrored_classes() -> None:
    model, data = _model(), _data(crops="ten")
    data.flip_classes = (1, 0, 2, 3)
    item = data[0]
    logits = []
    for view, mirrored in enumerate(data.mirrored_views):
        clip = {kind: item[kind][view][None] for kind in ("rgb", "flow")}
        one = model(**model_inputs(clip, torch.device("cpu"))).logits["spatial"][0]
        logits.append(one[[1, 0, 2, 3]] if mirrored else one)
    expected = torch.stack(logits).mean(0).softmax(0).detach().numpy()
    np.testing.assert_allclose(score(model, data).scores["spatial"][0], expected, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_scoring_leaves_the_model_in_its_mode(training: bool) -> None:
    model = _model().train(training)
    score(model, _data())
    assert model.training == training


def test_bfloat16_scores_are_close_and_float32() -> None:
    full, half = (score(_model(), _data(), precision=p) for p in ("float32", "bfloat16"))
    difference = np.abs(full.scores["spatial"] - half.scores["spatial"]).max()
    assert 0 < difference < 0.02
    assert half.scores["spatial"].dtype == half.features["spatial"].dtype == np.float32


def test_augmented_data_is_not_scored() -> None:
    data = _data()
    data.augment = True
    with pytest.raises(ValueError, match="augment=True"):
        score(_model(), data)
